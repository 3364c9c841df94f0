"""Writing files, local or gs://, so that a reader never sees half of one."""
import json
import os

from etils import epath


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes under a temporary name beside the file and renames it into place; an OSError names the file and leaves no part of it."""
    path = epath.Path(path)
    part = path.parent / f".{path.name}.{os.getpid()}.part"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        error.filename = error.filename or str(path)
        raise


def write_json(path: epath.PathLike, value) -> None:
    """As `write_bytes`, indented, NaN not allowed."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
