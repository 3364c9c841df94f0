"""Letters and lines drawn over the picture, such as subtitles and watermarks: thin bright strokes that stay where they are.

    h_t = luma − its opening by a square of 5 pixels (white top-hat: what is brighter than all around and at most 4 pixels wide)
    lettering = share of pixels with min over at most 16 frames of h_t ≥ 60 levels     natural texture seldom reaches that
    faint_lettering = the same from 25 levels on                                       transparent watermarks, and much texture

Unlike `overlay` it sees letters that let the picture shine through, and letters over a still picture; there fine bright texture counts too.
"""

from __future__ import annotations

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame, spread

FRAMES, STROKE, STRENGTH, FAINT = 16, 5, 60, 25


class Lettering:
    """lettering, faint_lettering: shares of the picture's area, 0 to 1."""

    columns = ("lettering", "faint_lettering")

    def __init__(self, frames: int):
        self.wanted, self.stays = spread(frames, FRAMES), None

    def add(self, frame: Frame) -> None:
        if frame.number in self.wanted:
            strokes = cv2.morphologyEx(frame.grey, cv2.MORPH_TOPHAT, np.ones((STROKE, STROKE), np.uint8))
            self.stays = strokes if self.stays is None else np.minimum(self.stays, strokes)

    def result(self) -> dict[str, float]:
        shares = [np.nan if self.stays is None else float((self.stays >= least).mean()) for least in (STRENGTH, FAINT)]
        return dict(zip(self.columns, shares))
