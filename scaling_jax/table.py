"""Tables of runs, CSV or Parquet: one row a run, columns N, T, batch, lr, loss, C, noise_scale in absolute counts (parameters, tokens,
tokens a step, FLOPs), and seed; other columns ignored."""
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from core_jax.tables import read_table
from scaling_jax.cost import TokenFlops

COLUMNS = ("N", "T", "batch", "lr", "loss", "C", "noise_scale", "seed")
LEAST = {"N": 1e3, "T": 1e4}
"""a table whose largest N or T is less is taken to be in another unit"""
TOKENS_A_PARAMETER = 1e-2, 1e4
"""a table whose median T/N lies outside is taken to have N or T in millions or billions: no published table of runs comes near"""
SAME = 0.01
"""by which the T of one size's runs may differ, in log, and be one T: steps are whole, so each batch ends a little elsewhere"""
SUFFIX = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
Column = Float[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class Table:
    """Runs; batch and lr are None where the table does not have them."""

    N: Column
    T: Column
    loss: Column
    C: Column
    batch: Column | None = None
    lr: Column | None = None
    noise_scale: Column | None = None
    """of the gradient, in tokens (McCandlish et al. 2018); NaN where it was not measured"""
    seeds: Float[np.ndarray, "n seeds"] | None = None
    """loss with each seed of the table, NaN where a run has none of it, of which `loss` is the mean; None where seeds are not known"""

    def __len__(self) -> int:
        return len(self.N)

    def __getitem__(self, rows: np.ndarray) -> "Table":
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Table(**{name: None if column is None else column[rows] for name, column in fields.items()})

    @property
    def X(self) -> Float[np.ndarray, "n 2"]:
        """(N, T), what the loss law depends on."""
        return np.stack([self.N, self.T], 1)

    def cells(self) -> list["Table"]:
        """The runs of each (N, T)."""
        sizes = [np.flatnonzero(self.N == N) for N in np.unique(self.N)]
        return [self[rows[np.sort(at)]] for rows in sizes for at in together(self.T[rows], SAME)]

    @property
    def seeded(self) -> bool:
        """Whether each run was made with several seeds, which tell how runs err, and how those of one seed err together."""
        return self.seeds is not None and bool((np.isfinite(self.seeds).sum(1) > 1).all())

    def errors(self, draws: int) -> Float[np.ndarray, "d n"]:
        """Draws of the errors of log losses, of a table that is `seeded`: within each size what a seed does to all its runs and at all T goes together.

        Student's t: a run's S seeds lie δ_s from their mean, whose error is Σ_s g_s·δ_s / √(S(S − 1)) with g normal, the same g for all runs of a size,
        over √(χ²/ν), ν the degrees of freedom of all sizes together: how far seeds scatter is itself known from few of them.
        """
        rng, found, freedom = np.random.default_rng(0), np.zeros((draws, len(self))), 0
        for rows in (np.flatnonzero(self.N == N) for N in np.unique(self.N)):
            known = np.isfinite(self.seeds[rows])
            S = known.sum(1, keepdims=True)
            log_loss = np.where(known, np.log(self.seeds[rows]), 0)
            apart = np.where(known, log_loss - log_loss.sum(1, keepdims=True) / S, 0)
            found[:, rows] = rng.standard_normal((draws, known.shape[1])) @ (apart / np.sqrt(S * (S - 1))).T
            freedom += known.any(0).sum() - 1
        return found / np.sqrt(rng.chisquare(freedom, (draws, 1)) / freedom)

    def mean_over_seeds(self, seed: np.ndarray | None = None) -> "Table":
        """Runs of one (N, T, batch, lr) as one, with their mean loss, NaN if one has none: the best of several lies below what a run reaches.

        Args:
          seed: of each run, if known.
        """
        columns = [column for column in (self.N, self.T, self.batch, self.lr) if column is not None]
        if len(columns) == 2:
            return self  # what sets runs of one (N, T) apart is not known
        _, first, which = np.unique(np.stack(columns, 1), axis=0, return_index=True, return_inverse=True)

        def mean(column: Column, counted: np.ndarray) -> Column:
            with np.errstate(invalid="ignore"):
                return np.bincount(which.ravel(), np.where(counted, column, 0)) / np.bincount(which.ravel(), counted)

        merged = {"loss": mean(self.loss, np.ones(len(self)))}
        if self.noise_scale is not None:
            merged["noise_scale"] = mean(self.noise_scale, np.isfinite(self.noise_scale))
        if seed is not None:
            kinds, column = np.unique(seed, return_inverse=True)
            merged["seeds"] = np.full((len(first), len(kinds)), np.nan)
            merged["seeds"][which.ravel(), column.ravel()] = self.loss
        return dataclasses.replace(self[first], **merged)[np.argsort(first)]

    def best(self) -> "Table":
        """The best run of each (N, T) where batch or lr vary, else all runs."""
        if self.batch is None and self.lr is None:
            return self
        winners = [cell[np.array([cell.loss.argmin()])] for cell in self.cells()]
        joined = {field.name: [getattr(one, field.name) for one in winners] for field in dataclasses.fields(self)}
        return Table(**{name: None if parts[0] is None else np.concatenate(parts) for name, parts in joined.items()})


def together(x: Column, width: float) -> list[np.ndarray]:
    """Places of the values that belong together, from the least value on: the logs of such a group span at most `width`."""
    order, groups, first = np.argsort(x, kind="stable"), [], 0
    for i in range(1, len(x) + 1):
        if i == len(x) or np.log(x[order[i]] / x[order[first]]) > width:
            groups.append(order[first:i])
            first = i
    return groups


def number(text: str) -> float:
    """"1.07B" is 1.07e9; an empty cell is NaN."""
    match = re.fullmatch(r"\s*([-+0-9.eE]*|(?i:nan|-?inf))\s*([KMBT]?)\s*", text)
    try:
        return (float(match[1]) if match[1] else np.nan) * SUFFIX[match[2]]
    except (TypeError, ValueError):
        raise ValueError(f"{text!r} is not a number") from None


def read(
    path: epath.PathLike, *, rename: dict[str, str] = {}, units: dict[str, float | None] = {}, token_flops: TokenFlops = TokenFlops(),
    skip_diverged: bool = False, drop_highest: int = 0,
) -> Table:
    """Reads a table of runs; those that differ in nothing but their seed become one, see `Table.mean_over_seeds`.

    Args:
      rename: our name → the file's.
      units: what one N or T of the file stands for; None where it is not said.
      token_flops: C_token, by which C follows from T or T from C where one of them is missing.
      skip_diverged: leave out runs whose loss is not finite.
      drop_highest: leave out this many runs of the highest loss.

    Raises:
      ValueError: with the column, row or unit that is wrong, and the flag that settles it.
    """
    held = read_table(path)
    held = {name: held[name].to_numpy(zero_copy_only=False) for name in held.column_names}
    names = {name: rename.get(name, name) for name in COLUMNS}
    if missing := [f"{name}={column}" for name, column in rename.items() if column not in held]:
        raise ValueError(f"--columns {' '.join(missing)}: {path} has the columns {', '.join(held)}")
    found = {name: _floats(held[column], f"{path}, column {column}") for name, column in names.items() if column in held and name != "seed"}
    seed = held[names["seed"]].astype(str) if names["seed"] in held else None
    needed = [name for name in ("N", "loss") if name not in found] + (["T (or C)"] if not {"T", "C"} & found.keys() else [])
    if needed:
        raise ValueError(
            f"{path} has no column {', '.join(needed)}; it has {', '.join(held)}; say which is which, for instance --columns \"N=Model Size\""
        )
    columns = [name for name in ("N", "T") if name in found]
    for name in columns:
        found[name] = found[name] * _unit(name, found[name], units.get(name))
    with np.errstate(invalid="ignore"):  # what is no positive number is reported below
        if "T" not in found:
            found["T"] = found["C"] / token_flops(found["N"])
            if (less := (found["T"] > 0) & (found["T"] < 1)).any():
                row = int(less.argmax())
                said = f"C is {found['C'][row]:g}, which is {found['T'][row]:.1g} tokens by {token_flops}"
                raise ValueError(f"{path}, run {row + 1}: {said}, and FLOPs are wanted")
        if "C" not in found:
            found["C"] = token_flops(found["N"]) * found["T"]
    _refuse_unlikely(found["N"], found["T"], {name: units.get(name) for name in columns})
    return _checked(Table(**found), seed, path, skip_diverged, drop_highest)


def _floats(column: np.ndarray, name: str) -> Column:
    if column.dtype.kind in "fiu":
        return column.astype(float)
    try:
        return np.array([number("" if cell is None else str(cell)) for cell in column])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _unit(name: str, values: Column, said: float | None) -> float:
    if said is not None:
        return said
    largest = np.max(values[np.isfinite(values)], initial=-np.inf)
    if largest >= LEAST[name] or largest <= 0:
        return 1.0
    what = {"N": "parameters", "T": "tokens"}[name]
    raise ValueError(
        f"column {name} ends at {largest:g}: these look like millions or billions of {what}, and counts are wanted; "
        f"give --unit-{name} 1e6 for millions, 1e9 for billions, 1 if they are counts"
    )


def _refuse_unlikely(N: Column, T: Column, units: dict[str, float | None]) -> None:
    """Raises ValueError where the tokens of a parameter are so few or many that a unit is not what it seems.

    Args:
      units: of those of N and T that are columns; None where it was not said.
    """
    unsaid = [name for name, unit in units.items() if unit is None]
    with np.errstate(all="ignore"):  # what is no positive number is reported elsewhere
        ratio = float(np.median(T / N)) if len(N) else np.nan
    low, high = TOKENS_A_PARAMETER
    if unsaid and np.isfinite(ratio) and ratio > 0 and not low <= ratio <= high:
        flags = " ".join(f"--unit-{name} 1" for name in unsaid)
        by = "".join(f" by --unit-{name} {unit:g}" for name, unit in units.items() if unit not in (None, 1))
        raise ValueError(
            f"half of the runs saw {'more' if ratio > high else 'less'} than {ratio:.3g} tokens a parameter{by}, and {low:g} to {high:g} are likely: "
            f"if {' or '.join(unsaid)} is in millions or billions, give its unit, as --unit-{unsaid[0]} 1e6; if these are counts, {flags}"
        )


def unit_flags(rows: Iterable[Mapping[str, Any]]) -> str:
    """The flags by which `fit` takes a table of counts as it is, where it would take N or T, or both, to be in millions: a small sweep's."""
    rows = list(rows)
    N, T = (np.array([float(row[name]) for row in rows]) for name in ("N", "T"))
    try:
        _unit("N", N, None), _unit("T", T, None)
        _refuse_unlikely(N, T, {"N": None, "T": None})
    except ValueError:
        return " --unit-N 1 --unit-T 1"
    return ""


def _checked(table: Table, seed: np.ndarray | None, path: epath.PathLike, skip_diverged: bool, drop_highest: int) -> Table:
    if not len(table):
        raise ValueError(f"{path} holds no run")
    for name in ("N", "T", "batch", "lr", "C"):
        column = getattr(table, name)
        if column is not None and not (np.isfinite(column) & (column > 0)).all():
            row = int(np.argmin(np.isfinite(column) & (column > 0)))
            raise ValueError(f"{path}, run {row + 1}: {name} is {column[row]:g}, and a positive number is wanted")
    bad = ~(np.isfinite(table.loss) & (table.loss > 0))
    if bad.any() and not skip_diverged:
        rows = ", ".join(str(row + 1) for row in np.flatnonzero(bad)[:5])
        raise ValueError(
            f"{path}: {bad.sum()} of {len(table)} losses are no positive number (runs {rows}{' …' if bad.sum() > 5 else ''}); "
            "give --skip-diverged to leave these runs out"
        )
    if table.batch is not None and (table.batch > table.T).any():
        row = int(np.argmax(table.batch > table.T))
        raise ValueError(f"{path}, run {row + 1}: a batch of {table.batch[row]:g} tokens is more than the run's {table.T[row]:g}; batch is in tokens a step")
    table = dataclasses.replace(table, loss=np.where(bad, np.nan, table.loss)).mean_over_seeds(seed)
    table = table[np.isfinite(table.loss)]
    if len(table) <= drop_highest:
        raise ValueError(f"{path} holds {len(table)} runs with a finite loss{f', and --drop-highest {drop_highest} leaves none' if drop_highest else ''}")
    return table[np.sort(np.argsort(table.loss)[: len(table) - drop_highest])]
