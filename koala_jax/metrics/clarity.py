"""How sharp a clip is, at its own resolution: variance of the Laplacian (Pech-Pacheco et al. 2000) of at most 8 frames.

    l = 3×3 Laplacian of luma,  v = its variance,  clarity = median over the frames of v / (v + 100)
    smooth_area = median over the frames of the share of pixels with |l| ≤ 1

100 is a choice: about where edges begin to look soft. smooth_area grows where fine detail is blurred or compressed away, and hardly
changes with the sharp letters that raise clarity. Clarity ranks a clip against blurred or compressed versions of itself; across
contents it follows texture too, and does not rank like Koala-36M's clarity, whose model is unknown.
"""

from __future__ import annotations

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame, spread

FRAMES = 8
HALF = 100.0


class Clarity:
    """clarity: 0 (no edge) to 1. smooth_area: share of the picture without fine detail, 0 to 1."""

    columns = ("clarity", "smooth_area")

    def __init__(self, frames: int):
        self.wanted, self.values = spread(frames, FRAMES), []

    def add(self, frame: Frame) -> None:
        if frame.number in self.wanted:
            grey = cv2.cvtColor(frame.native(), cv2.COLOR_RGB2GRAY)
            detail = cv2.Laplacian(grey, cv2.CV_32F)
            variance = float(detail.var())
            self.values.append((variance / (variance + HALF), float((np.abs(detail) <= 1).mean())))

    def result(self) -> dict[str, float]:
        values = np.median(self.values, 0) if self.values else (np.nan, np.nan)
        return dict(zip(self.columns, map(float, values)))
