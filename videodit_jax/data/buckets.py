"""Clips of several shapes, `--buckets`: which shape a file's clips have, and of which shape each batch is.

  (1) a picture goes to the shapes of one frame, a video to those of more frames that it is long enough for; among these to the nearest aspect ratio,
      |log(w/h) − log(W/H)|, and of equally near ones to that of most frames, then of most pixels
  (2) batch j of bucket k is due at (j + (k + ½)/K) / n_k, where K buckets have n_k clips each, and batches come in the order in which they are due
      (so elections give seats by divisors; the share of each k keeps buckets of one size from coming in a row)

By (2) a bucket has its share of the batches at any time, n_k of all Σn, to within 1 + n_k/Σn · K/2 batches. Batch j of a bucket is the places
j·batch … (j+1)·batch − 1 of its own stream, shuffled anew each time that it has gone through (loader.py). So all follows from a batch's number
and the sizes alone, on any number of hosts and from any place on.
"""
import functools
import hashlib
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float64
from rich.table import Table

from videodit_jax.config import named
from videodit_jax.data.clips import fitting, short

Shape = tuple[int, int, int]
"""(T, H, W) of a clip in pixels"""


def choose(shapes: Iterable[Shape], picture: bool, duration: float, rate: float, size: tuple[int, int]) -> Shape | str:
    """The shape that a file goes to by (1), or why it goes to none; `size` is (height, width) as it is shown, a video's `rate` in frames a second."""
    kind = [shape for shape in shapes if picture == (shape[0] == 1)]
    if not kind:
        return "a picture, and no bucket has one frame" if picture else "a video, and all buckets have one frame, which is for pictures"
    fit = [shape for shape in kind if picture or fitting(duration, rate, shape[0])]
    if not fit:
        return short(duration, rate, min(shape[0] for shape in kind))
    off = lambda shape: round(abs(math.log(size[1] * shape[1] / (size[0] * shape[2]))), 6)
    return min(fit, key=lambda shape: (off(shape), -shape[0], -shape[1] * shape[2]))


@functools.lru_cache(4096)
def turn(n: int, sizes: tuple[int, ...]) -> tuple[int, int]:
    """(k, j): global batch n is batch j of bucket k, by (2)."""
    K, N = len(sizes), sum(sizes)
    share = [2 * K - 2 * k - 1 for k in range(K)]
    time = max(2 * n - K, 0)  # over 2N: by then no more than n are due
    made = [(time * size * K + N * first) // (2 * N * K) for size, first in zip(sizes, share)]
    while True:
        k = min(range(K), key=lambda k: Fraction(2 * K * (made[k] + 1) - share[k], sizes[k]))
        if sum(made) == n:
            return k, made[k]
        made[k] += 1


def parts(source: Any, shape: Shape | None = None) -> dict[Shape | None, Any]:
    """The sources of one shape that a source is made of; itself alone, under `shape`, where it is one."""
    return source.parts if isinstance(source, Mixed) else {shape: source}


class Mixed:
    """Sources of one shape each (`videodit_jax.data.Source`), none empty: one that has places for all of their clips, one after the other."""

    def __init__(self, parts: dict[Shape, Any]):
        self.parts = parts

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def scores(self) -> dict[str, Float64[np.ndarray, " n"]]:
        known = [part.scores() for part in self.parts.values()]
        return {name: np.concatenate([one[name] for one in known]) for name in known[0]} if known else {}

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr([(shape, part.fingerprint) for shape, part in self.parts.items()]).encode())
        return digest.hexdigest()[:32]

    @property
    def unused(self) -> tuple[str, ...]:
        return next((part.unused for part in self.parts.values() if hasattr(part, "unused")), ())


def table(shapes: Sequence[Shape], tokens: Sequence[int], source: Mixed, held_out: Mixed) -> Table:
    """Which clips have which shape."""
    out = Table("bucket", title="clips by shape", title_justify="left")
    for heading in ("tokens", "to train on", "held out"):
        out.add_column(heading, justify="right")
    for shape, number in zip(shapes, tokens):
        clips = [len(split.parts.get(shape, ())) for split in (source, held_out)]
        out.add_row(named(shape), f"{number:,}", *(f"{n:,}" if n else "none" for n in clips))
    return out
