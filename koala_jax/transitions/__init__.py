"""Where one shot becomes another: what every detector takes and gives.

A detector sees the frames of one stream in order and keeps a bounded number of them; frames count from 0, and pair i is
frames i and i + 1. Detectors run in decoding processes, so nothing that they import may import jax.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import av
    import numpy as np
    from jaxtyping import Float64


class Type(enum.Enum):
    """Kinds of transition."""

    CUT = "cut"
    DISSOLVE = "dissolve"
    FADE = "fade"
    """through, from or to one colour"""
    WIPE = "wipe"
    """a border that passes over the frame, straight or round"""
    SLIDE = "slide"
    """one picture pushes the other away"""
    UNKNOWN = "unknown"


class Method(enum.Enum):
    """Detectors."""

    OFFICIAL = "official"
    """Koala-36M's analyzer, bit for bit"""
    LEARNED = "learned"
    """several frame distances, blocks, motion, and a classifier trained on them"""


class Backend(enum.Enum):
    """Where the features and scores of frames are computed."""

    AUTO = "auto"
    """on an accelerator where JAX has one and the detector can use it"""
    CPU = "cpu"
    """in the decoding processes, by OpenCV"""
    ACCELERATOR = "accelerator"
    """in the main process, by JAX, on batches of frames that the decoding processes have made small"""


@dataclasses.dataclass(frozen=True)
class Transition:
    """`start_frame` to `end_frame`, both included, are mixed or new; a cut has its first new frame as both."""

    start_frame: int
    end_frame: int
    type: Type
    score: float
    """as the detector says; `official`: the lowest SVM score of its pairs"""


@dataclasses.dataclass(frozen=True, eq=False)
class Detection:
    """What a detector found in a stream."""

    transitions: list[Transition]
    clips: list[tuple[int, int]]
    """first frame, and the frame after the last, of every clip without transition"""
    scores: dict[str, Float64[np.ndarray, " T-1"]]
    """columns with one value a pair of neighbours; the first is the one that the decision rests on"""
    doubt: tuple[float, Transition] | None = None
    """by how much the nearest decision was made, and on what: one of `transitions`, or what would have been the next one"""


class Detector(Protocol):
    """One stream's detector."""

    def push(self, frame: av.VideoFrame, seconds: float) -> None:
        """Takes the next frame as decoded (`core_jax.video.decode`), and makes of it the pixels that it wants."""

    def finish(self) -> Detection:
        """The stream has ended, after any number of frames."""


def detector(method: Method) -> Detector:
    """A new detector for one stream."""
    match method:
        case Method.OFFICIAL:
            from koala_jax.transitions.official import Official

            return Official()
        case Method.LEARNED:
            from koala_jax.transitions.learned import Learned

            return Learned()
