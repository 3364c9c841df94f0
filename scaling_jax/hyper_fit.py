"""Fits the best batch and learning rate, of one (N, T) and as laws of N and T, by a quadratic surface over near-optimal runs.

With x = (log η, log B) and z = (1, log T, log N), over the runs of cell i = (N, T) whose loss is within `near` of the cell's best:

  (1) log L = l_i + ½·(x − μ_i)ᵀ Q (x − μ_i)           one cell by itself: six coefficients
  (2) μ_i = M·z_i                                      all cells together, one curvature Q: η_opt and B_opt are power laws (laws.py, 2)

Both are linear in their coefficients (l + ½·μᵀQμ, Qμ or QM, Q), so least squares is exact and its draws give the intervals.

(2) also gives each cell's least loss, l_i, from all its runs, where the best run is the least of as many throws. In 100 simulated sweeps of
23 cells of nine runs, the loss law true and noise of 1.1 %, the law missed the largest size by 0.75 % fitted to and held against best runs,
by 0.37 % with the l_i.
"""
import dataclasses
import itertools

import numpy as np
from jaxtyping import Float

from scaling_jax.laws import PowerLaw
from scaling_jax.regression import Regression, regress, regress_grouped
from scaling_jax.table import SAME, Table

NEAR = 0.02
"""runs up to this much above their cell's best loss count as near-optimal"""
ROOM = 6.0
"""times the runs' scatter that `near` must be, or their own noise decides which of them count: in 12 simulated sweeps each of 25 cells of nine runs,
95 % intervals of a cell's least loss covered it in 93 to 96 % from 7 times on, in 88 to 92 % at 5 times and in 67 % at 3 times"""
NAMES = ("lr", "batch")
ALIKE = 1.02
"""a law and a cell that are no further apart than this factor agree, however narrow their intervals"""
INTERIOR = 0.8
"""of the draws that must have a minimum for it to count as identified"""


@dataclasses.dataclass(frozen=True)
class Cell:
    """The best learning rate and batch of one (N, T)."""

    N: float
    T: float
    runs: int
    best: dict[str, float]
    """lr, batch and loss of the best run"""
    spread: float
    """worst over best loss, less 1"""
    noise_scale: float | None
    """of the gradient, in tokens: median over near-optimal runs; None where it was not measured"""
    optimum: dict[str, tuple[float, float, float]]
    """lr, batch and loss at the surface's minimum, each with its 95 % interval; empty where the surface has none"""
    marks: dict[str, str]
    """of lr and batch: ≤ or ≥ where the best run lies on the grid's edge and so bounds the optimum, ? where that is not identified"""
    flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class HyperFit:
    """All cells, and the two laws where they can be told."""

    cells: tuple[Cell, ...]
    laws: dict[str, PowerLaw]
    draws: dict[str, PowerLaw]
    flags: tuple[str, ...]
    curvature: Float[np.ndarray, "2 2"] | None = None
    """Q of (2): a factor f in η alone costs ½·Q₁₁·(log f)² of the loss"""
    optima: Table | None = None
    """of each cell one row: l_i of (2) within its grid, at that lr and batch; None without laws"""
    errors: Float[np.ndarray, "d cells"] | None = None
    """draws of the errors of log l_i"""
    run_error: float | None = None
    """standard deviation of one run's log loss around (2); None where all runs lie on it"""


LEAST = 7
"""near-optimal runs of a cell that determine the six constants of (1) and leave one to tell the error by"""
WANTED = f"at least {LEAST} over a grid of 3 learning rates and 3 batches do"


def points(cell: Table) -> Float[np.ndarray, "n 2"]:
    return np.log(np.stack([cell.lr, cell.batch], 1))


def near_optimal(cell: Table, near: float) -> Table:
    return cell[cell.loss <= (1 + near) * cell.loss.min()]


