"""Whole frames for a model of pictures: shorter side 224 by an antialiased bicubic, centre cut out, as CLIP was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from core_jax.pictures import cover
from koala_jax.metrics.frame import Frame

if TYPE_CHECKING:
    from jaxtyping import UInt8

SIZE = 224


class Pictures:
    """Gathers `number` frames, evenly spread: the middles of as many equal parts; `shown` is (H, W) in square pixels."""

    def __init__(self, frames: int, number: int, shown: tuple[int, int]):
        self.shown = shown
        self.wanted = {int((i + 0.5) * frames / number) for i in range(number)}
        self.taken: list[UInt8[np.ndarray, "224 224 3"]] = []

    def add(self, frame: Frame) -> None:
        """Takes it if it is wanted."""
        if frame.number in self.wanted:
            self.taken.append(covered(frame.native(), self.shown))


def covered(rgb: UInt8[np.ndarray, "H W 3"], shown: tuple[int, int]) -> UInt8[np.ndarray, "224 224 3"]:
    """The centre of a frame."""
    return cover(rgb, SIZE, SIZE, Image.Resampling.BICUBIC, shown)
