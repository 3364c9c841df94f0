"""Fits N_opt(C) to IsoFLOP curves: a parabola that leans, in log N, through the best loss of each size at one budget, then a power law.

  (1) L = l + q·(e^{s·u} − 1 − s·u)/s²,  u = log N − log N_opt     at each budget C with at least three sizes
  (2) log N_opt = log k + a·log C                                  over the budgets whose minimum lies between their smallest and largest size

At s = 0, (1) is the parabola of Hoffmann et al. 2022 (approach 2), whose minimum is off toward the side on which the loss climbs slower. By
L = E + A·N^−α + B·T^−β the curve of every budget is l + D·(e^{−α·u}/α + e^{β·u}/β), which to third order is (1) with s = β − α. So all budgets have
one s, which runs that tell it too little hold near 0: it is taken to be normal, of standard deviation LEAN, before they are seen.
"""
import dataclasses

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from core_jax.words import counted
from scaling_jax.laws import PowerLaw
from scaling_jax.regression import errors, regress
from scaling_jax.table import Table, together

SAME = 0.1
"""runs whose log C spans at most this belong to one budget"""
APART, ALIKE = 3.0, 1.02
"""a budget's minimum disagrees with the law from so many of its standard deviations on, and from this factor on"""
CONVEX = 0.9
"""of a curve's draws that must have a minimum"""
LEAN, STEEPEST = 0.1, 1.0
"""of s: standard deviation, where published laws have −0.06 to 0.02, and the largest that is tried"""
FREE = 4
"""losses beyond three a budget from which on they tell their own scatter beside s"""


@dataclasses.dataclass(frozen=True)
class Budget:
    """One IsoFLOP curve and its minimum."""

    C: float
    N: Float[np.ndarray, "s"]
    loss: Float[np.ndarray, "s"]
    curve: tuple[float, float, float]
    """coefficients of `terms`"""
    N_opt: float
    """NaN where the curve has no minimum"""
    draws: Float[np.ndarray, "d"]
    flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SizeFit:
    """N_opt(C)."""

    budgets: tuple[Budget, ...]
    lean: float
    """s"""
    leans: Float[np.ndarray, "d"]
    """draws of it"""
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


def terms(log_N: Float[np.ndarray, "n"], centre: float, s: float) -> Float[np.ndarray, "n 3"]:
    """1, x and (e^{s·x} − 1 − s·x)/s² of x = log N − `centre`: what the curves that lean by s are sums of."""
    x = log_N - centre
    return np.stack([np.ones_like(x), x, _arc(x, s)], -1)


def _arc(x: Float[np.ndarray, "n"], s: float) -> Float[np.ndarray, "n"]:
    z = s * x
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(z) < 1e-5, x * x * (1 / 2 + z / 6), (np.expm1(z) - z) / s**2)


