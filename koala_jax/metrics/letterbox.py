"""Black bars along the edges: rows and columns that stay dark and even in every one of at most 16 frames."""

from __future__ import annotations

import numpy as np

from koala_jax.metrics.frame import Frame, spread

FRAMES = 16
DARK, EVEN = 24, 6
"""a line of a bar has no luma above DARK, and at most EVEN levels between its darkest and brightest pixel"""


class Letterbox:
    """letterbox: share of the picture's area that is bars, 0 to 1."""

    columns = ("letterbox",)

    def __init__(self, frames: int):
        self.wanted, self.rows, self.columns_ = spread(frames, FRAMES), None, None

    def add(self, frame: Frame) -> None:
        if frame.number not in self.wanted:
            return
        rows, columns = (_black(frame.grey, axis) for axis in (1, 0))
        self.rows = rows if self.rows is None else self.rows & rows
        self.columns_ = columns if self.columns_ is None else self.columns_ & columns

    def result(self) -> dict[str, float]:
        if self.rows is None:
            return {"letterbox": np.nan}
        return {"letterbox": 1 - _inside(self.rows) * _inside(self.columns_)}


def _black(grey: np.ndarray, axis: int) -> np.ndarray:
    low, high = grey.min(axis), grey.max(axis)
    return (high <= DARK) & (high - low <= EVEN)


def _inside(black: np.ndarray) -> float:
    """Share of the lines between the bars at both ends; a picture that is black all over has no bars."""
    lit = np.flatnonzero(~black)
    return 1.0 if not lit.size else float(lit[-1] - lit[0] + 1) / black.size
