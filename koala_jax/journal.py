"""Rows of a table in the making: written in small parts as they come, so that a rerun, on whatever hosts, repeats none of them.

A part is one JSON file in OUT.parts/, written whole; hosts never write to one file. When the rows of all files are there, the host that
sees it writes the table. Works on any store that etils knows.
"""
import hashlib
import io
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from etils import epath

from core_jax.files import write_bytes

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

    def add(self, rows: list[Row]) -> None:
        """Keeps rows; each has a `file`."""
        name = hashlib.sha256(json.dumps([row["file"] for row in rows]).encode()).hexdigest()[:12]
        write_bytes(self.folder / f"{self.settings}-{name}.json", json.dumps(rows, allow_nan=False).encode())

    def rows(self) -> dict[str, Row]:
        """file → row, of all hosts."""
        if not self.folder.exists():
            return {}
        parts = sorted(path for path in self.folder.iterdir() if path.name.startswith(self.settings) and path.suffix == ".json")
        return {row["file"]: row for path in parts for row in json.loads(path.read_text())}

    def finish(self, files: Iterable[str], schema: pa.Schema, metadata: dict[str, str]) -> bool:
        """Writes the table in the order of the files, if a row of each is there."""
        rows = self.rows()
        files = list(files)
        if any(file not in rows for file in files):
            return False
        table = pa.Table.from_pylist([rows[file] for file in files], schema=schema.with_metadata(metadata))
        buffer = io.BytesIO()
        pa.parquet.write_table(table, buffer)
        write_bytes(self.out, buffer.getvalue())
        return True
