"""One pass over a video's decoded frames: every metric asked for, and the pieces that a scorer wants. Runs in a decoding worker."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import cv2
import numpy as np

from core_jax import video
from koala_jax.metrics import Metric
from koala_jax.metrics.frame import Frame, small_size
from koala_jax.metrics.pictures import Pictures
from koala_jax.tsa.fragments import FragmentConfig, Splicer, draw

if TYPE_CHECKING:
    import av
    from jaxtyping import UInt8

cv2.setNumThreads(1)  # as many workers run as the machine has room for


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to take from a video."""

    metrics: tuple[Metric, ...]
    fragments: FragmentConfig | None
    """none: no scorer is asked"""
    draws: int = 1
    seed: int = 0
    pictures: int = 0
    """whole frames for a model of pictures"""


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What one pass gave."""

    columns: dict[str, float | int | str | None]
    clips: UInt8[np.ndarray, "draws clips T h w 3"] | None
    image: UInt8[np.ndarray, "224 224 3"] | None
    pictures: UInt8[np.ndarray, "n 224 224 3"] | None
    unscored: str | None
    """why there are no clips for the scorer, where it asked for some"""
    broken: str | None = None
    """where the video ends before the time that it declares"""


def measure(source: video.Source, plan: Plan) -> Measured:
    """Decodes a video once. Raises VideoError, also where it has fewer frames than its index says."""
    info = video.probe(source)
    frames, own = len(info.seconds), (info.height, info.width)
    shown = info.shown if all(info.shown) else own  # a side of no pixel is as wrong as it is rare
    size, aspect = small_size(*shown), math.prod(shown) / math.prod(own)

    def native(picture: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
        return video.to_rgb(picture, None if video.upright_size(picture) == own else own)  # a stream may change its size midway

    decoded = (
        Frame(number, video.to_rgb(picture, size, aspect), functools.partial(native, picture)) for number, _, picture in video.decode(source)
    )
    try:
        result = collect(decoded, frames, own, shown, plan)
    except (EOFError, cv2.error) as error:
        raise video.VideoError(video.name(source), str(error)) from error
    about = {
        "frames": frames, "seconds": info.duration, "fps": info.fps, "height": info.height, "width": info.width,
        "bits_per_pixel": 8 * info.bytes / (frames * info.height * info.width), "transfer": info.transfer,
    }  # fmt: skip
    return dataclasses.replace(result, columns=about | result.columns, broken=video.shortfall(source, info.duration))


def measure_pixels(frames: UInt8[np.ndarray, "T H W 3"], plan: Plan) -> Measured:
    """The same of pixels in memory."""
    h, w = small_size(*frames.shape[1:3])
    small = (Frame(n, cv2.resize(rgb, (w, h), interpolation=cv2.INTER_AREA), lambda rgb=rgb: rgb) for n, rgb in enumerate(frames))
    return collect(small, len(frames), frames.shape[1:3], frames.shape[1:3], plan)


def collect(decoded: Iterable[Frame], frames: int, size: tuple[int, int], shown: tuple[int, int], plan: Plan) -> Measured:
    """What the plan wants of frames in order, of (H, W) as they are stored and as they are shown. Raises EOFError where there are fewer than said.

    A scorer sees pieces of what is stored, as the official code cuts them and as quality wants: to resize is to blur.
    """
    splicer, unscored = None, None
    if plan.fragments:
        try:
            splicer = Splicer(plan.fragments, [draw(plan.fragments, frames, *size, plan.seed, n) for n in range(plan.draws)], frames)
        except ValueError as error:
            unscored = str(error)
    measuring, count = [metric.kind(frames) for metric in plan.metrics], 0
    pictures = Pictures(frames, plan.pictures, shown)
    for frame in decoded:
        for each in (*measuring, pictures):
            each.add(frame)
        if splicer and frame.number in splicer.wanted:
            splicer.add(frame.number, frame.native())
        count += 1
    if count != frames:
        raise EOFError(f"breaks off: {count} of its {frames} frames decode")
    columns = {name: None if np.isnan(value) else value for each in measuring for name, value in each.result().items()}
    return Measured(columns, splicer and splicer.clips, splicer and splicer.image, np.stack(pictures.taken) if pictures.taken else None, unscored)
