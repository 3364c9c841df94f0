"""Frames that show nothing new: frozen pictures, slideshows, frame rates that were raised by repeating."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame

if TYPE_CHECKING:
    from jaxtyping import Bool

DUPLICATE, STILL = 0.25, 1.0
"""mean |Δ luma| in levels of 0 to 255, below which a frame repeats the one before, or hardly differs from it"""


HELD = 0.1
"""the same in jumps: below it a frame is held that might have moved, however calm the clip"""


class Still:
    """The columns below, the first five shares of the pairs of consecutive frames."""

    columns = ("duplicate_frames", "still_frames", "longest_still", "held_frames", "longest_held", "repeated_area", "change", "jump")
    """duplicate_frames: below 0.25 levels of change. still_frames: below 1. longest_still: the longest run of those.
    held_frames, longest_held: the same of a tenth of the clip's jump, so that a calm clip holds none and a frozen one does.
    repeated_area: mean share of pixels whose luma is that of the frame before, as where an encoder skipped a block.
    change: mean c of c = mean |Δ luma| of a pair, levels of 0 to 255. jump: Σc² / Σc, how much a frame changes that changes anything:
    more where motion is faster, and where frames are missing."""

    def __init__(self, frames: int):
        self.previous, self.changes, self.repeated = None, [], []

    def add(self, frame: Frame) -> None:
        if self.previous is not None:
            self.changes.append(cv2.norm(frame.grey, self.previous, cv2.NORM_L1) / frame.grey.size)
            self.repeated.append(1 - cv2.countNonZero(cv2.absdiff(frame.grey, self.previous)) / frame.grey.size)
        self.previous = frame.grey

    def result(self) -> dict[str, float]:
        if not self.changes:
            return dict.fromkeys(self.columns, np.nan)
        changes = np.array(self.changes)
        jump = (changes**2).sum() / changes.sum() if changes.any() else 0
        still, held = changes < STILL, changes <= HELD * jump
        shares = (changes < DUPLICATE).mean(), still.mean(), longest(still), held.mean(), longest(held), np.mean(self.repeated)
        values = *shares, changes.mean(), jump
        return dict(zip(self.columns, map(float, values)))


def longest(pairs: Bool[np.ndarray, "n"]) -> float:
    """The longest run, as a share of all."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], pairs, [False]])))
    return float(np.diff(ends)[::2].max(initial=0)) / pairs.size
