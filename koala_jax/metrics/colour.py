"""How colourful a clip is, over at most 32 frames.

    rg = R − G,  yb = (R + G)/2 − B
    colourfulness = √(σ²_rg + σ²_yb) + 0.3 √(μ²_rg + μ²_yb)             Hasler & Süsstrunk 2003, equations 1 to 3
"""

from __future__ import annotations

import numpy as np

from koala_jax.metrics.frame import Frame, spread

FRAMES = 32


class Colour:
    """The columns below, means over the frames."""

    columns = ("saturation", "colourfulness")
    """saturation: mean of (max − min)/max of R, G, B, 0 to 1. colourfulness: 0 (grey) to about 110, in levels of 0 to 255."""

    def __init__(self, frames: int):
        self.wanted, self.values = spread(frames, FRAMES), []

    def add(self, frame: Frame) -> None:
        if frame.number not in self.wanted:
            return
        r, g, b = np.moveaxis(frame.rgb[::2, ::2], -1, 0).astype(np.float32, order="C")
        high, low = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
        rg, yb = r - g, (r + g) / 2 - b
        colourfulness = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
        self.values.append((((high - low) / np.maximum(high, 1)).mean(), colourfulness))

    def result(self) -> dict[str, float]:
        values = np.mean(self.values, 0) if self.values else (np.nan, np.nan)
        return dict(zip(self.columns, map(float, values)))
