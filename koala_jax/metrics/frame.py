"""One frame as the metrics see it; what several of them need is worked out once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import UInt8

LONG_SIDE = 256
"""pixels of the longer side of the small frame; the shape that is shown is kept"""


def small_size(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the small frame; one that is smaller already stays."""
    scale = min(LONG_SIDE / max(height, width), 1)
    return max(round(height * scale), 1), max(round(width * scale), 1)


class Frame:
    """number: of the frame, from 0; rgb: small; `native()`: at the video's own size, which costs."""

    def __init__(self, number: int, rgb: UInt8[np.ndarray, "h w 3"], native: Callable[[], UInt8[np.ndarray, "H W 3"]]):
        self.number, self.rgb = number, rgb
        self.native = functools.cache(native)

    @functools.cached_property
    def grey(self) -> UInt8[np.ndarray, "h w"]:
        """Luma of BT.601, 0 to 255."""
        return cv2.cvtColor(self.rgb, cv2.COLOR_RGB2GRAY)

    @functools.cached_property
    def native_grey(self) -> UInt8[np.ndarray, "H W"]:
        """The same at the video's own size."""
        return cv2.cvtColor(self.native(), cv2.COLOR_RGB2GRAY)


def spread(frames: int, most: int) -> set[int]:
    """The numbers of at most `most` frames, evenly over all."""
    return set(np.linspace(0, frames - 1, min(frames, most)).astype(int).tolist())
