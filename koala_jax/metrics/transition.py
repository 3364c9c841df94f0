"""What a cutter left in: how sure the learned detector of `koala_jax.split` is that a clip holds a transition (koala_jax/transitions/learned.py).

    transition = max over pairs of consecutive frames of 1 − the probability that the pair lies within a shot

From 0.85 on `split` would cut there. The detector sees the small frame, not the video's own planes, so its numbers differ a little from those
of `split --scores`.
"""

from __future__ import annotations

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame
from koala_jax.transitions.learned import Learned
from koala_jax.transitions.thumbnail import thumbnail


class TransitionLeft:
    """transition: 0 to 1; NaN for a single frame."""

    columns = ("transition",)

    def __init__(self, frames: int):
        self.detector = Learned()

    def add(self, frame: Frame) -> None:
        h, w, _ = frame.rgb.shape
        even = cv2.copyMakeBorder(frame.rgb, 0, h % 2, 0, w % 2, cv2.BORDER_REPLICATE)
        planes, (h, w) = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420), even.shape[:2]
        u, v = planes[h:].reshape(2, h // 2, w // 2)
        self.detector.add(thumbnail(planes[:h], u, v))

    def result(self) -> dict[str, float]:
        p = self.detector.finish().scores["transition"]
        return {"transition": float(p.max()) if p.size else np.nan}
