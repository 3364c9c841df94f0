"""The table of a sweep, runs.csv: read when it goes on, rewritten whole with every new row."""
import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from core_jax.files import write_bytes

COLUMNS = ("N", "T", "batch", "lr", "loss", "C", "layers", "width", "seed", "steps", "diverged", "noise_scale")
KEY = ("N", "T", "batch", "lr", "seed")


def as_text(row: dict[str, Any]) -> dict[str, str]:
    """Numbers to their last digit, None as an empty cell."""
    return {name: "" if row[name] is None else repr(row[name]) for name in COLUMNS}


def write(path: epath.Path, rows: Iterable[dict[str, str]]) -> None:
    """The table, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def _whole(path: epath.Path) -> Iterator[dict[str, str]]:
    """The table's rows. Raises ValueError: one lacks cells, as where the file was cut off."""
    for number, row in enumerate(csv.DictReader(io.StringIO(path.read_text())), 1):
        if missing := [name for name in (*KEY, *row) if row.get(name) is None]:
            raise ValueError(f"{path}, row {number} ends before its {missing[0]}: the table was cut off; take that row out to go on without it")
        yield row


class Rows:
    """Rows by what makes them one trial at one budget: measured again, a row replaces the old one."""

    def __init__(self, path: epath.Path):
        self.path = path
        self.held: dict[tuple[str, ...], dict[str, str]] = {}
        if path.exists():
            self._put(_whole(path))

    def __len__(self) -> int:
        return len(self.held)

    def _put(self, rows) -> None:
        for row in rows:
            self.held[tuple(row[name] for name in KEY)] = row

    def add(self, rows: list[dict[str, Any]]) -> None:
        self._put(map(as_text, rows))

    def write(self) -> None:
        write(self.path, self.held.values())

    def measured(self, N: int, T: int) -> bool:
        """Whether trials of a size were read at T tokens."""
        return any(key[:2] == (repr(N), repr(T)) for key in self.held)

    def losses(self, N: int, T: int, grid: list[tuple[int, int, float]]) -> Float[np.ndarray, "trials"]:
        """Of each (seed, tokens a step, lr) of a size at T tokens, NaN where it diverged or was not measured."""
        rows = [self.held.get(tuple(map(repr, (N, T, batch, lr, seed)))) for seed, batch, lr in grid]
        return np.array([float(row["loss"]) if row and row["loss"] else np.nan for row in rows])
