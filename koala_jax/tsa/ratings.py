"""What raters said of clips, kept as they say it; the order in which they see them; how far they agree."""
import contextlib
import csv
import dataclasses
import fcntl
import io
import itertools
import threading
from collections.abc import Iterator

import numpy as np
from etils import epath
from jaxtyping import Float

from core_jax.files import remote, write_bytes
from koala_jax.tsa.agreement import agreement

ASPECTS = ("dynamic", "static", "naturalness", "overall")
"""Koala-36M's criteria (arXiv 2410.08260, section 4.3.1): movement and steadiness; subject, detail and composition; no effects,
transitions, subtitles or logos; and the suitability as a whole, which is what is learned. Each from 1 to 5."""
APART = 10
"""clips, at least, between a clip and its repeat, where there are so many"""


@dataclasses.dataclass(frozen=True)
class Rating:
    """One look at one clip."""

    rater: str
    file: str
    repeat: int
    """0, or 1 for the second look"""
    dynamic: int
    static: int
    naturalness: int
    overall: int

    def __post_init__(self):
        for aspect in ASPECTS:
            if type(value := getattr(self, aspect)) is not int or not 1 <= value <= 5:  # True and 3.0 would be written as no reader takes them
                raise ValueError(f"{aspect} {value!r}: a rating is a whole number from 1 to 5")


def order(files: list[str], repeats: float, rater: str, seed: int) -> list[tuple[str, int]]:
    """(file, repeat) in a rater's own order: every clip once, and a share of them, of those that come first, a second time."""
    rng = np.random.default_rng([seed, *rater.encode()])
    shuffled = [files[i] for i in rng.permutation(len(files))]
    again = shuffled[: round(repeats * len(files))]
    places = [min(i + APART + int(rng.integers(APART)), len(files)) for i in range(len(again))]
    seen = [(file, 0) for file in shuffled]
    for file, place in sorted(zip(again, places), key=lambda item: -item[1]):
        seen.insert(max(place, seen.index((file, 0)) + 1), (file, 1))
    return seen


class Ratings:
    """A table of ratings on disk, and beside it the labels that training reads."""

    def __init__(self, labels: epath.PathLike):
        """Reads what is there. Raises ValueError where it is no table of ratings, or the labels come from elsewhere and would be written over."""
        self.labels = epath.Path(labels)
        self.path = self.labels.parent / f"{self.labels.stem}.ratings.csv"
        if self.labels.exists() and not self.path.exists():
            raise ValueError(f"{labels} is there, and no {self.path.name} beside it: labels that were not made here would be lost; give another --out")
        self.rows, self.lock = self._read(), threading.Lock()

    def add(self, rating: Rating) -> None:
        """Keeps a rating at once, beside what another rater has written meanwhile; a later one of the same look replaces it."""
        look = lambda r: (r.rater, r.file, r.repeat)  # noqa: E731
        with self.lock, _alone(self.path):
            self.rows = [row for row in self._read() if look(row) != look(rating)] + [rating]
            self._write()

    def _read(self) -> list[Rating]:
        rows = []
        if self.path.exists():
            try:
                for row in csv.DictReader(io.StringIO(self.path.read_text())):
                    numbers = {name: int(row[name]) for name in ("repeat", *ASPECTS)}
                    rows.append(Rating(row["rater"], row["file"], **numbers))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{self.path} is no table of ratings: {error}") from error
        return rows

    def _write(self) -> None:
        names = [field.name for field in dataclasses.fields(Rating)]
        write_bytes(self.path, _csv(names, [[getattr(row, name) for name in names] for row in self.rows]))
        raters = sorted({row.rater for row in self.rows})
        means: dict[tuple[str, str], list[int]] = {}
        for row in self.rows:
            means.setdefault((row.file, row.rater), []).append(row.overall)
        files = sorted({row.file for row in self.rows})
        cells = [[file, *(float(np.mean(means[file, r])) if (file, r) in means else "" for r in raters)] for file in files]
        write_bytes(self.labels, _csv(["file", *raters], cells))

    def agreement(self) -> dict[str, dict[str, float]]:
        """"a and b" → correlations of two raters' overall over the clips that both saw; "a again" → of one's first and second look."""
        looks = {(r.rater, r.file, r.repeat): r.overall for r in self.rows}
        raters = sorted({row.rater for row in self.rows})
        pairs = {f"{a} and {b}": ((a, 0), (b, 0)) for a, b in itertools.combinations(raters, 2)} | {f"{a} again": ((a, 0), (a, 1)) for a in raters}
        return {name: self._compared(looks, *pair) for name, pair in pairs.items()}

    def _compared(self, looks: dict, first: tuple[str, int], second: tuple[str, int]) -> dict[str, float]:
        at = lambda who, file: looks.get((who[0], file, who[1]))  # noqa: E731
        files = sorted({row.file for row in self.rows})
        both = np.array([(at(first, f), at(second, f)) for f in files if at(first, f) and at(second, f)], float).reshape(-1, 2)
        return {"clips": len(both), "SRCC": agreement(both[:, 0], both[:, 1])["SRCC"], "mean |difference|": _mean(np.abs(both[:, 0] - both[:, 1]))}


@contextlib.contextmanager
def _alone(path: epath.Path) -> Iterator[None]:
    """Other processes wait that want the same, by a lock that a dying one lets go of. A store has no locks."""
    if remote(path):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / f".{path.name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _mean(x: Float[np.ndarray, "n"]) -> float:
    return float(x.mean()) if x.size else float("nan")


def _csv(names: list[str], rows: list[list]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([names, *rows])
    return text.getvalue().encode()
