"""What laws fitted without the largest size are worth on it: the error of the loss law, and the loss at the batch and learning rate that
are recommended."""
import dataclasses

import numpy as np

from scaling_jax import hyper_fit, loss_fit
from scaling_jax.laws import Form
from scaling_jax.table import Table

CHANCES = 400
"""draws of the runs' noise, each with a law fitted to it"""


@dataclasses.dataclass(frozen=True)
class Holdout:
    """Relative errors |predicted / measured − 1|, means over the held-out runs."""

    N: float
    """the size left out"""
    runs: int
    error: float
    """of the law"""
    other_form: float | None
    """of the law in the other form; None where there are too few runs for both"""
    worst: float
    """its largest"""
    constant: float
    """of the mean log loss of all fitted runs"""
    tokens_alone: float
    """of E + B·T^−β"""
    gap: float | None
    """mean relative gap in loss between the largest fitted size and the held-out one at the same T, or the same C; None where neither is shared"""
    bias: float
    """mean of predicted / measured − 1, with its sign"""
    chance: tuple[float, float] | None
    """median and 95th percentile of `error` if the law were the truth and the runs' noise alone made it err, each run's by itself: an error
    beyond the second says that the law's form is wrong. None where there is no surface of (batch, lr) to tell the noise from"""

    def holds(self) -> dict[str, bool | None]:
        """What a law worth having does."""
        return {
            "error under 0.3 %": self.error < 3e-3,
            "under a quarter of the gap in loss": None if self.gap is None else self.error < self.gap / 4,
            "under half the error of a constant": self.error < self.constant / 2,
            "under half the error of a law of T alone": self.error < self.tokens_alone / 2,
        }


@dataclasses.dataclass(frozen=True)
class Recommended:
    """The batch and learning rate that the laws give the held-out size, against every pair that all its T were run with.

    Losses are those of measured runs: for a recommendation, of the run nearest to it in (log lr, log batch). Each is the mean over T
    of the loss above the best run of that T, relative.
    """

    N: float
    at: tuple[dict[str, float], ...]
    """of each T: what is recommended (lr, batch), and the nearest run (nearest_lr, nearest_batch, above_best)"""
    loss: float
    fixed: tuple[dict[str, float], ...]
    """lr, batch, loss of every fixed pair, best first"""

    @property
    def better(self) -> int:
        """Fixed pairs with less loss."""
        return sum(one["loss"] < self.loss for one in self.fixed)


def leave_largest_out(runs: Table, near: float = hyper_fit.NEAR, form: Form = Form.SUM) -> Holdout | None:
    """None where fewer than three sizes would be left to fit.

    The law is fitted to the least losses of the other sizes, by their own runs; what it is held against, by those of all. Where one of the
    two has no surface both are best runs: these lie lower.
    """
    others = runs[runs.N < runs.N.max()]
    (rest, errors), (cells, cell_errors) = (hyper_fit.least(table, near, CHANCES) for table in (others, runs))
    if errors is None or cell_errors is None:
        rest, cells = others.best(), runs.best()
    largest = cells.N == cells.N.max()
    held = cells[largest]
    if len(np.unique(rest.N)) < 3 or len(rest) < 6:
        return None

    def fitted(columns: list[int], form: Form = Form.SUM) -> tuple[loss_fit.LossFit, np.ndarray]:
        found = loss_fit.fit(rest.X[:, columns], rest.loss, form, profiled=False)
        return found, found(held.X[:, columns]) / held.loss - 1

    law, error = fitted([0, 1], form)
    other = np.abs(fitted([0, 1], form.other)[1]).mean() if len(rest) > loss_fit.CONSTANTS[Form.NORM] else None
    constant, tokens_alone = (np.abs(fitted(columns)[1]).mean() for columns in ([], [1]))
    chance = None
    if errors is not None and cell_errors is not None and np.isfinite(errors).all() and np.isfinite(cell_errors).all():
        by_noise = np.abs(loss_fit.chance(law, rest.X, errors, held.X, cell_errors[:, largest])).mean(1)
        chance = tuple(np.nanpercentile(by_noise, [50, 95]).tolist())
    absolute, next_size = np.abs(error), cells[cells.N == rest.N.max()]
    return Holdout(
        float(held.N[0]), len(held), absolute.mean(), other, absolute.max(), constant, tokens_alone, _gap(next_size, held), error.mean(), chance
    )  # fmt: skip


def recommended(table: Table, draws: int, near: float = hyper_fit.NEAR) -> Recommended | None:
    """None where fewer than two sizes would be left to fit, their laws cannot be told, or no pair is shared by all T of the largest."""
    largest = table.N == table.N.max()
    if len(np.unique(table.N)) < 3:
        return None
    laws, cells = hyper_fit.fit(table[~largest], draws, near).laws, table[largest].cells()
    shared = set.intersection(*({(float(lr), float(batch)) for lr, batch in zip(cell.lr, cell.batch)} for cell in cells))
    if not laws or not shared:
        return None
    at, fixed = [], {pair: [] for pair in shared}
    for cell in cells:
        above = cell.loss / cell.loss.min() - 1
        lr, batch = (float(laws[name](N=cell.N[0], T=cell.T[0])) for name in hyper_fit.NAMES)
        i = int(np.square(hyper_fit.points(cell) - np.log([lr, batch])).sum(1).argmin())
        at.append({"T": cell.T[0], "lr": lr, "batch": batch, "nearest_lr": cell.lr[i], "nearest_batch": cell.batch[i], "above_best": above[i]})
        for lr, batch in shared:
            fixed[lr, batch].append(above[(cell.lr == lr) & (cell.batch == batch)].min())
    ranked = sorted(({"lr": lr, "batch": batch, "loss": float(np.mean(loss))} for (lr, batch), loss in fixed.items()), key=lambda one: one["loss"])
    return Recommended(float(table.N.max()), tuple(at), float(np.mean([one["above_best"] for one in at])), tuple(ranked))


def _gap(fitted: Table, held: Table) -> float | None:
    for name in ("T", "C"):
        near = np.abs(np.log(getattr(held, name)[:, None] / getattr(fitted, name)[None])) < 0.05
        if near.any():
            i, j = np.nonzero(near)
            return float(np.mean(np.abs(fitted.loss[j] / held.loss[i] - 1)))
    return None
