"""A video as VBench-Long takes it: clips of 2 s, each with its figures and its frames as the embeddings want them.

A video of at most 3 s, to the nearest frame, is one clip. A longer one is cut into clips of 2 s from its beginning; what is left at the end and is shorter is
extended backwards to 2 s, over frames of the clip before. One clip at a time is in memory. Runs in decoding workers, without jax.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from core_jax import video as files
from core_jax.words import counted
from videodit_jax.evaluate import quality
from videodit_jax.evaluate.totals import Dimension
from videodit_jax.evaluate.views import View

if TYPE_CHECKING:
    from jaxtyping import UInt8

cv2.setNumThreads(1)  # as many workers run as the machine has room for

CLIP_SECONDS, LONG_SECONDS = 2, 3
LEAST = 3
"""frames that a video must have: two, and one between them"""


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """What the main process needs of one."""

    figures: dict[Dimension, float]
    size: tuple[int, int]
    """H, W of the video"""
    views: dict[View, UInt8[np.ndarray, "T h w 3"]]


def cut(frames: int, fps: float) -> list[range]:
    """The frames of each clip, by the rule at the top."""
    length = round(CLIP_SECONDS * fps)
    if frames <= round(LONG_SECONDS * fps) or length < LEAST:  # stamps in whole milliseconds make 3 s at 30 a second 89.99 frames
        return [range(frames)]
    whole = [range(i, i + length) for i in range(0, frames - length + 1, length)]
    return whole if whole[-1].stop == frames else [*whole, range(frames - length, frames)]


def look(frames: Iterable[UInt8[np.ndarray, "H W 3"]], count: int, fps: float, views: Iterable[View]) -> Iterator[Clip]:
    """The clips of `count` frames in order; take what you need of one before you ask for the next.

    Raises:
      ValueError: too few frames to judge, or fewer than said.
    """
    if count < LEAST:
        raise ValueError(f"has {counted(count, 'frame')}, and at least {LEAST} are needed")
    held, given, done = None, iter(frames), 0
    for clip in cut(count, fps):  # all are equally long, so one stretch of memory serves them
        again = done - clip.start
        if again:
            held[:again] = held[-again:]
        for i in range(again, len(clip)):
            frame = next(given, None)
            if frame is None:
                raise ValueError(f"breaks off: {done} of its {count} frames decode")
            held = np.empty((len(clip), *frame.shape), np.uint8) if held is None else held
            held[i], done = frame, done + 1
        yield seen(held, fps, views)


def read(source: files.Source, views: tuple[View, ...]) -> Iterator[Clip]:
    """The clips of a file. Raises VideoError, also where it ends before the time that it declares."""
    info = files.probe(source)
    if short := files.shortfall(source, info.duration):
        raise files.VideoError(files.name(source), short)
    try:
        yield from look((rgb for _, _, rgb in files.frames(source)), len(info.seconds), info.fps, views)
    except files.VideoError:
        raise
    except (ValueError, cv2.error) as error:
        raise files.VideoError(files.name(source), str(error)) from error


def seen(clip: UInt8[np.ndarray, "T H W 3"], fps: float, views: Iterable[View]) -> Clip:
    """One clip."""
    figures = {
        Dimension.TEMPORAL_FLICKERING: quality.temporal_flickering(clip),
        Dimension.MOTION_SMOOTHNESS: quality.motion_smoothness(clip),
        Dimension.DYNAMIC_DEGREE: float(quality.dynamic_degree(clip, fps)),
        Dimension.CLARITY: quality.clarity(clip),
    }
    return Clip(figures, clip.shape[1:3], {view: view(clip) for view in views})
