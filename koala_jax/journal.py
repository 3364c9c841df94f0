"""Rows of a table in the making: written in small parts as they come, so that a rerun, on whatever hosts, repeats none of them.

A part is one JSON file in OUT.parts/, written whole; hosts never write to one file. When all rows are there, the host that sees it writes
the table. Works on any store that etils knows.
"""
import hashlib
import itertools
import json
import math
import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath
from jaxtyping import Int

from core_jax.files import ASKED, each, stamp, unbroken, write_bytes

Row = dict[str, Any]
TAKEN = 2**16
"""rows that Arrow is asked for at a time: it joins what it takes from, of which no column may have more than 2**31 letters or numbers"""


def parts_of(out: epath.PathLike) -> epath.Path:
    """The folder of a table's parts."""
    out = epath.Path(out)
    return out.parent / f"{out.name}.parts"


def stopped(out: epath.PathLike) -> str:
    """What a command says that Ctrl-C ended, perhaps before its first part."""
    begun = f" from what is finished in {folder}" if (folder := parts_of(out)).exists() else ""
    return f"stopped: the same command goes on{begun}"


class Journal:
    """The rows of one command with one set of settings; others' rows in the same folder are not seen."""

    def __init__(self, out: epath.PathLike, settings: Any):
        """Args:
        settings: whatever changes a row, as JSON.
        """
        self.out = epath.Path(out)
        self.settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = parts_of(out)
        self.newest = 0
        """nanoseconds of the newest part that was seen"""

    def add(self, rows: list[Row]) -> None:
        """Keeps rows, on the disk when this returns; each has a `key`, and replaces what was kept under it before."""
        name = hashlib.sha256(json.dumps([row["key"] for row in rows]).encode()).hexdigest()[:12]
        self.newest = max(time.time_ns(), self.newest + 1)  # the clock that named the others may go before this one
        write_bytes(self.folder / f"{self.settings}-{self.newest:020}-{name}-{len(rows)}.json", json.dumps(rows, allow_nan=False).encode())

    def parts(self) -> Iterator[list[Row]]:
        """The rows of all hosts, oldest first, a part at a time: as dicts, all of a million clips with embeddings take 30 GB."""
        parts = self._parts()
        if parts:
            self.newest = max(self.newest, int(parts[-1].name.split("-")[1]))
        return each(_rows, parts, ahead=ASKED)

    def _parts(self) -> list[epath.Path]:
        there = self.folder.iterdir() if self.folder.exists() else ()
        return sorted(path for path in there if path.name.startswith(self.settings) and path.suffix == ".json")

    def table(self, keys: Collection[str], schema: pa.Schema) -> pa.Table:
        """The newest rows of these keys, in order; a key of none is passed over. None at all while the names of the parts tell that they cannot hold so
        many rows: who is done long before the others reads nothing."""
        numbers = (path.stem.split("-")[3:] for path in self._parts())  # an earlier version's names tell no number
        enough = sum(int(*number) if number else math.inf for number in numbers) >= len(keys)
        return newest(self.parts() if enough else (), keys, schema)

    def rows(self) -> dict[str, Row]:
        """key → newest row, of all hosts."""
        return {row["key"]: row for rows in self.parts() for row in rows}


def table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Made of a thousand rows at a time: as dicts they take several times the memory of the table, and so they do as batches of a few."""
    rows = iter(rows)
    some = iter(lambda: list(itertools.islice(rows, 1000)), [])
    return pa.Table.from_batches((pa.RecordBatch.from_pylist(rows, schema) for rows in some), schema)


def newest(parts: Iterable[list[Row]], keys: Collection[str], schema: pa.Schema) -> pa.Table:
    """The rows of these keys, in order, of several of one key the last; a key of none is passed over."""
    held = table(itertools.chain.from_iterable(parts), pa.unify_schemas([schema, pa.schema({"key": pa.string()})]))
    place = {key: i for i, key in enumerate(held["key"].to_pylist())}
    rows, held = np.array([place[key] for key in keys if key in place], int), held.select(schema.names)
    return pa.concat_tables([_taken(held, rows[i : i + TAKEN]) for i in range(0, len(rows), TAKEN)] or [held[:0]])


def _taken(held: pa.Table, rows: Int[np.ndarray, "n"]) -> pa.Table:
    """Read in the order in which they lie, and then brought into theirs; a row may be asked for more than once."""
    once, back = np.unique(rows, return_inverse=True)
    mask = np.zeros(held.num_rows, bool)
    mask[once] = True
    return held.filter(pa.array(mask)).take(back)


def key(name: str, file: epath.PathLike) -> str:
    """A row's key, of the clip of this name: a file that has changed is another one, and so is one that is gone."""
    try:
        size, changed = stamp(file)
    except OSError:  # as a link to nowhere: its row will say so
        return name
    return f"{name} {size} {changed}"


def _rows(part: epath.Path) -> list[Row]:
    """None of a part that a host lost as it went down: their clips are done again."""
    return unbroken(part, lambda part: json.loads(part.read_text())) or []
