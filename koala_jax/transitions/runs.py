"""Runs of true values in a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool


def runs(on: Bool[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """First place, and the place after the last, of each run."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on, [False]])))
    return [(int(i), int(j)) for i, j in edges.reshape(-1, 2)]
