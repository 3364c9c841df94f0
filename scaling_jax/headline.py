"""The paper's headline on one's own runs: laws fitted to the best (batch, lr) of each (N, T), against those of one fixed choice.

Yin et al. 2024 print (published.PAPER), for the best against a fixed choice: a smaller error of the loss fit (section 4.3.2), exponents
of N_opt on which the loss law and the IsoFLOP curves disagree less (Fig. 7), fewer parameters and less inference cost at 10²² FLOPs.
"""
import dataclasses
from collections.abc import Callable

import numpy as np

from scaling_jax import loss_fit, size_fit
from scaling_jax.laws import Form
from scaling_jax.loss_fit import LossFit
from scaling_jax.table import Table


@dataclasses.dataclass(frozen=True)
class Side:
    """What one choice of runs leads to."""

    runs: int
    mean_squared_error: float
    """of the loss law"""
    predicted_exponent: float | None
    """of N_opt(C) by the loss law, over the table's budgets; None, as are N and inference, where it rises with N or T"""
    isoflop_exponent: float | None
    """of N_opt(C) by the IsoFLOP curves; None where too few have a minimum"""
    gap: float | None
    """of the two, relative to the second"""
    N: float | None
    """N_opt at the largest budget, by the loss law (as the paper's Fig. 6c)"""
    inference: float | None
    """forward FLOPs a token at that N"""


@dataclasses.dataclass(frozen=True)
class Headline:
    """Best against fixed."""

    batch: float
    lr: float
    """the fixed choice: of the pairs that every (N, T) was run with, the one with the least mean log loss"""
    pairs: int
    """pairs that it was chosen from"""
    best: Side
    fixed: Side
    C: float
    """the largest budget"""

    def saved(self) -> dict[str, float | None]:
        """The paper's figures from these runs, under its names."""
        best, fixed = self.best, self.fixed

        def saved(one: float | None, other: float | None) -> float | None:
            return None if one is None or other is None else 1 - one / other

        return {
            "fit error saved": saved(best.mean_squared_error, fixed.mean_squared_error), "exponent gap, best": best.gap,
            "exponent gap, fixed": fixed.gap, "parameters saved": saved(best.N, fixed.N), "inference saved": saved(best.inference, fixed.inference),
        }  # fmt: skip

    def holds(self) -> dict[str, bool | None]:
        """The paper's claims, without their size; None where these runs do not tell."""
        best, fixed = self.best, self.fixed
        pairs = {
            "the loss law fits better": (best.mean_squared_error, fixed.mean_squared_error), "the exponents agree better": (best.gap, fixed.gap),
            "fewer parameters": (best.N, fixed.N), "less inference cost": (best.inference, fixed.inference),
        }  # fmt: skip
        return {claim: None if None in pair else pair[0] < pair[1] for claim, pair in pairs.items()}


def fixed_choice(table: Table) -> tuple[float, float, int, Table] | None:
    """(batch, lr, pairs that all cells share, the runs of this pair); None where the cells share no pair."""
    pair = np.round(np.log(np.stack([table.batch, table.lr], 1)), 6)
    kinds, which = np.unique(pair, axis=0, return_inverse=True)
    which, cells = which.ravel(), len(table.cells())
    runs = {i: table[which == i].best() for i in range(len(kinds))}
    shared = {i: one for i, one in runs.items() if len(one) == cells}
    if not shared:
        return None
    best = min(shared.values(), key=lambda one: np.log(one.loss).mean())
    return float(best.batch[0]), float(best.lr[0]), len(shared), best


def compare(table: Table, token_flops: Callable, draws: int, form: Form = Form.SUM) -> Headline | None:
    """None where the cells share no (batch, lr).

    Args:
      token_flops: C_token as a function of N.
    """
    chosen = fixed_choice(table)
    if chosen is None:
        return None
    batch, lr, pairs, runs = chosen
    return Headline(batch, lr, pairs, *(_side(side, token_flops, draws, form) for side in (table.best(), runs)), float(table.C.max()))


def _side(runs: Table, token_flops: Callable, draws: int, form: Form) -> Side:
    found = loss_fit.fit(runs.X, runs.loss, form, profiled=False)
    law, C = LossFit.law(found.constants), np.geomspace(runs.C.min(), runs.C.max(), 9)
    predicted = largest = inference = None
    if law.falls:
        N = np.array([law.best_size(c, token_flops) for c in C])
        predicted, largest, inference = float(np.polyfit(np.log(C), np.log(N), 1)[0]), float(N[-1]), float(token_flops(N[-1]) / 3)
    try:
        curve = size_fit.fit(runs, draws).law
    except ValueError:
        curve = None
    isoflop = None if curve is None else float(curve.C)
    gap = None if None in (predicted, isoflop) else abs(predicted - isoflop) / abs(isoflop)
    return Side(len(runs), float(np.mean((found(runs.X) - runs.loss) ** 2)), predicted, isoflop, gap, largest, inference)
