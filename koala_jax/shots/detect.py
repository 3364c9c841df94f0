"""One video through a detector, in a decoding worker: what `core_jax.video_worker` runs."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from core_jax import video
from koala_jax.transitions import Detection, Method, css
from koala_jax.transitions import detector as new_detector

if TYPE_CHECKING:
    import av
    from jaxtyping import Float64, UInt8

EVERY = 64
"""frames of a report"""

Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """A stream as decoded: upright size in pixels, (H, W) as it is `shown`, in square ones, the seconds at which each frame is shown, and when the
    last one ends."""

    height: int
    width: int
    shown: tuple[int, int]
    seconds: Float64[np.ndarray, " T"]
    end: float
    broken: str | None
    """why the stream ended too early; what stood before is good"""

    def at(self, frame: int) -> float:
        """When a frame is shown; after the last one, when that one ends."""
        return float(self.seconds[frame]) if frame < len(self.seconds) else self.end


def detect(source: str, method: Method) -> Generator[list[None], None, tuple[Seen, Detection]]:
    """Reports as `watch` does. Raises VideoError."""
    detector = new_detector(method)
    seen = yield from watch(source, detector.push)
    return seen, detector.finish()


def shrunk(source: str) -> Generator[list[UInt8[np.ndarray, "256 256 3"]], None, Seen]:
    """Reports the frames themselves, as small as Color-Struct SVM wants them, for an accelerator. Raises VideoError."""
    return watch(source, lambda frame, seconds: css.shrink(video.to_bgr(frame)))


def watch(source: str, push: Callable[[av.VideoFrame, float], Made]) -> Generator[list[Made], None, Seen]:
    """Calls `push` with every frame, and reports what it made of them, EVERY frames at a time.

    Raises VideoError where there are less than two, or times go back: one then names two frames, and a clip could be cut from the wrong place.
    """
    stamps, made, last, broken = array.array("d"), [], None, None
    try:
        for _, seconds, last in video.decode(source):
            made.append(push(last, seconds))
            stamps.append(seconds)
            if len(made) == EVERY:
                yield made
                made = []
    except video.VideoError as error:
        if not stamps:
            raise
        broken = f"breaks after {stamps[-1] - stamps[0]:.1f} s: {error.reason}"
    if len(stamps) < 2:
        raise video.VideoError(video.name(source), f"holds {'one frame' if stamps else 'no frame'}, where a transition takes two")
    seconds = np.array(stamps)
    if (back := np.flatnonzero(np.diff(seconds) < 0)).size:
        at = back[0]
        raise video.VideoError(video.name(source), f"its times go back, after frame {at} from {seconds[at]:.2f} to {seconds[at + 1]:.2f} s")
    if made:
        yield made
    span = stamps[-1] - stamps[0]
    length = video.to_seconds(last.duration or None, last.time_base) or span / (len(stamps) - 1)
    with video.opened(source) as (_, stream):  # which knows the aspect of a pixel, as frames do not
        shown = video.upright_size(last, float(stream.sample_aspect_ratio or 1))
    return Seen(*video.upright_size(last), shown, seconds, stamps[-1] + length, broken or video.shortfall(source, span + length))
