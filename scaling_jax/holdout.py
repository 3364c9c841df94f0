"""Extrapolation error: the loss law fitted without the largest size predicts its runs, beside two laws that know less."""
import dataclasses

import numpy as np

from scaling_jax import loss_fit
from scaling_jax.table import Table


@dataclasses.dataclass(frozen=True)
class Holdout:
    """Relative errors |predicted / measured − 1|, means over the held-out runs."""

    N: float
    """the size left out"""
    runs: int
    error: float
    """of the law"""
    worst: float
    """its largest"""
    constant: float
    """of the mean log loss of all fitted runs"""
    tokens_alone: float
    """of E + B·T^−β"""
    gap: float | None
    """mean relative gap in loss between the largest fitted size and the held-out one at the same T, or the same C; None where neither is shared"""


def leave_largest_out(table: Table) -> Holdout | None:
    """None where fewer than three sizes would be left to fit."""
    largest = table.N == table.N.max()
    rest, held = table[~largest], table[largest]
    if len(np.unique(rest.N)) < 3 or len(rest) < 6:
        return None

    def error(columns: list[int]) -> np.ndarray:
        found = loss_fit.fit(rest.X[:, columns], rest.loss, profiled=False)
        return np.abs(found(held.X[:, columns]) / held.loss - 1)

    full = error([0, 1])
    next_size = rest[rest.N == rest.N.max()]
    return Holdout(
        float(held.N[0]), len(held), full.mean(), full.max(), error([]).mean(), error([1]).mean(), _gap(next_size, held)
    )  # fmt: skip


def _gap(fitted: Table, held: Table) -> float | None:
    for name in ("T", "C"):
        near = np.abs(np.log(getattr(held, name)[:, None] / getattr(fitted, name)[None])) < 0.05
        if near.any():
            i, j = np.nonzero(near)
            return float(np.mean(np.abs(fitted.loss[j] / held.loss[i] - 1)))
    return None
