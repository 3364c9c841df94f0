"""What evenly spaced examples of a dataset say for all of them: scores, and how long captions are. It is kept beside the records, of which each
would have to be read with its video."""
import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from core_jax.files import each, nulled, unbroken
from videodit_jax.data.clips import COUNTED
from videodit_jax.text import TextConfig

FILE = "sample.json"


@dataclasses.dataclass(frozen=True)
class Looked:
    """One example; a score that is not known is missing, or NaN."""

    scores: dict[str, float]
    words: int
    """and marks of its caption"""
    tokens: int
    """features of its caption, 0 where there are none"""

    @classmethod
    def at(cls, scores: dict[str, float], caption: str, tokens: int) -> "Looked":
        return cls(scores, len(TextConfig().pieces(caption)), tokens)


class Sample:
    """Every `step`-th of the examples that are added, of which there may be any number: at least COUNTED, or all, and fewer than twice as many."""

    def __init__(self):
        self.kept, self.step, self.number = [], 1, 0

    def add(self, one: Looked) -> None:
        if self.number % self.step == 0:
            self.kept.append(one)
        if len(self.kept) == 2 * COUNTED:
            self.kept, self.step = self.kept[::2], 2 * self.step
        self.number += 1


def write(folder: epath.Path, samples: dict[str, Sample]) -> None:
    """Of each split."""
    held = {split: {"step": sample.step, "kept": [dataclasses.astuple(one) for one in sample.kept]} for split, sample in samples.items()}
    (folder / FILE).write_text(json.dumps(nulled(held)))


def read(folders: Sequence[epath.PathLike], numbers: Sequence[int], split: str, rows: range) -> list[Looked]:
    """Of those rows of a split; nothing where one of the folders, of which each has so many examples of it, keeps no sample.

    Hosts whose parts were kept at different steps count by their numbers: all are read at the largest step, a power of two times each.
    """
    files = list(each(lambda folder: unbroken(epath.Path(folder) / FILE, lambda path: json.loads(path.read_text())), folders))
    if not all(file and split in file or not number for file, number in zip(files, numbers)):
        return []
    parts = [file[split] if number else {"step": 1, "kept": []} for file, number in zip(files, numbers)]
    most, found = max((part["step"] for part in parts), default=1), []
    for part, first in zip(parts, np.cumsum([0, *numbers])):
        kept = part["kept"][:: most // part["step"]]
        found += [Looked(*one) for i, one in enumerate(kept) if first + i * most in rows]
    return found
