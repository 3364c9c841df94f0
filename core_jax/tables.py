"""CSV and Parquet tables, local or gs://, and the files that they name."""
import csv
import io
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from etils import epath

from core_jax.files import existing, in_folder, in_memory, whole, write_bytes

TABLES = (".csv", ".parquet")
"""how the files end that may name clips"""


def read_table(path: epath.PathLike, text: Iterable[str] = ()) -> pa.Table:
    """A CSV or Parquet table. Read without Arrow's pools of threads: with them one command in three that ended soon after, as by an error, was aborted.

    Args:
      text: columns of a CSV whose cells stay text, whatever they look like.

    Raises:
      ValueError: it is not there, cannot be read, is not UTF-8, has two columns of one name, no commas between them, or a quote that is not closed.
    """
    path = existing(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a table (CSV or Parquet) is wanted")
    try:
        held = pa.BufferReader(content := path.read_bytes())
        if path.suffix.lower() == ".parquet":
            table = pa.parquet.ParquetFile(held).read(use_threads=False)
        else:
            _refuse_broken(content, path)
            header = content.split(b"\n", 1)[0]
            if marks := [name for mark, name in ((b";", "semicolons"), (b"\t", "tabs")) if mark in header and b"," not in header]:
                raise ValueError(f"{path} has {marks[0]} between its columns, and commas are wanted, with points in numbers")
            whole = min(max(len(content), 1), 2**31 - 1)  # a row has to lie in one block
            alone, lines = pa.csv.ReadOptions(use_threads=False, block_size=whole), pa.csv.ParseOptions(newlines_in_values=True)
            table = pa.csv.read_csv(held, alone, lines, pa.csv.ConvertOptions(column_types=dict.fromkeys(text, pa.string())))
        names = table.column_names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a table (CSV or Parquet): {why}") from error
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} has more than one column {', '.join(twice)}")
    return table


def texts(table: pa.Table, column: str, path: epath.PathLike) -> list[str | None]:
    """A column of text, None where empty. Raises ValueError: the table, read from `path`, holds something else there, as Parquet may."""
    cells = table[column].to_pylist()
    for row, cell in enumerate(cells, 1):
        if not isinstance(cell, str | None):
            raise ValueError(f"{path} gives row {row} the `{column}` {cell!r}, which is not text")
    return cells


def _refuse_broken(content: bytes, path: epath.Path) -> None:
    """What is not UTF-8, and a quote that is not closed: what follows it is one long cell to Arrow."""
    csv.field_size_limit(2**31 - 1)  # of which Python allows less in one cell
    begin, rows = 1, csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline=""), strict=True)
    try:
        for _ in rows:
            begin = rows.line_num + 1
        if b"\0" in content:
            raise UnicodeError("UTF-16 without a mark")
    except UnicodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: save it as CSV UTF-8, with commas (a spreadsheet's Unicode text is UTF-16)") from error
    except csv.Error as error:
        raise ValueError(f'{path}, line {begin}: a cell begins with " and does not end with one; a " within such a cell is written twice') from error


def write_parquet(path: epath.PathLike, table: pa.Table) -> None:
    """As `write_bytes`."""
    write_bytes(path, in_memory(lambda file: pa.parquet.write_table(table, file)))


def write_csv(path: epath.PathLike, table: pa.Table) -> None:
    """As `write_bytes`; an empty cell is what is not known."""
    write_bytes(path, in_memory(lambda file: pa.csv.write_csv(table, file)))


def of_table(file: str, table: epath.PathLike) -> epath.Path:
    """The file that a table names: relative to the table's folder, or by its whole path."""
    return in_folder(file, epath.Path(table).parent)


def named_from(files: Iterable[str | None], table: epath.PathLike, other: epath.PathLike) -> list[str | None]:
    """Files as another table names them: as before where both tables lie in one folder, else by their whole paths; no file (a clip that was
    not cut) stays none."""
    here, there = (whole(epath.Path(path).parent) for path in (table, other))
    return [file if here == there or not file else str(in_folder(file, here)) for file in files]
