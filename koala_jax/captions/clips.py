"""The clips to caption: a folder of videos, or a table of them, and frames of each."""
import collections
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath
from jaxtyping import UInt8

from core_jax.files import VIDEOS, existing, videos, whole
from core_jax.tables import TABLES, of_table, read_table, texts
from core_jax.video import VideoInfo
from core_jax.video_worker import DecodePool
from koala_jax.captions.schema import Part
from koala_jax.journal import key

log = logging.getLogger(__name__)

FILES = 16
"""of as many a sampler remembers when their frames are shown"""
PARTS = tuple(part.value for part in Part)
"""columns of a table that is captioned already"""


@dataclasses.dataclass(frozen=True)
class Clip:
    """A file, or the part of it between two times, and what is read of its row."""

    path: str
    """whole, if `open_table` made it"""
    file: str
    """as the table names it"""
    start_s: float | None = None
    """seconds; None is the file's beginning"""
    end_s: float | None = None
    row: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """What sets it apart from all other clips of its table."""
        return self._part_of(self.file)

    @functools.cached_property
    def key(self) -> str:
        """What sets it apart from all other clips of all tables, at any time; the file is asked once, by whom it is asked first."""
        return key(self._part_of(self.path), self.path)

    @property
    def moving_key(self) -> str:
        """As `key`, the same wherever its table lies, together with its clips."""
        return key(self.name, self.path)

    def _part_of(self, file: str) -> str:
        return file if self.start_s is None and self.end_s is None else f"{file} {self.start_s} {self.end_s}"


def open_clips(path: epath.PathLike) -> list[Clip]:
    """As `open_table`, the clips alone, with their parts."""
    return open_table(path)[0]


def open_table(path: epath.PathLike, told: tuple[str, ...] = PARTS) -> tuple[list[Clip], pa.Table]:
    """The clips that a path means, and, a row for each, the columns of the table that it is; no column of a folder.

    They are the videos of a folder, recursively, by name; or the rows of a CSV or Parquet table with the column `file`, relative to it, and
    perhaps `start_s` and `end_s`, which in a table of `koala_jax.split` (columns `source` and `clip`) are times of the source, so that
    the whole file is the clip. A row of split's whose clip was not cut is left out.

    Args:
      told: columns that stand in a clip's `row`; of a scored table all would take gigabytes from a million clips on.

    Raises:
      ValueError: nothing there, no such column, or a clip named twice.
    """
    path, table = existing(path), pa.table({})
    at = whole(path)
    if path.is_dir():
        clips = [Clip(str(at / file), file) for file in sorted(str(p.relative_to(path)) for p in videos(path))]
    elif path.suffix.lower() in TABLES:
        table = _cut(read_table(path, ("file", *PARTS)), path)
        names = table.column_names
        told_in = {name: texts(table, name, path) for name in ("file", *PARTS) if name in names}
        if table.num_rows and not all(told_in.get("file", [None])):
            lacks = "has a row without" if "file" in names else "has no column"
            raise ValueError(f"{path} {lacks} `file`; its columns are {', '.join(names)}")
        read = [name for name in dict.fromkeys(("file", "source", "clip", "start_s", "end_s", *told)) if name in names]
        clips = [_clip(at, row) for row in table.select(read).to_pylist()]
    elif path.suffix.lower() in VIDEOS:
        clips = [Clip(str(at), path.name)]
    else:
        raise ValueError(f"{path} is neither a folder, a video ({', '.join(VIDEOS)}), nor a .csv or .parquet table")
    if not clips:
        raise ValueError(f"{path} holds no clip")
    names = [clip.name for clip in clips]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} names {collections.Counter(names).most_common(1)[0][0]!r} twice")
    return clips, table


def of_split(columns: Collection[str]) -> bool:
    """Whether a table is one of koala_jax.split's clips, each a file of its own, whose times are those in the source."""
    return {"source", "clip"} <= {*columns}


def _cut(table: pa.Table, path: epath.Path) -> pa.Table:
    """Of a table of koala_jax.split, the rows whose clip has a file."""
    if not of_split(table.column_names) or "file" not in table.column_names:
        return table
    there = table.filter(pa.array([bool(file) for file in table["file"].to_pylist()], pa.bool_()))
    if there.num_rows < table.num_rows:
        log.warning("%d of the %d clips of %s were not cut, and are left out", table.num_rows - there.num_rows, table.num_rows, path)
    return there


def _clip(table: epath.Path, row: dict[str, Any]) -> Clip:
    file, times = str(row["file"]), []
    cut = of_split(row)
    for name in ("start_s", "end_s"):
        try:
            seconds = math.nan if row.get(name) in (None, "") else float(row[name])
        except (TypeError, ValueError):
            seconds = math.inf
        if math.isinf(seconds):
            raise ValueError(f"{table} gives {file} {name} {row[name]!r}, which is not a number of seconds")
        times.append(None if cut or math.isnan(seconds) else seconds)
    return Clip(str(of_table(file, table)), file, *times, row)


def why_none(clip: Clip) -> str | None:
    """Why there is no such clip, as far as that is seen without opening its file."""
    if not epath.Path(clip.path).exists():
        return f"there is no file {clip.path}"
    if None not in (clip.start_s, clip.end_s) and clip.start_s >= clip.end_s:
        return f"{clip.file}: a clip from {clip.start_s:g} to {clip.end_s:g} s must end after it begins"
    return None


def sampler(frames: int, side: int, pool: DecodePool) -> Callable[[Clip], UInt8[np.ndarray, "T H W 3"]]:
    """What gives frames at the middles of equal spans of a clip; the longer side has `side` pixels. A table of a thousand spans of one film
    does not read that film's timestamps a thousand times.

    It raises:
      VideoError: the file cannot be read.
      ValueError: the clip lies outside of its file.
    """
    probe = functools.lru_cache(FILES)(pool.probe)
    return lambda clip: _sample(clip, probe(clip.path), frames, side, pool)


def _sample(clip: Clip, info: VideoInfo, frames: int, side: int, pool: DecodePool) -> UInt8[np.ndarray, "T H W 3"]:
    first = info.seconds[0] if clip.start_s is None else clip.start_s
    last = info.seconds[0] + info.duration if clip.end_s is None else clip.end_s
    if not info.seconds[0] - 1e-3 <= first < last <= info.seconds[0] + info.duration + 1:
        raise ValueError(f"{clip.file}: a clip from {first:g} to {last:g} s does not lie in its {info.duration:g} s")
    scale = min(1.0, side / max(info.shown))
    size = tuple(max(1, round(pixels * scale)) for pixels in info.shown)
    return pool.read_clip(clip.path, first + (np.arange(frames) + 0.5) / frames * (last - first), size)
