"""The paper's headline on one's own runs: laws fitted to the best (batch, lr) of each (N, T), against those of one fixed choice.

Yin et al. 2024 print (published.PAPER), for the best against a fixed choice: a smaller error of the loss fit (section 4.3.2), exponents
of N_opt on which the loss law and the IsoFLOP curves disagree less (Fig. 7), fewer parameters and less inference cost at 10²² FLOPs.

The least of several noisy losses varies less than one of them, so a law fits the best runs better even where one pair is best everywhere.
A claim holds where it saves more than 95 % of tables do that are drawn so: log L = (N, T)'s mean + the pair's mean + the runs' noise. Of 40
tables in which no pair matters the law fitted the best runs better in 39, and the claim held in 6; of 40 in which one pair is best, 33 and 0.
"""
import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from scaling_jax import loss_fit, size_fit
from scaling_jax.laws import Form
from scaling_jax.loss_fit import LossFit
from scaling_jax.table import Table

CHANCES = 400
"""tables in which one pair is best everywhere"""


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
    """pairs that both sides choose from"""
    best: Side
    fixed: Side
    C: float
    """the largest budget"""
    chance: dict[str, float | None]
    """of each claim, what one table in twenty saves where one pair is best everywhere; None where laws of such tables rise with N or T"""

    def saved(self) -> dict[str, float | None]:
        """The paper's figures from these runs, under its names."""
        best, fixed = self.best, self.fixed
        gained = gains(*(np.array([one.mean_squared_error, one.N, one.inference], float) for one in (best, fixed)))
        error, parameters, inference = (None if np.isnan(gain) else float(gain) for gain in gained.values())
        return {
            "fit error saved": error, "exponent gap, best": best.gap, "exponent gap, fixed": fixed.gap, "parameters saved": parameters,
            "inference saved": inference,
        }  # fmt: skip

    def holds(self) -> dict[str, bool | None]:
        """The paper's claims, without their size; None where these runs do not tell."""
        saved = [self.saved()[name] for name in ("fit error saved", "parameters saved", "inference saved")]
        return {claim: None if None in (gain, chance) else gain > max(chance, 0) for gain, (claim, chance) in zip(saved, self.chance.items())}


def gains(best: Float[np.ndarray, "3 *d"], fixed: Float[np.ndarray, "3 *d"]) -> dict[str, Float[np.ndarray, "*d"]]:
    """Which part of the mean squared error, N and inference of the fixed choice each of the paper's claims says is saved."""
    return dict(zip(("the loss law fits better", "fewer parameters", "less inference cost"), 1 - best / fixed))


def shared_pairs(table: Table) -> dict[str, Float[np.ndarray, "pairs cells"]]:
    """The table's columns, of the runs whose (batch, lr) all cells have."""
    pair = np.round(np.log(np.stack([table.batch, table.lr], 1)), 6)
    kinds, which = np.unique(pair, axis=0, return_inverse=True)
    which, cells = which.ravel(), len(table.cells())
    runs = [one for one in (table[which == i].best() for i in range(len(kinds))) if len(one) == cells]
    names = [field.name for field in dataclasses.fields(table) if getattr(table, field.name) is not None]
    return {name: np.array([getattr(one, name) for one in runs]) for name in names}


def compare(table: Table, token_flops: Callable, draws: int, form: Form = Form.SUM, run_error: float | None = None) -> Headline | None:
    """None where the cells share fewer than two (batch, lr).

    Args:
      token_flops: C_token as a function of N.
      run_error: standard deviation of a run's log loss; by default what the means of cells and of pairs leave.
    """
    columns = shared_pairs(table)
    y = np.log(columns["loss"])
    if len(y) < 2:
        return None

    which, each = y.mean(1).argmin(), np.arange(y.shape[1])
    best, fixed = (Table(**{name: column[pair, each] for name, column in columns.items()}) for pair in (y.argmin(0), which))
    sides = [_side(runs, token_flops, draws, form) for runs in (best, fixed)]
    alike = y.mean(0) + y.mean(1, keepdims=True) - y.mean()
    if run_error is None:
        run_error = float(np.sqrt(np.square(y - alike).sum() / ((len(y) - 1) * (y.shape[1] - 1))))
    drawn = alike + run_error * np.random.default_rng(0).standard_normal((CHANCES, *y.shape))
    of_one = drawn[np.arange(CHANCES), drawn.mean(2).argmin(1)]
    gained = gains(*(_figures(fixed, log_loss, token_flops, form) for log_loss in (drawn.min(1), of_one)))
    chance = {claim: float(np.nanpercentile(gain, 95)) if np.isfinite(gain).any() else None for claim, gain in gained.items()}
    return Headline(float(fixed.batch[0]), float(fixed.lr[0]), len(y), *sides, float(table.C.max()), chance)


def _figures(runs: Table, log_loss: Float[np.ndarray, "d n"], token_flops: Callable, form: Form) -> Float[np.ndarray, "3 d"]:
    """Mean squared error, N_opt and inference at the largest budget by laws of these losses in the place of the runs' own; NaN where a law rises."""
    constants, predicted = loss_fit.refitted(loss_fit.fit(runs.X, runs.loss, form, profiled=False), runs.X, log_loss)
    law = LossFit.law(constants)
    with np.errstate(over="ignore", invalid="ignore"):
        N = np.where((law.alpha > 0) & (law.beta > 0), law.best_size(runs.C.max(), token_flops), np.nan)
        return np.stack([np.square(predicted - np.exp(log_loss)).mean(1), N, token_flops(N)])


def _side(runs: Table, token_flops: Callable, draws: int, form: Form) -> Side:
    found = loss_fit.fit(runs.X, runs.loss, form, profiled=False)
    law, C = LossFit.law(found.constants), np.geomspace(runs.C.min(), runs.C.max(), 9)
    predicted = largest = inference = None
    if law.falls:
        N = law.best_size(C, token_flops)
        predicted, largest, inference = float(np.polyfit(np.log(C), np.log(N), 1)[0]), float(N[-1]), float(token_flops(N[-1]) / 3)
    try:
        curve = size_fit.fit(runs, draws).law
    except ValueError:
        curve = None
    isoflop = None if curve is None else float(curve.C)
    gap = None if None in (predicted, isoflop) else abs(predicted - isoflop) / abs(isoflop)
    return Side(len(runs), float(np.mean((found(runs.X) - runs.loss) ** 2)), predicted, isoflop, gap, largest, inference)
