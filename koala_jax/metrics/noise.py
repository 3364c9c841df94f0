"""How much a clip's pixels tremble at random, at its own resolution: the noise estimate of Immerkær (1996) with a median for his mean.

    r = luma ∗ [1 −2 1; −2 4 −2; 1 −2 1],  σ = median |r| / (6 · 0.6745),  noise = median over at most 8 frames of σ

The filter is blind to edges and slopes, and the median to the fine texture of less than half of the picture. What covers more than half
counts as noise.
"""

from __future__ import annotations

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame, spread

FRAMES = 8
KERNEL = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
SCALE = 6 * 0.6745
"""of white noise of σ = 1, the filter's standard deviation and the median of |x| in units of it"""


class Noise:
    """noise: standard deviation of luma, levels of 0 to 255."""

    columns = ("noise",)

    def __init__(self, frames: int):
        self.wanted, self.values = spread(frames, FRAMES), []

    def add(self, frame: Frame) -> None:
        if frame.number in self.wanted:
            response = cv2.filter2D(cv2.cvtColor(frame.native(), cv2.COLOR_RGB2GRAY), cv2.CV_32F, KERNEL)
            self.values.append(float(np.median(np.abs(response))) / SCALE)

    def result(self) -> dict[str, float]:
        return {"noise": float(np.median(self.values)) if self.values else np.nan}
