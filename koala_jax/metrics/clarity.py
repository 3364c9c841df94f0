"""How sharp a clip is, at its own resolution: variance of the Laplacian (Pech-Pacheco et al. 2000) of at most 8 frames.

    v = variance of the 3×3 Laplacian of luma,  clarity = median over the frames of v / (v + 100)

100 is a choice: about where edges begin to look soft. This ranks a clip against blurred or compressed versions of itself; across
contents it follows texture too, and does not rank like Koala-36M's clarity, whose model is unknown.
"""

from __future__ import annotations

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame, spread

FRAMES = 8
HALF = 100.0


class Clarity:
    """clarity: 0 (no edge) to 1."""

    columns = ("clarity",)

    def __init__(self, frames: int):
        self.wanted, self.values = spread(frames, FRAMES), []

    def add(self, frame: Frame) -> None:
        if frame.number in self.wanted:
            grey = cv2.cvtColor(frame.native(), cv2.COLOR_RGB2GRAY)
            variance = float(cv2.Laplacian(grey, cv2.CV_32F).var())
            self.values.append(variance / (variance + HALF))

    def result(self) -> dict[str, float]:
        return {"clarity": float(np.median(self.values)) if self.values else np.nan}
