"""Where the pairs come from: short stretches of videos, or drawn ones, each made worse in every way at every level.

A video gives several segments at different times. The first is the whole picture; the others are pieces of SIZE out of the picture at
a size drawn between SIZE and its own, so that sharpness at native resolution is seen too. What a degradation draws (the text of a
watermark, which way the exposure goes) depends on the segment: the same at all its levels, different in the next.
"""
import dataclasses
import zlib

import numpy as np
from jaxtyping import UInt8

from core_jax import video
from core_jax.video_worker import DecodePool
from koala_jax.metrics.measure import Measured, Plan, measure_pixels
from koala_jax.tsa.degrade import FASTEST, LEVELS, Degradation
from koala_jax.transitions.synthesis.shots import drawn, graded
from koala_jax.x264 import encoded

FRAMES, SIZE = 40, (216, 384)
"""frames, at least, and pixels of a degraded clip"""
RATE_FACTOR = 23

Made = list[tuple[str, int, Measured]]
"""(kind, level, measured), level after level of one kind after the other"""


def lengths(plan: Plan) -> tuple[int, int]:
    """Frames of a degraded clip, and of a segment: what the highest level of speed takes."""
    frames = max(FRAMES, plan.fragments.frames * plan.fragments.interval)
    return frames, int(FASTEST * frames)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Some frames of a video from `start` on, and a piece of SIZE out of its picture."""

    start: float
    """seconds"""
    fps: float
    frames: int
    picture: tuple[int, int]
    """rows and columns that the picture is resized to"""
    corner: tuple[int, int]
    """the piece's upper left, in that picture"""
    seed: tuple[int, ...]

    def read(self, source: str) -> UInt8[np.ndarray, "T H W 3"]:
        """Its frames."""
        return video.read_clip(source, self.start + (np.arange(self.frames) + 0.5) / self.fps, self.picture, (*self.corner, *SIZE))


def segments(name: str, path: str, number: int, plan: Plan, pool: DecodePool) -> list[Segment]:
    """So many of a video, their times evenly over it; they overlap where it is short.

    Raises:
      VideoError: it cannot be read, or is shorter than a segment.
    """
    info, (_, frames) = pool.probe(path), lengths(plan)
    fps = min(info.fps, 30.0)
    spare = info.duration - frames / fps
    if spare < -0.5 / fps:
        raise video.VideoError(name, f"is shorter than {frames} frames, which a segment takes")
    found = []
    for i in range(number):
        own = (plan.seed, zlib.crc32(name.encode()), i)
        rng = np.random.default_rng(own)
        most = max(min(info.height / SIZE[0], info.width / SIZE[1]), 1.0)
        zoom = rng.uniform(1, most) if i else 1.0
        picture = tuple(round(zoom * side) for side in SIZE)
        corner = tuple(int(rng.integers(whole - side + 1)) for whole, side in zip(picture, SIZE))
        found.append(Segment(float(info.seconds[0]) + max(spare, 0) * i / max(number - 1, 1), fps, frames, picture, corner, own))
    return found


def degrade_segment(source: str, segment: Segment, plan: Plan, kinds: tuple[Degradation, ...]) -> Made:
    """Every degradation of one segment of a video; in a worker."""
    return degradations(segment.read(source), segment.seed, plan, kinds)


def degrade_drawn(number: int, plan: Plan, kinds: tuple[Degradation, ...]) -> Made:
    """Every degradation of a procedural shot; in a worker."""
    rng = np.random.default_rng([plan.seed, number])
    return degradations(graded(drawn(lengths(plan)[1], rng, SIZE), rng), (plan.seed, number), plan, kinds)


def degradations(frames: UInt8[np.ndarray, "n H W 3"], seed: tuple[int, ...], plan: Plan, kinds: tuple[Degradation, ...]) -> Made:
    """Each kind at the levels 0 (as it was) to LEVELS, all seen through the same fragments, which are this segment's own."""
    plan = dataclasses.replace(plan, seed=zlib.crc32(repr(seed).encode()))
    length, _ = lengths(plan)
    pristine, made = _measured(frames[:length], plan), []
    for kind in kinds:
        own = (*seed, list(Degradation).index(kind))
        worse = (kind(frames, length, level, np.random.default_rng(own)) for level in range(1, LEVELS + 1))
        made += [(kind.value, level, measured) for level, measured in enumerate([pristine, *(_measured(clip, plan) for clip in worse)])]
    return made


def _measured(frames: np.ndarray, plan: Plan) -> Measured:
    """With the bits a pixel that an encoder of constant quality spends on it."""
    measured = measure_pixels(frames, plan)
    bits = 8 * len(encoded(frames, RATE_FACTOR)) / np.prod(frames.shape[:3])
    return dataclasses.replace(measured, columns=measured.columns | {"bits_per_pixel": float(bits)})
