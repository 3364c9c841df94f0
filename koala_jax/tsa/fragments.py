"""What a scorer sees of a video: pieces at native resolution, spliced into small clips (FAST-VQA, arXiv 2207.02595; Koala-36M's settings).

In time a video of N frames is cut into `clips` segments; clip k starts at k·⌊N / clips⌋, plus a draw below what the segment has to spare,
and takes `frames` frames, every `interval`-th. In space a frame is cut into grid × grid cells; each gives one piece of patch × patch
pixels at a place drawn once a clip. A frame smaller than the spliced clip is enlarged first, and the cells stay where the smaller
frame had them: so does the official code, and so its weights have learned it.

A draw depends on the seed and its number alone. This module imports neither jax nor jaxtyping: decoding workers use it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import cv2
import numpy as np

from core_jax.words import counted

if TYPE_CHECKING:
    from jaxtyping import Float32, Int, UInt8

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""of ImageNet's pixels, RGB, 0 to 255"""
IMAGE = 224
"""rows and columns of the static branch's frame, whatever the video's aspect"""


@dataclasses.dataclass(frozen=True)
class FragmentConfig:
    """How a video is sampled; the defaults are Koala-36M's."""

    frames: int = 32
    """T of a clip"""
    interval: int = 2
    """frames of the video from one of a clip to the next"""
    clips: int = 4
    """clips of a video, whose scores are averaged"""
    grid: int = 7
    """pieces in a row and in a column"""
    patch: int = 32
    """rows and columns of a piece, in pixels"""

    @property
    def size(self) -> int:
        """Rows and columns of a clip."""
        return self.grid * self.patch

    def check(self, frames: int, height: int, width: int) -> None:
        """Raises ValueError where a video is too short or too small to be sampled."""
        if frames < self.frames * self.interval:
            raise ValueError(f"has {counted(frames, 'frame')}, and a score needs {self.frames * self.interval}")
        if min(height, width) < self.patch:
            raise ValueError(f"is {height}×{width} pixels, and a score needs at least {self.patch} rows and columns")


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """One random choice for a video: frame numbers, and the upper left corner of every piece."""

    numbers: Int[np.ndarray, "clips T"]
    corners: Int[np.ndarray, "clips grid grid 2"]


def draw(config: FragmentConfig, frames: int, height: int, width: int, seed: int, number: int = 0) -> Draw:
    """The choice of this number for any video of this length and size.

    Raises:
      ValueError: the video is too short or too small.
    """
    config.check(frames, height, width)
    rng = np.random.default_rng([seed, number])
    segment = frames // config.clips
    spare = max(segment - config.frames * config.interval, 0)
    starts = segment * np.arange(config.clips) + _below(rng, spare, config.clips)
    numbers = (starts[:, None] + config.interval * np.arange(config.frames)) % frames
    corners = np.stack([_corners(rng, size, config, axis) for axis, size in enumerate((height, width))], -1)
    return Draw(numbers, corners)


def _below(rng: np.random.Generator, bound: int, shape) -> np.ndarray:
    return rng.integers(0, bound, shape) if bound > 0 else np.zeros(shape, int)


def _corners(rng: np.random.Generator, size: int, config: FragmentConfig, axis: int) -> np.ndarray:
    cell = size // config.grid
    origin = np.minimum(cell * np.arange(config.grid), size - config.patch)
    offset = _below(rng, cell - config.patch, (config.clips, config.grid, config.grid))
    return offset + (origin[:, None] if axis == 0 else origin)


class Splicer:
    """Fills the clips of some draws, frame after frame; frames may come in any order, each once."""

    def __init__(self, config: FragmentConfig, draws: list[Draw], frames: int):
        self.config, self.draws = config, draws
        self.clips = np.zeros((len(draws), config.clips, config.frames, config.size, config.size, 3), np.uint8)
        self.image = np.zeros((IMAGE, IMAGE, 3), np.uint8)
        self.middle = frames // 2
        self.wanted = {self.middle} | {int(n) for d in draws for n in d.numbers.ravel()}

    def add(self, number: int, frame: UInt8[np.ndarray, "H W 3"]) -> None:
        """Takes what the draws want of this frame, the middle one also as the picture for the static branch."""
        if number == self.middle:
            self.image = cv2.resize(frame, (IMAGE, IMAGE), interpolation=cv2.INTER_LINEAR)
        if number in self.wanted:
            frame = enlarged(frame, self.config.size)
            for clips, d in zip(self.clips, self.draws):
                for clip, place in zip(*np.nonzero(d.numbers == number)):
                    splice(frame, d.corners[clip], self.config.patch, clips[clip, place])


def enlarged(frame: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "h w 3"]:
    """The frame, bilinearly enlarged where a side is shorter than `size`."""
    height, width = frame.shape[:2]
    scale = size / min(height, width)
    return frame if scale <= 1 else cv2.resize(frame, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_LINEAR)


def splice(frame: UInt8[np.ndarray, "H W 3"], corners: Int[np.ndarray, "grid grid 2"], patch: int, out: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes the pieces of a frame side by side."""
    for row, column in np.ndindex(corners.shape[:2]):
        top, left = corners[row, column]
        out[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = frame[top : top + patch, left : left + patch]


def normalised(
    pixels: UInt8[np.ndarray, "... 3"], mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> Float32[np.ndarray, "... 3"]:
    """(x − mean) / std, with ImageNet's by default; on numpy or jax arrays alike."""
    xp = pixels.__array_namespace__()
    shape = (1,) * (pixels.ndim - 1) + (3,)
    mean, std = (xp.asarray(x, dtype=xp.float32).reshape(shape) for x in (mean, std))
    return (pixels.astype(xp.float32) - mean) / std
