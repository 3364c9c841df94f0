"""What the figures of scaling laws show, as data: series of points, lines and bands, from a table of runs and the laws of `fit`."""
import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.colors
import numpy as np

from scaling_jax import hyper_fit, loss_fit, size_fit
from scaling_jax.laws import Form
from scaling_jax.results import Fitted
from scaling_jax.table import Table

CELLS = 6
"""(N, T) whose learning rates and batches are shown"""
SIZES = 8
"""sizes whose losses are shown over tokens"""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#222222")
OVER = -1
"""group of what lies over all others, in the last colour"""


@dataclasses.dataclass(frozen=True)
class Series:
    """Points, or a line, or with `low` and `high` a band; series of one group have one colour, and groups, but for OVER, an order."""

    name: str
    group: int
    x: Sequence[float]
    y: Sequence[float]
    line: bool = False
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """One pair of axes, x logarithmic."""

    name: str
    """of its file"""
    title: str
    x: str
    y: str
    series: list[Series]
    log_y: bool = False

    def colours(self) -> dict[int, str]:
        """Of each group; where there are more than can be told apart, they go from dark to light in their order."""
        groups = sorted({one.group for one in self.series} - {OVER})
        if len(groups) <= len(COLOURS) - any(one.group == OVER for one in self.series):
            mine = COLOURS
        else:
            mine = map(matplotlib.colors.to_hex, matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(groups))))
        return {OVER: COLOURS[-1], **dict(zip(groups, mine))}


def charts(table: Table, found: dict[str, Any], fitted: Fitted) -> list[Chart]:
    """All figures that the table and its laws have enough for."""
    near, form = found.get("near", hyper_fit.NEAR), Form(found.get("loss", {}).get("form", Form.SUM))
    cells, _ = hyper_fit.least(table, near)
    made = [loss_of_tokens(cells, fitted), extrapolation(cells, table[table.N < table.N.max()], near, form)]
    if size := found.get("size"):
        made += [isoflop(size["budgets"], size["lean"]["value"]), sizes(size["budgets"], fitted)]
    if table.lr is not None and table.batch is not None:
        made += hyper(table)
    return [chart for chart in made if chart is not None]


def loss_of_tokens(best: Table, fitted: Fitted) -> Chart | None:
    """L(T, N): the least loss of each (N, T), and the law."""
    if not fitted.laws.loss:
        return None
    series: list[Series] = []
    all_sizes = np.unique(best.N)
    shown = all_sizes[np.unique(np.linspace(0, len(all_sizes) - 1, min(len(all_sizes), SIZES)).astype(int))]
    of = f", {len(shown)} of {len(all_sizes)} sizes" if len(shown) < len(all_sizes) else ""
    for i, N in enumerate(shown):
        runs = best[best.N == N]
        T = np.geomspace(runs.T.min() / 1.3, runs.T.max() * 1.3, 60)
        series.append(Series(f"N = {N:.3g}", i, runs.T, runs.loss))
        series.append(Series(f"law at N = {N:.3g}", i, T, fitted.laws.loss.law(N, T), line=True))
    return Chart("loss_of_tokens", f"loss against tokens, by size: the least of each (N, T) and the law{of}", "tokens T", "loss", series)


def extrapolation(best: Table, others: Table, near: float, form: Form) -> Chart | None:
    """Relative errors of the law of the sizes but the largest, by their own runs, on them and on it."""
    largest = best.N == best.N.max()
    if len(np.unique(others.N)) < 3 or len(rest := hyper_fit.least(others, near)[0]) < 6:
        return None
    law = loss_fit.fit(rest.X, rest.loss, form, profiled=False)
    parts = [("fitted", rest), (f"left out: N = {best.N.max():.3g}", best[largest])]
    series = [Series(name, i, runs.T, 100 * (law(runs.X) / runs.loss - 1)) for i, (name, runs) in enumerate(parts)]
    series.append(Series("no error", OVER, [best.T.min(), best.T.max()], [0, 0], line=True))
    return Chart("extrapolation", "the law without the largest size, predicted over measured loss", "tokens T", "error, %", series)


def hyper(table: Table) -> list[Chart]:
    """Loss against learning rate at each batch, and against batch at each learning rate, of cells with most runs, from all sizes."""
    cells = table.cells()  # by N, then T
    least = sorted(map(len, cells))[-min(CELLS, len(cells))]
    cells = [cell for cell in cells if len(cell) >= least]
    made = []
    for number, i in enumerate(np.unique(np.linspace(0, len(cells) - 1, min(CELLS, len(cells))).round().astype(int))):
        cell = cells[i]
        for name, other in (("lr", "batch"), ("batch", "lr")):
            if len(np.unique(getattr(cell, name))) < 3:
                continue
            series = []
            for i, value in enumerate(np.unique(getattr(cell, other))):
                runs = cell[getattr(cell, other) == value]
                runs = runs[np.argsort(getattr(runs, name))]
                series.append(Series(f"{other} {value:.3g}", i, getattr(runs, name), runs.loss))
                series.append(Series(f"{other} {value:.3g}, joined", i, getattr(runs, name), runs.loss, line=True))
            words = {"lr": "learning rate", "batch": "batch, tokens a step"}
            made.append(Chart(f"loss_of_{name}_{number}", f"N = {cell.N[0]:.3g}, T = {cell.T[0]:.3g}", words[name], "loss", series))
    return made


def isoflop(budgets: list[dict[str, Any]], lean: float) -> Chart:
    """Loss against N at each budget, its curve, and the minimum."""
    series, minima = [], []
    for i, budget in enumerate(budgets):
        N = np.array(budget["N"])
        n = np.linspace(np.log(N[0]), np.log(N[-1]), 60)
        loss = lambda n: size_fit.terms(n, np.log(N).mean(), lean) @ budget["curve"]
        series.append(Series(f"C = {budget['C']:.3g}", i, N, budget["loss"]))
        series.append(Series(f"curve at C = {budget['C']:.3g}", i, np.exp(n), loss(n), line=True))
        if not budget["flags"]:
            minima.append((budget["N_opt"], float(loss(np.log(budget["N_opt"])))))
    if minima:
        series.append(Series("minimum", OVER, *zip(*minima)))
    return Chart("isoflop", "IsoFLOP curves", "parameters N", "loss", series)


def sizes(budgets: list[dict[str, Any]], fitted: Fitted) -> Chart | None:
    """N_opt(C): the curves' minima, the size law and the minimum of the loss law, each with its band."""
    inside = [budget for budget in budgets if not budget["flags"]]
    series = [Series("minima of the curves", OVER, [one["C"] for one in inside], [one["N_opt"] for one in inside])] if inside else []
    low, high = fitted.ranges["C"]
    C = np.geomspace(low, 30 * high, 40)
    falls = fitted.laws.loss and fitted.laws.loss.law.falls
    laws = [("size law", fitted.laws.size, lambda law, c: law(C=c))]
    laws.append(("minimum of the loss law", fitted.laws.loss if falls else None, lambda law, c: law.best_size(c, fitted.token_flops)))
    for group, (name, known, of) in enumerate(laws):
        if known:
            ends = np.array([known.interval(lambda law: of(law, c)) for c in C])
            series.append(Series(f"{name} ({known.spread})", group, C, [of(known.law, c) for c in C], line=True, low=ends[:, 0], high=ends[:, 1]))
    return Chart("sizes", "best size for a budget", "training FLOPs C", "parameters N", series, log_y=True) if series else None
