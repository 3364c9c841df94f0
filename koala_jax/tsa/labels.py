"""Labels of people: a table `file, rater…` or `file, score`, made one number a clip.

Raters differ in mean and spread; Koala-36M (arXiv 2410.08260, appendix B) removes that before it averages:

    z_ij = (x_ij − μ_j) / σ_j over the clips i of rater j,   y_i = mean over the raters of μ + σ·z_ij

μ and σ are those of all labels. An empty cell is a clip that the rater did not see. A rater who always says the same says nothing of any clip;
one that only such raters saw has μ.
"""
import dataclasses

import numpy as np
from etils import epath
from jaxtyping import Float

from core_jax.tables import read_table, texts
from core_jax.words import counted


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """files: as the table names them; ratings: NaN where a rater gave none."""

    files: tuple[str, ...]
    raters: tuple[str, ...]
    ratings: Float[np.ndarray, "n raters"]

    @classmethod
    def read(cls, path: epath.PathLike, columns: tuple[str, ...] = ()) -> "LabelTable":
        """Args:
          columns: the raters', or the one of a mean score; by default every column but `file`.

        Raises:
          ValueError: no table, a column that is not there, a cell that is no number, a clip named twice or without any label.
        """
        table = read_table(path, ("file",))
        if "file" not in table.column_names:
            raise ValueError(f"{path} has no column `file`; its columns are {', '.join(table.column_names)}")
        raters = columns or tuple(name for name in table.column_names if name != "file")
        if missing := [name for name in raters if name not in table.column_names] or not raters:
            raise ValueError(f"{path} has no column {', '.join(missing) if raters else 'of labels'}; its columns are {', '.join(table.column_names)}")
        files = tuple(texts(table, "file", path))
        if not all(files):
            raise ValueError(f"{path} names no file in row {files.index(next(file for file in files if not file)) + 1}")
        if len(set(files)) < len(files):
            twice = next(name for name in files if files.count(name) > 1)
            raise ValueError(f"{path} names {twice} twice")
        ratings = np.stack([_numbers(table.column(name).to_pylist(), name, path) for name in raters], 1)
        if (blind := ~np.isfinite(ratings).any(1)).any():
            raise ValueError(f"{path} gives {counted(int(blind.sum()), 'clip')} no label, the first {files[int(blind.argmax())]}")
        return cls(files, raters, ratings)

    def scores(self) -> Float[np.ndarray, "n"]:
        """y of the equation above; of one rater, the labels as they are."""
        if len(self.raters) == 1:
            return self.ratings[:, 0]
        mean, std = np.nanmean(self.ratings), np.nanstd(self.ratings)
        own = np.nanstd(self.ratings, 0)
        z = (self.ratings - np.nanmean(self.ratings, 0)) / np.where(own > 1e-9 * std, own, np.nan)
        told = np.isfinite(z)
        return mean + std * np.where(told, z, 0).sum(1) / np.maximum(told.sum(1), 1)


def _numbers(cells: list, name: str, path: epath.PathLike) -> np.ndarray:
    numbers = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        if cell is None:
            continue
        try:
            numbers[i] = float(cell)
        except (TypeError, ValueError):
            pass
        if not np.isfinite(numbers[i]):
            told = f"{path}, column {name}, row {i + 1}: {cell!r} is not a number"
            raise ValueError(f"{told}; --columns names the raters' columns" if isinstance(cell, str) else f"{told}; leave an unknown label empty")
    return numbers