def quadratic(x: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """½·xᵀQx by the coefficients Q₁₁, Q₁₂, Q₂₂."""
    a, b = x.T
    return np.stack([a * a / 2, a * b, b * b / 2], 1)


def symmetric(q: Float[np.ndarray, "*d 3"]) -> Float[np.ndarray, "*d 2 2"]:
    return q[..., [[0, 1], [1, 2]]]


def convex(Q: Float[np.ndarray, "*d 2 2"]) -> np.ndarray:
    return (Q[..., 0, 0] > 0) & (Q[..., 0, 0] * Q[..., 1, 1] > Q[..., 0, 1] * Q[..., 1, 0])


def fit_cell(cell: Table, draws: int, near: float) -> Cell:
    """(1) for the runs of one (N, T)."""
    best = int(cell.loss.argmin())
    flags, marks = [], dict.fromkeys(NAMES, "")
    for name in NAMES:
        values, at = np.unique(getattr(cell, name)), getattr(cell, name)[best]
        if at in (values[0], values[-1]):
            side, bound, marks[name] = ("smallest", "above", "≤") if at == values[0] else ("largest", "below", "≥")
            flags.append(f"the best run has the {side} {name} of the grid, {at:.3g}, which bounds the optimum only from {bound}")
    known = dict(lr=float(cell.lr[best]), batch=float(cell.batch[best]), loss=float(cell.loss[best]))
    close = near_optimal(cell, near)
    spread, noise = float(cell.loss.max() / cell.loss.min() - 1), None
    if close.noise_scale is not None and np.isfinite(close.noise_scale).any():
        noise = float(np.nanmedian(close.noise_scale))
    x = points(close)
    centre = x.mean(0)
    design = np.concatenate([np.ones((len(x), 1)), x - centre, quadratic(x - centre)], 1)
    if len(close) < LEAST or np.linalg.matrix_rank(design) < 6:
        flags.append(f"{len(close)} near-optimal runs do not give a surface: {WANTED}")
        return Cell(float(cell.N[0]), float(cell.T[0]), len(cell), known, spread, noise, {}, {name: f"{mark}?" for name, mark in marks.items()}, tuple(flags))
    found = regress(design, np.log(close.loss), draws)

    def minimum(c: Float[np.ndarray, "*d 6"]) -> np.ndarray:
        """(log η, log B, log L) at the minimum, NaN where there is none."""
        Q, slope = symmetric(c[..., 3:]), c[..., 1:3]
        ok = convex(Q)
        mu = np.linalg.solve(np.where(ok[..., None, None], Q, np.eye(2)), -slope[..., None])[..., 0]
        value = c[..., 0] + (slope * mu).sum(-1) / 2
        return np.where(ok[..., None], np.concatenate([mu + centre, value[..., None]], -1), np.nan)

    at, others = minimum(found.coefficients), minimum(found.draws)
    low, high = x.min(0), x.max(0)
    for i, name in enumerate(NAMES):
        inside = np.mean((others[:, i] >= low[i]) & (others[:, i] <= high[i]))
        if inside < INTERIOR:
            marks[name] += "?"
            flags.append(f"the best {name} is not identified: only {inside:.0%} of the surfaces that fit have their minimum inside the grid")
    optimum = {}
    if np.isfinite(at).all() and np.isfinite(others[:, 0]).mean() > 0.5:
        ends = np.nanpercentile(others, [2.5, 97.5], axis=0)
        optimum = {name: tuple(np.exp([at[i], *ends[:, i]]).tolist()) for i, name in enumerate((*NAMES, "loss"))}
    return Cell(float(cell.N[0]), float(cell.T[0]), len(cell), known, spread, noise, optimum, marks, tuple(flags))


def fit(table: Table, draws: int, near: float = NEAR) -> HyperFit:
    """(1) for each cell and (2) for all.

    Raises:
      ValueError: the table has no batch or lr.
    """
    if table.batch is None or table.lr is None:
        raise ValueError("the table has no column batch and lr, from which alone their laws can be fitted")
    cells = table.cells()
    fitted = tuple(fit_cell(cell, draws, near) for cell in cells)
    close = [near_optimal(cell, near) for cell in cells]
    varies = {name: np.ptp(np.log(getattr(table, name))) > SAME for name in ("T", "N")}
    if not all(varies.values()):
        missing = " and ".join(name for name, does in varies.items() if not does)
        return HyperFit(fitted, {}, {}, (f"all runs have one {missing}, so the laws of N and T cannot be told; the cells stand alone",))
    x = np.concatenate([points(cell) for cell in close])
    z = np.log([[cell.T[0], cell.N[0]] for cell in cells])
    which = np.repeat(np.arange(len(cells)), [len(cell) for cell in close])
    x0, z0 = x.mean(0), z[which].mean(0)
    z = np.concatenate([np.ones((len(z), 1)), z - z0], 1)
    X, y = _design(x - x0, z[which]), np.log(np.concatenate([cell.loss for cell in close]))
    try:
        found = regress_grouped(X, y, which, draws)
    except ValueError as error:
        return HyperFit(fitted, {}, {}, (f"the laws of batch and learning rate cannot be told: {error}",))
    if table.seeded:
        runs = Table(**{name: np.concatenate([getattr(cell, name) for cell in close]) for name in ("N", "T", "loss", "C", "seeds")})
        found = dataclasses.replace(found, draws=np.array([regress_grouped(X, y + error, which, 0).coefficients for error in runs.errors(draws)]))
    made = _laws(fitted, found, len(cells), x0, z0)
    return made if made.curvature is None else dataclasses.replace(made, **_optima(cells, made, found, x0, z, near))


def least(table: Table, near: float = NEAR, draws: int = 100) -> tuple[Table, Float[np.ndarray, "d cells"] | None]:
    """(one row a cell, draws of the errors of its log loss): the least loss by (2), or where that has no minimum the best run's, and no draws."""
    found = fit(table, draws, near) if table.batch is not None and table.lr is not None else None
    return (table.best(), None) if found is None or found.optima is None else (found.optima, found.errors)


def _design(x: Float[np.ndarray, "n 2"], z: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 9"]:
    """Of (2), beside each cell's own constant: slopes that go by z, one curvature."""
    return np.concatenate([-(x[:, :, None] * z[:, None, :]).reshape(len(x), 6), quadratic(x)], 1)


def _optima(cells: list[Table], made: HyperFit, found: Regression, x0: np.ndarray, z: Float[np.ndarray, "cells 3"], near: float) -> dict[str, object]:
    """The fields of HyperFit that say what each cell's least loss is."""
    mus = [np.log([made.laws[name](N=cell.N[0], T=cell.T[0]) for name in NAMES]) for cell in cells]
    at = [_within(mu, made.curvature, points(cell).min(0), points(cell).max(0)) for cell, mu in zip(cells, mus)]
    flags = []
    if outside := sum((one != mu).any() for one, mu in zip(at, mus)):
        flags.append(f"in {outside} of {len(cells)} cells the surface has its minimum outside the grid, and their least loss is taken at the grid's edge")
    run_error = float(np.sqrt(found.residuals @ found.residuals / found.freedom)) if found.freedom else None
    if run_error and run_error * ROOM > near:
        least = np.ceil(run_error * ROOM * 100) / 100
        flags.append(
            f"runs scatter by {run_error:.2%} of the loss, more than a sixth of --near {near:g}, so their noise decides which runs make the surface, and "
            f"biases it: give --near {least:g} or more"
        )
    rows = _design(np.array(at) - x0, z)

    def value(c: Float[np.ndarray, "*d p"]) -> Float[np.ndarray, "*d cells"]:
        return c[..., : len(cells)] + c[..., len(cells) :] @ rows.T

    log_loss = value(found.coefficients)
    lr, batch = np.exp(np.array(at).T)
    noise = np.array([cell.noise_scale or np.nan for cell in made.cells])
    one = {name: np.array([getattr(cell, name)[0] for cell in cells]) for name in ("N", "T", "C")}
    return {
        "optima": Table(**one, loss=np.exp(log_loss), batch=batch, lr=lr, noise_scale=noise),
        "errors": value(found.draws - found.coefficients),
        "run_error": run_error, "flags": (*made.flags, *flags),
    }


def _within(mu: Float[np.ndarray, "2"], Q: Float[np.ndarray, "2 2"], low: np.ndarray, high: np.ndarray) -> Float[np.ndarray, "2"]:
    """The point of a box at which ½·(x − μ)ᵀQ(x − μ) is least: μ if it is inside, else on one of the four sides."""
    if ((low <= mu) & (mu <= high)).all():
        return mu
    sides = []
    for i, end in itertools.product((0, 1), (low, high)):
        side = end.copy()
        side[1 - i] = np.clip(mu[1 - i] - Q[0, 1] / Q[1 - i, 1 - i] * (end[i] - mu[i]), low[1 - i], high[1 - i])
        sides.append(side)
    return min(sides, key=lambda x: (x - mu) @ Q @ (x - mu))


def _laws(cells: tuple[Cell, ...], found: Regression, n: int, x0: np.ndarray, z0: np.ndarray) -> HyperFit:
    def M(c: Float[np.ndarray, "*d p"]) -> Float[np.ndarray, "*d 2 3"]:
        Q = symmetric(c[..., n + 6 :])
        ok = convex(Q)[..., None, None]
        return np.where(ok, np.linalg.solve(np.where(ok, Q, np.eye(2)), c[..., n : n + 6].reshape(*c.shape[:-1], 2, 3)), np.nan)

    def laws(M: np.ndarray) -> dict[str, PowerLaw]:
        rows = [M[..., i, :] for i in range(2)]
        with np.errstate(over="ignore"):  # of a surface that is nearly flat the exponents go into the hundreds, and k, at N = T = 1, beyond all floats
            return {
                name: PowerLaw(np.exp(row[..., 0] + x0[i] - row[..., 1:] @ z0), N=row[..., 2], T=row[..., 1])
                for i, (name, row) in enumerate(zip(NAMES, rows))
            }

    at, others = M(found.coefficients), M(found.draws)
    exists = np.isfinite(others[:, 0, 0]).mean()
    flags = [] if exists >= INTERIOR else [f"the surface over all runs has a minimum in only {exists:.0%} of its draws: widen the grid"]
    if not np.isfinite(at).all():
        return HyperFit(cells, {}, {}, ("the surface over all runs has no minimum: widen the grid of batches and learning rates",))
    edges = sum(1 for cell in cells if cell.flags)
    if edges:
        flags.append(f"{edges} of {len(cells)} cells have their own optimum on the grid's edge or not identified")
    fitted = laws(at)
    for i, name in enumerate(NAMES):
        apart = [
            f"N {cell.N:.3g}, T {cell.T:.3g}: {best:.3g} against {law:.3g} by the law"
            for cell in cells
            if cell.optimum and not cell.flags
            for (best, low, high), law in [(cell.optimum[name], fitted[name](N=cell.N, T=cell.T))]
            if not low / ALIKE <= law <= high * ALIKE
        ]
        if len(apart) > max(1, 0.1 * len(cells)):
            flags.append(f"the law of {name} disagrees with the optimum of {len(apart)} cells ({'; '.join(apart[:3])})")
    keep = np.isfinite(others[:, 0, 0])
    return HyperFit(cells, fitted, laws(others[keep]), tuple(flags), symmetric(found.coefficients[n + 6 :]))
