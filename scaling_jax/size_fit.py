"""Fits N_opt(C) to IsoFLOP curves: a parabola in log N through the best loss of each size at one budget, then a power law.

  (1) L = l + ½·q·(log N − log N_opt)²      at each budget C with at least three sizes (Hoffmann et al. 2022, approach 2)
  (2) log N_opt = log k + a·log C           over the budgets whose minimum lies between their smallest and largest size
"""
import dataclasses

import numpy as np
from jaxtyping import Float

from core_jax.words import counted
from scaling_jax.laws import PowerLaw
from scaling_jax.regression import regress
from scaling_jax.table import Table, together

SAME = 0.1
"""runs whose log C spans at most this belong to one budget"""
APART, ALIKE = 3.0, 1.02
"""a budget's minimum disagrees with the law from so many of its standard deviations on, and from this factor on"""
CONVEX = 0.9
"""of a parabola's draws that must have a minimum"""


@dataclasses.dataclass(frozen=True)
class Budget:
    """One IsoFLOP curve and its minimum."""

    C: float
    N: Float[np.ndarray, "s"]
    loss: Float[np.ndarray, "s"]
    parabola: tuple[float, float, float]
    """coefficients of log N − its mean, from the constant on"""
    N_opt: float
    """NaN where the parabola has no minimum"""
    draws: Float[np.ndarray, "d"]
    flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SizeFit:
    """N_opt(C)."""

    budgets: tuple[Budget, ...]
    law: PowerLaw | None
    draws: PowerLaw | None
    flags: tuple[str, ...]


def curves(table: Table) -> list[Table]:
    """The runs of each budget, of each size the best."""
    groups = [table[rows] for rows in together(table.C, SAME)]
    return [_best_of_each_size(group) for group in groups if len(np.unique(group.N)) >= 3]


def _best_of_each_size(table: Table) -> Table:
    rows = [np.flatnonzero(table.N == N) for N in np.unique(table.N)]
    return table[np.array([row[table.loss[row].argmin()] for row in rows])]


def _design(curve: Table) -> Float[np.ndarray, "s 3"]:
    x = np.log(curve.N) - np.log(curve.N).mean()
    return np.stack([np.ones_like(x), x, x * x / 2], 1)


def fit(table: Table, draws: int) -> SizeFit:
    """(1) and (2).

    Raises:
      ValueError: fewer than three budgets with three sizes.
    """
    found = curves(table)
    if len(found) < 3:
        raise ValueError(
            f"the table has {counted(len(found), 'budget')} with at least 3 sizes each, and a law of C needs 3: "
            f"runs belong to one budget where their C agree to {SAME:.0%}"
        )
    few = [rows for rows in together(table.C, SAME) if len(np.unique(table.N[rows])) < 3]
    first = [regress(_design(curve), curve.loss, 0) for curve in found]
    freedom = sum(one.freedom for one in first)
    variance = sum(one.residuals @ one.residuals for one in first) / max(freedom, 1), freedom
    budgets = tuple(_budget(curve, draws, i, variance) for i, curve in enumerate(found))
    inside = [budget for budget in budgets if not budget.flags]
    flags = [f"{len(few)} of {len(few) + len(found)} budgets have fewer than 3 sizes, and their {sum(map(len, few))} losses are left out"] if few else []
    flags += [] if freedom else ["every budget has three sizes, so its parabola leaves no error to go by: its minimum has no interval"]
    if len(inside) < len(budgets):
        flags.append(f"{len(budgets) - len(inside)} of {len(budgets)} budgets have no minimum between their sizes and are left out")
    if len(inside) < 3:
        return SizeFit(budgets, None, None, (*flags, f"{counted(len(inside), 'budget')} with a minimum cannot give a law of C: 3 can"))
    y, x = np.log([budget.N_opt for budget in inside]), np.log([budget.C for budget in inside])
    others = np.log(np.stack([budget.draws for budget in inside], 1))
    spread = np.maximum(np.nanstd(others, 0), 1e-6) if freedom else np.ones(len(inside))
    X = np.stack([np.ones(len(inside)), x - x.mean()], 1) / spread[:, None]
    line = regress(X, y / spread, draws)
    through = (others / spread) @ np.linalg.pinv(X).T
    through = through[np.isfinite(through).all(1)]
    # the larger of two spreads: how far the minima lie off the line, and what the parabolas' own errors make of it
    wider = len(through) and np.std(through[:, 1]) > np.std(line.draws[:, 1])
    lines = through if wider or not line.freedom else line.draws
    law = _law(line.coefficients, x.mean())
    apart = np.abs(y - np.log(law(C=np.exp(x))))
    off = [inside[i] for i in np.argsort(-apart) if freedom and apart[i] > max(APART * spread[i], np.log(ALIKE))]
    named = "; ".join(f"C {budget.C:.3g}: {budget.N_opt:.3g}, {law(C=budget.C):.3g} by the law" for budget in off[:3])
    flags += [f"the law disagrees with the minimum of {len(off)} of {len(inside)} budgets ({named})"] if off else []
    return SizeFit(budgets, law, _law(lines, x.mean()), tuple(flags))


def _law(line: Float[np.ndarray, "*d 2"], x0: float) -> PowerLaw:
    with np.errstate(over="ignore"):  # of lines so steep that no float holds k, at C = 1
        return PowerLaw(np.exp(line[..., 0] - line[..., 1] * x0), C=line[..., 1])


def _budget(curve: Table, draws: int, seed: int, variance: tuple[float, int]) -> Budget:
    found, centre = regress(_design(curve), curve.loss, draws, seed, variance), np.log(curve.N).mean()

    def minimum(c: Float[np.ndarray, "*d 3"]) -> np.ndarray:
        convex = c[..., 2] > 0
        return np.where(convex, np.exp(np.clip(centre - c[..., 1] / np.where(convex, c[..., 2], 1), 0, 100)), np.nan)

    at, C = float(minimum(found.coefficients)), float(np.exp(np.log(curve.C).mean()))
    flags = ()
    if not np.isfinite(at):
        flags = (f"the curve of C = {C:.3g} has no minimum",)
    elif not curve.N[0] < at < curve.N[-1]:
        side = "smallest" if at <= curve.N[0] else "largest"
        flags = (f"the minimum of C = {C:.3g} lies beyond its {side} size",)
    others = minimum(found.draws)
    if not flags and found.freedom and np.isfinite(others).mean() < CONVEX:
        flags = (f"the curve of C = {C:.3g} is too flat: only {np.isfinite(others).mean():.0%} of the parabolas that fit have a minimum",)
    return Budget(C, curve.N, curve.loss, tuple(found.coefficients.tolist()), at, others, flags)
