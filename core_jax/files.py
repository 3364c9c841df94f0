"""Writing files, local or gs://, so that a reader never sees half of one."""
import json
import os

from etils import epath


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes under a temporary name beside the file and renames it into place."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{path.name}.{os.getpid()}.part"
    part.write_bytes(data)
    part.replace(path)


def write_json(path: epath.PathLike, value) -> None:
    """As `write_bytes`, indented, NaN not allowed."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
