"""How sharp a clip is, at its own resolution: variance of the Laplacian (Pech-Pacheco et al. 2000) of at most 8 frames.

    l = 3×3 Laplacian of luma,  v = its variance,  clarity = median over the frames of v / (v + 100)
    smooth_area = median over the frames of the share of pixels with |l| ≤ 1
    e_k = mean max(|l| − 2, 0) of the picture made smaller k times by 2,  fine_detail = median of e_0 / (e_0 + e_1 + 1),  middle_detail of
    e_1 / (e_1 + e_2 + 1)

100 is a choice: about where edges begin to look soft. smooth_area grows where fine detail is blurred or compressed away, and hardly
changes with the sharp letters that raise clarity. The two shares of detail fall where it is blurred or compressed away, whether a picture
has much of it or little; one that was scaled up has little fine detail, and the middle tells. Clarity ranks a clip against blurred or compressed versions of itself; across
contents it follows texture too, and does not rank like Koala-36M's clarity, whose model is unknown.
"""

from __future__ import annotations

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame, spread

FRAMES = 8
HALF = 100.0
ROUNDED = 2
"""as much is made of whole numbers where there is nothing"""
FLAT = 1.0
"""levels that are as good as none"""


class Clarity:
    """clarity: 0 (no edge) to 1. smooth_area: share of the picture without fine detail, 0 to 1. fine_detail, middle_detail: shares of what is
    seen at two neighbouring scales, 0 to 1."""

    columns = ("clarity", "smooth_area", "fine_detail", "middle_detail")

    def __init__(self, frames: int):
        self.wanted, self.values = spread(frames, FRAMES), []

    def add(self, frame: Frame) -> None:
        if frame.number in self.wanted:
            detail = cv2.Laplacian(frame.native_grey, cv2.CV_16S)
            variance, steep = float(cv2.meanStdDev(detail)[1].item()) ** 2, np.abs(detail)
            half = cv2.pyrDown(frame.native_grey.astype(np.float32))
            smaller = [np.abs(cv2.Laplacian(x, cv2.CV_32F)) for x in (half, cv2.pyrDown(half))]
            fine, middle, coarse = (np.maximum(x - ROUNDED, 0).mean() for x in (steep, *smaller))
            smooth = (steep <= 1).mean()
            self.values.append((variance / (variance + HALF), smooth, fine / (fine + middle + FLAT), middle / (middle + coarse + FLAT)))

    def result(self) -> dict[str, float]:
        values = np.median(self.values, 0) if self.values else [np.nan] * len(self.columns)
        return dict(zip(self.columns, map(float, values)))
