"""How light lies over a clip, from the luma of every frame: means over pixels and frames."""

from __future__ import annotations

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
        self.histogram, self.contrasts = np.zeros(256), []

    def add(self, frame: Frame) -> None:
        counts = np.bincount(frame.grey.ravel(), minlength=256)
        share, levels = counts / counts.sum(), np.arange(256) / 255
        mean = share @ levels
        self.histogram += share
        self.contrasts.append(np.sqrt(max(share @ levels**2 - mean**2, 0)))

    def result(self) -> dict[str, float]:
        share = self.histogram / max(len(self.contrasts), 1)
        values = share @ np.arange(256) / 255, np.mean(self.contrasts), share[: DARK + 1].sum(), share[BRIGHT:].sum()
        return dict(zip(self.columns, map(float, values)))
