"""Rows of a table in the making: written in small parts as they come, so that a rerun, on whatever hosts, repeats none of them.

A part is one JSON file in OUT.parts/, written whole; hosts never write to one file. When all rows are there, the host that sees it writes
the table. Works on any store that etils knows.
"""
import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from core_jax.files import ASKED, each, stamp, unbroken, write_bytes

Row = dict[str, Any]


class Journal:
    """The rows of one command with one set of settings; others' rows in the same folder are not seen."""

    def __init__(self, out: epath.PathLike, settings: Any):
        """Args:
        settings: whatever changes a row, as JSON.
        """
        self.out = epath.Path(out)
        self.settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = self.out.parent / f"{self.out.name}.parts"
        self.newest = 0
        """nanoseconds of the newest part that was seen"""

    def add(self, rows: list[Row]) -> None:
        """Keeps rows, on the disk when this returns; each has a `key`, and replaces what was kept under it before."""
        name = hashlib.sha256(json.dumps([row["key"] for row in rows]).encode()).hexdigest()[:12]
        self.newest = max(time.time_ns(), self.newest + 1)  # the clock that named the others may go before this one
        write_bytes(self.folder / f"{self.settings}-{self.newest:020}-{name}.json", json.dumps(rows, allow_nan=False).encode())

    def parts(self) -> Iterator[list[Row]]:
        """The rows of all hosts, oldest first, a part at a time: as dicts, all of a million clips with embeddings take 30 GB."""
        there = self.folder.iterdir() if self.folder.exists() else ()
        parts = sorted(path for path in there if path.name.startswith(self.settings) and path.suffix == ".json")
        if parts:
            self.newest = max(self.newest, int(parts[-1].name.split("-")[1]))
        return each(_rows, parts, ahead=ASKED)

    def rows(self) -> dict[str, Row]:
        """key → newest row, of all hosts."""
        return {row["key"]: row for rows in self.parts() for row in rows}


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
