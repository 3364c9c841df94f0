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
    """Gathers `number` frames, evenly spread: the middles of as many equal parts."""

    def __init__(self, frames: int, number: int):
        self.wanted = {int((i + 0.5) * frames / number) for i in range(number)}
        self.taken: list[UInt8[np.ndarray, "224 224 3"]] = []

    def add(self, frame: Frame) -> None:
        """Takes it if it is wanted."""
        if frame.number in self.wanted:
            self.taken.append(covered(frame.native()))


def covered(rgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "224 224 3"]:
    """The centre of a frame."""
    return cover(rgb, SIZE, SIZE, Image.Resampling.BICUBIC)
