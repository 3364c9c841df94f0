"""Something drawn over the picture, such as a logo or a watermark: edges that stay where they are while the rest changes.

Over at most 24 frames, e_p is the share of frames in which pixel p lies on an edge (Canny), d_p the standard deviation of its luma:

    overlay = share of pixels with e_p ≥ 0.9 and d_p below a quarter of the median of d      0 where the median is below 2 levels

A still picture has no measurable overlay, and a fixed camera's background counts as one where most of the picture moves.
"""

from __future__ import annotations

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame, spread

FRAMES = 24


class Overlay:
    """overlay: share of the picture's area, 0 to 1."""

    columns = ("overlay",)

    def __init__(self, frames: int):
        self.wanted, self.edges, self.greys = spread(frames, FRAMES), [], []

    def add(self, frame: Frame) -> None:
        if frame.number in self.wanted:
            self.edges.append(cv2.Canny(frame.grey, 100, 200) > 0)
            self.greys.append(frame.grey)

    def result(self) -> dict[str, float]:
        if not self.greys:
            return {"overlay": np.nan}
        deviation = np.stack(self.greys).astype(np.float32).std(0)
        usual = float(np.median(deviation))
        if usual < 2:
            return {"overlay": 0.0}
        stays = (np.mean(self.edges, 0) >= 0.9) & (deviation < usual / 4)
        return {"overlay": float(stays.mean())}