def _lowest(b: np.ndarray, c: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Where b·x + c·(e^{s·x} − 1 − s·x)/s² has its minimum; NaN where it has none."""
    with np.errstate(all="ignore"):
        z = np.where(c > 0, -b * s / c, np.nan)
        return np.where(np.abs(z) < 1e-6, np.where(c > 0, -b / c, np.nan), np.log1p(z) / s)


def _curves(found: list[Table], draws: int) -> tuple[Float[np.ndarray, "m 3"], float, Float[np.ndarray, "d m 3"], Float[np.ndarray, "d"], int]:
    """(1) at all budgets together: coefficients of each, s, draws of both, and how many losses there are beyond three a budget."""
    x, loss = [np.log(curve.N) - np.log(curve.N).mean() for curve in found], [curve.loss for curve in found]
    fitted = lambda y, s, draws=0, known=None: [regress(terms(one, 0.0, s), y[i], draws, i, known) for i, one in enumerate(x)]
    squares = lambda s: sum(float(one.residuals @ one.residuals) for one in fitted(loss, s))
    least = lambda cost: float(minimize_scalar(cost, bounds=(-STEEPEST, STEEPEST), method="bounded").x)
    freedom = sum(map(len, loss)) - 3 * len(loss)
    free = freedom >= FREE
    variance = squares(least(squares)) / (freedom - 1) if free else squares(0.0) / max(freedom, 1)
    s = least(lambda s: squares(s) + variance * (s / LEAN) ** 2) if freedom else 0.0
    each, h = fitted(loss, s, draws, (variance, freedom - free)), 1e-4
    shapes = np.array([one.coefficients for one in each])
    # what s may be, by how a change of it bends the curves as no other terms do; and what such a change does to those
    bends = fitted([c * (_arc(one, s + h) - _arc(one, s - h)) / (2 * h) for one, c in zip(x, shapes[:, 2])], s)
    told = sum(float(one.residuals @ one.residuals) for one in bends) + variance / LEAN**2
    off = errors(draws, 1, variance / told if told else 0.0, freedom - free, len(x))
    others = np.stack([one.draws - off * bend.coefficients for one, bend in zip(each, bends)], 1)
    return shapes, s, others, s + off[:, 0], freedom


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
    shapes, s, others, leans, freedom = _curves(found, draws)
    budgets = tuple(_budget(curve, shape, s, others[:, i], leans, freedom) for i, (curve, shape) in enumerate(zip(found, shapes)))
    inside = [budget for budget in budgets if not budget.flags]
    flags = [f"{len(few)} of {len(few) + len(found)} budgets have fewer than 3 sizes, and their {sum(map(len, few))} losses are left out"] if few else []
    flags += [] if freedom else ["every budget has three sizes, so its curve leaves no error to go by: its minimum has no interval"]
    if len(inside) < len(budgets):
        flags.append(f"{len(budgets) - len(inside)} of {len(budgets)} budgets have no minimum between their sizes and are left out")
    if len(inside) < 3:
        return SizeFit(budgets, s, leans, None, None, (*flags, f"{counted(len(inside), 'budget')} with a minimum cannot give a law of C: 3 can"))
    y, x = np.log([budget.N_opt for budget in inside]), np.log([budget.C for budget in inside])
    others = np.log(np.stack([budget.draws for budget in inside], 1))
    # half of what two thirds of the draws span: of the few tails that a standard deviation goes by, each seed of them has others
    spread = np.maximum(np.diff(np.nanpercentile(others, [16, 84], axis=0), axis=0)[0] / 2, 1e-6) if freedom else np.ones(len(inside))
    x0 = np.average(x, weights=spread**-2)  # from which a line's height and its slope err apart
    X = np.stack([np.ones(len(inside)), x - x0], 1) / spread[:, None]
    line = regress(X, y / spread, draws)
    through = (others / spread) @ np.linalg.pinv(X).T
    through = through[np.isfinite(through).all(1)]
    # of each the larger of two spreads: how far the minima lie off the line, and what the curves' own errors make of it, which s makes alike
    lines = line.draws[: len(through)] if len(through) else line.draws
    if len(through):
        lines = np.where((np.std(through, 0) > np.std(lines, 0)) | (line.freedom < 1), through, lines)
    law = _law(line.coefficients, x0)
    apart = np.abs(y - np.log(law(C=np.exp(x))))
    off = [inside[i] for i in np.argsort(-apart) if freedom and apart[i] > max(APART * spread[i], np.log(ALIKE))]
    named = "; ".join(f"C {budget.C:.3g}: {budget.N_opt:.3g}, {law(C=budget.C):.3g} by the law" for budget in off[:3])
    flags += [f"the law disagrees with the minimum of {len(off)} of {len(inside)} budgets ({named})"] if off else []
    return SizeFit(budgets, s, leans, law, _law(lines, x0), tuple(flags))


def _law(line: Float[np.ndarray, "*d 2"], x0: float) -> PowerLaw:
    with np.errstate(over="ignore"):  # of lines so steep that no float holds k, at C = 1
        return PowerLaw(np.exp(line[..., 0] - line[..., 1] * x0), C=line[..., 1])


def _budget(
    curve: Table, shape: Float[np.ndarray, "3"], s: float, others: Float[np.ndarray, "d 3"], leans: Float[np.ndarray, "d"], freedom: int
) -> Budget:
    minimum = lambda c, s: np.exp(np.clip(np.log(curve.N).mean() + _lowest(c[..., 1], c[..., 2], s), 0, 100))
    at, C = float(minimum(shape, s)), float(np.exp(np.log(curve.C).mean()))
    flags = ()
    if not np.isfinite(at):
        flags = (f"the curve of C = {C:.3g} has no minimum",)
    elif not curve.N[0] < at < curve.N[-1]:
        side = "smallest" if at <= curve.N[0] else "largest"
        flags = (f"the minimum of C = {C:.3g} lies beyond its {side} size",)
    draws = minimum(others, leans)
    if not flags and freedom and np.isfinite(draws).mean() < CONVEX:
        flags = (f"the curve of C = {C:.3g} is too flat: only {np.isfinite(draws).mean():.0%} of the curves that fit have a minimum",)
    return Budget(C, curve.N, curve.loss, tuple(shape.tolist()), at, draws, flags)
