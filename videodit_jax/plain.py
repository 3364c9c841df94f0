"""A folder of samples: each video alone, at its own size and without a border, and videos.csv, which names them in the workspace's columns."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath
from jaxtyping import UInt8

from core_jax.files import remote
from core_jax.tables import read_table, write_csv
from core_jax.video_out import write_video

TABLE = "videos.csv"
Row = dict[str, Any]
"""of a video: `file`, `caption`, its known scores, `seed`"""


def write_table(folder: epath.Path, rows: Sequence[Row]) -> None:
    """The table of these rows; what one of them does not have is an empty cell."""
    columns = dict.fromkeys(name for row in rows for name in row if name != "seed") | {"seed": None}
    write_csv(folder / TABLE, pa.table({name: [row.get(name) for row in rows] for name in columns}))


def ours(folder: epath.Path) -> bool:
    """Whether a folder holds what `replace` wrote and nothing else."""
    try:
        columns = read_table(folder / TABLE, ("file",)).to_pydict()
    except ValueError:  # there is none, or one that nobody here wrote
        return False
    return "seed" in columns and {path.name for path in folder.iterdir()} <= {TABLE, *columns.get("file", ())}


def refuse_others(folder: epath.Path) -> None:
    """Raises ValueError where a folder holds what is not `ours`, which `replace` would remove."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir()) and not ours(folder)):
        raise ValueError(f"each video would be written into the folder {folder}, which holds something else: take another --out")


def replace(folder: epath.Path, videos: UInt8[np.ndarray, "B T H W 3"], rows: Sequence[Row], fps: float) -> list[epath.Path]:
    """Writes the videos, named by their rows, in the place of an earlier folder; it appears whole. With no video that folder only goes."""
    part = folder if remote(folder) else folder.with_name(f".{folder.name}.part")
    for old in [part] * (part != folder) + [folder] * ours(folder):  # the first is there where its writer was killed
        if old.exists():
            old.rmtree()
    if not len(videos):
        return []
    for row, video in zip(rows, videos):
        write_video(part / row["file"], video, fps)
    write_table(part, rows)
    if part != folder:
        part.replace(folder)
    return [folder]
