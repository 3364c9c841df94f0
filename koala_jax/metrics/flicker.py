"""Light that comes and goes from frame to frame, which neither motion nor a slow change of exposure explains.

    flicker = mean |m_{t−1} − 2 m_t + m_{t+1}| / 2,   m = mean luma of a frame, 0 to 255
"""

from __future__ import annotations

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame


class Flicker:
    """flicker: levels of 0 to 255; NaN for fewer than three frames."""

    columns = ("flicker",)

    def __init__(self, frames: int):
        self.means = []

    def add(self, frame: Frame) -> None:
        self.means.append(cv2.mean(frame.grey)[0])

    def result(self) -> dict[str, float]:
        return {"flicker": float(np.abs(np.diff(self.means, 2)).mean() / 2) if len(self.means) > 2 else np.nan}
