"""One pass over a video's decoded frames: every metric asked for, and the pieces that a scorer wants. Runs in a decoding worker."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import cv2
import numpy as np

from core_jax import video
from koala_jax.metrics import Metric
from koala_jax.metrics.frame import Frame, small_size
from koala_jax.tsa.fragments import FragmentConfig, Splicer, draw

if TYPE_CHECKING:
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


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What one pass gave."""

    columns: dict[str, float | int | str | None]
    clips: UInt8[np.ndarray, "draws clips T h w 3"] | None
    image: UInt8[np.ndarray, "224 224 3"] | None
    unscored: str | None
    """why there are no clips for the scorer, where it asked for some"""


def measure(source: video.Source, plan: Plan) -> Measured:
    """Decodes a video once. Raises VideoError, also where it has fewer frames than its index says."""
    info = video.probe(source)
    frames = len(info.seconds)
    splicer, unscored = None, None
    if plan.fragments:
        try:
            draws = [draw(plan.fragments, frames, info.height, info.width, plan.seed, n) for n in range(plan.draws)]
            splicer = Splicer(plan.fragments, draws, frames)
        except ValueError as error:
            unscored = str(error)
    measuring = [metric.kind(frames) for metric in plan.metrics]
    size, count = small_size(info.height, info.width), 0
    for number, _, picture in video.decode(source):
        frame = Frame(number, video.to_rgb(picture, size), lambda picture=picture: video.to_rgb(picture))
        for each in measuring:
            each.add(frame)
        if splicer and number in splicer.wanted:
            splicer.add(number, frame.native())
        count = number + 1
    if count != frames:
        raise video.VideoError(video.name(source), f"breaks off: {count} of its {frames} frames decode")
    size_bytes = len(source) if isinstance(source, bytes) else os.stat(source).st_size
    columns = {
        "frames": frames, "seconds": info.duration, "fps": info.fps, "height": info.height, "width": info.width,
        "bits_per_pixel": 8 * size_bytes / (frames * info.height * info.width),
    }  # fmt: skip
    for each in measuring:
        columns |= {name: None if np.isnan(value) else value for name, value in each.result().items()}
    return Measured(columns, splicer and splicer.clips, splicer and splicer.image, unscored)
