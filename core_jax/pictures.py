"""Pictures at the size that a model takes."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from jaxtyping import UInt8


def cover(
    picture: UInt8[np.ndarray, "H W 3"], height: int, width: int, how: Image.Resampling, shown: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture resized so that it just covers the size, and the middle of it: of a wider one the sides are lost.

    Args:
      shown: its (H, W) in square pixels, where its own are not.
    """
    H, W = shown or picture.shape[:2]
    scale = max(height / H, width / W)
    rows, columns = max(height, round(H * scale)), max(width, round(W * scale))
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.asarray(Image.fromarray(picture).resize((columns, rows), how))[top : top + height, left : left + width]
