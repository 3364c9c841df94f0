"""How light lies over a clip, from the luma of every frame: means over pixels and frames."""

from __future__ import annotations

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame

DARK, BRIGHT = 16, 239
"""luma up to and from which detail is taken for lost"""


class Exposure:
    """The columns below."""

    columns = ("brightness", "contrast", "dark_area", "bright_area")
    """brightness: mean luma, 0 to 1. contrast: its standard deviation within a frame (RMS contrast, Peli 1990), 0 to 0.5.
    dark_area, bright_area: shares of pixels that are nearly black, nearly white."""

    def __init__(self, frames: int):
        self.counts = []

    def add(self, frame: Frame) -> None:
        self.counts.append(cv2.calcHist([frame.grey], [0], None, [256], [0, 256]).ravel())

    def result(self) -> dict[str, float]:
        if not self.counts:
            return dict.fromkeys(self.columns, np.nan)
        counts, levels = np.array(self.counts, float), np.arange(256) / 255
        shares = counts / counts.sum(1, keepdims=True)
        contrasts = np.sqrt(np.maximum(shares @ levels**2 - (shares @ levels) ** 2, 0))
        share = shares.mean(0)
        values = share @ levels, contrasts.mean(), share[: DARK + 1].sum(), share[BRIGHT:].sum()
        return dict(zip(self.columns, map(float, values)))
