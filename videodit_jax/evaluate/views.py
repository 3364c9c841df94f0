"""Frames as the models of pictures want them: resized, then perhaps the centre cut out (section by section as VBench does it).

Resizing is bilinear, bicubic (a = −¾) or by area; the first two do not smooth before they shrink, as torch's with antialias=False, which
is what VBench asks for. numpy and OpenCV alone: decoding workers run this.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import UInt8


class Kernel(enum.Enum):
    """How to resize."""

    BILINEAR = cv2.INTER_LINEAR
    BICUBIC = cv2.INTER_CUBIC
    AREA = cv2.INTER_AREA


@dataclasses.dataclass(frozen=True)
class View:
    """One way to prepare frames."""

    resize: int | tuple[int, int]
    """pixels of the shorter side, where the shape is kept, or (h, w)"""
    kernel: Kernel
    crop: int | None = None
    """rows and columns of the centre"""

    def __call__(self, video: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T h w 3"]:
        """The frames, prepared."""
        H, W = video.shape[1:3]
        side = self.resize
        h, w = side if isinstance(side, tuple) else (side, int(side * W / H)) if H <= W else (int(side * H / W), side)
        if (h, w) != (H, W):
            video = np.stack([cv2.resize(x, (w, h), interpolation=self.kernel.value) for x in video])
        if self.crop is None:
            return video
        top, left = round((h - self.crop) / 2), round((w - self.crop) / 2)
        return video[:, top : top + self.crop, left : left + self.crop]
