"""Edges that an encoder's blocks leave: how much steeper luma is across the grid of 8×8 blocks than beside it (after Wang, Bovik & Evans 2000).

    g_k = mean |luma(x + 1) − luma(x)| over all columns x with x mod 8 = k, at the video's own size; the same of rows
    b = max_k g_k / median_k g_k,  blockiness = median over at most 8 frames of 1 − 1/b, of columns or of rows, whichever is more

The grid may begin anywhere, as it does in a picture that was cut out of another; one that was scaled has none.
"""

from __future__ import annotations

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame, spread

FRAMES, BLOCK = 8, 8
FLAT = 0.05
"""levels a pixel that are as good as none"""


class Blockiness:
    """blockiness: 0 (no grid) to 1."""

    columns = ("blockiness",)

    def __init__(self, frames: int):
        self.wanted, self.values = spread(frames, FRAMES), []

    def add(self, frame: Frame) -> None:
        if frame.number not in self.wanted or min(frame.native().shape[:2]) <= BLOCK:
            return
        grey = frame.native_grey
        steepness = [cv2.absdiff(a, b).mean(axis) for a, b, axis in ((grey[:, 1:], grey[:, :-1], 0), (grey[1:], grey[:-1], 1))]
        lines = np.array([[g[k::BLOCK].mean() for k in range(BLOCK)] for g in steepness]) + FLAT
        self.values.append((1 - np.median(lines, 1) / lines.max(1)).max())

    def result(self) -> dict[str, float]:
        return {"blockiness": float(np.median(self.values)) if self.values else np.nan}
