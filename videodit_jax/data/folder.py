"""Clips from a folder of videos, with captions and scores from a table beside them.

A video becomes clips of T frames, one after the other from its first frame on, at the rate asked for or its own:

    (1) start(j) = begin + j · T / rate                    seconds, for every j whose clip ends within the video (`clips.fitting`)
    (2) time(j, k) = start(j) + (k + 1/2) / rate           frame k is the one shown in the middle of its place

(2) keeps a constant rate exact in spite of timestamps that are rounded to the file's time base. With buckets (buckets.py) the clips of a video have the
shape of one, and a picture is a clip of one frame.
The table is one .csv or .parquet file in the folder: `file` is the name relative to the folder, `caption` and the scores are
optional, as is a row; an empty cell or null is unknown, and further columns are read where `--model.scores` names them.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float64, UInt8

from core_jax.cores import cores
from core_jax.files import PICTURES, VIDEOS, existing, in_folder, is_picture, real, videos as find_videos
from core_jax.pictures import read_covering
from core_jax.tables import TABLES, read_table, texts
from core_jax.video_error import VideoError
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax.shots.inputs import video_of
from videodit_jax.conditioning import SCORES
from videodit_jax.config import named
from videodit_jax.data.buckets import Mixed, Shape, choose
from videodit_jax.data.clips import Clips, SetAside, fitting, short, split_last
from videodit_jax.data.probe import probe

KEEP_BYTES = 2**30
"""Clips that take less than this in all are kept in memory: decoding a video whole, once, spares the way from a keyframe to
each clip, which is most of the work in long groups of pictures."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Video:
    """A file that gives at least one clip; `begin` in seconds, `rate` in frames a second, both 0 of a picture."""

    file: str
    bytes: int
    begin: float
    rate: float
    clips: int
    caption: str
    scores: dict[str, float]


class Folder(Clips):
    """The clips of some videos, all of one shape. `set_aside` has the reason of every file that could not be used, or broke later; `unused` the
    names of the first, of both halves."""

    def __init__(
        self, path: epath.Path, videos: list[Video], video: Shape, pool: DecodePool, set_aside: SetAside, unused: tuple[str, ...] = (), beside: int = 1
    ):
        """`beside`: folders among which KEEP_BYTES are shared."""
        super().__init__(str(path), set_aside)
        self.path, self.videos, self.pool, self.unused = path, videos, pool, unused
        self.frames, *self.size = video
        self._ends = np.cumsum([v.clips for v in videos])
        keep = len(self) * int(np.prod(video)) * 3 <= KEEP_BYTES // beside
        self._locks = [threading.Lock() for _ in videos] if keep else None
        self._kept: dict[int, UInt8[np.ndarray, "n T H W 3"] | None] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.videos else 0

    def read(self, id: int) -> dict[str, Any]:
        video = self.videos[self.place(id)[0]]
        return {"video": self._pixels(id), "caption": video.caption, "scores": dict(video.scores), "id": id}

    def place(self, id: int) -> tuple[int, int]:
        """Which video a clip is from, and which of its clips it is."""
        at = int(np.searchsorted(self._ends, id, side="right"))
        return at, id - int(self._ends[at]) + self.videos[at].clips

    def times(self, video: Video, clips: range) -> Float64[np.ndarray, " n*T"]:
        """Seconds of the frames of some clips, by (1) and (2)."""
        frame = np.arange(clips.start * self.frames, clips.stop * self.frames)
        return video.begin + (frame + 0.5) / video.rate

    def _pixels(self, id: int) -> UInt8[np.ndarray, "T H W 3"]:
        at, clip = self.place(id)
        if self._locks:
            with self._locks[at]:
                if at not in self._kept:
                    try:
                        self._kept[at] = self._read(at, range(self.videos[at].clips))
                    except VideoError:  # some of it may still be good
                        self._kept[at] = None
            if self._kept[at] is not None:
                return self._kept[at][clip]
        return self._read(at, range(clip, clip + 1))[0]

    def _read(self, at: int, clips: range) -> UInt8[np.ndarray, "n T H W 3"]:
        path = str(in_folder(self.videos[at].file, self.path))
        if is_picture(path):
            pixels = self.pool.run(read_covering, path, tuple(self.size))
        else:
            pixels = self.pool.read_clip(path, self.times(self.videos[at], clips), tuple(self.size))
        pixels.flags.writeable = False
        return pixels.reshape(len(clips), self.frames, *self.size, 3)

    def scores(self) -> dict[str, Float64[np.ndarray, " n"]]:
        """Each score of every clip, NaN for unknown."""
        clips = [v.clips for v in self.videos]
        return {name: np.repeat([v.scores[name] for v in self.videos], clips) for name in self.videos[0].scores}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of names, sizes, clips, captions and scores, not of the path."""
        digest = hashlib.sha256(f"[{self.frames}, [".encode())  # as JSON, of which a million captions would take gigabytes at once
        for i, video in enumerate(self.videos):
            digest.update(f"{', ' if i else ''}{json.dumps(list(vars(video).values()))}".encode())
        digest.update(b"]]")
        return digest.hexdigest()[:32]


def open_splits(
    path: epath.PathLike,
    video: Shape,
    *,
    buckets: Collection[Shape] = (),
    fps: float | None = None,
    workers: int = cores(),
    scores: tuple[str, ...] = SCORES,
    without: Collection[str] = (),
    samples: epath.PathLike | None = None,
) -> tuple[Folder, Folder] | tuple[Mixed, Mixed]:
    """The training and the held-out clips of a folder, or of a table, split by file, or where koala_jax.split cut files from one video, by
    video, of which a tenth is held out, at most 4,096; a single file has to serve as both. With `buckets`, a tenth of each.

    Args:
      path: the folder, read recursively; or a CSV or Parquet table, of which the files that it names are taken.
      video: (T, H, W) of a clip; a video is resized to cover (H, W) and cut about its centre.
      buckets: all shapes of clips, in the place of `video`; then pictures are taken, too.
      fps: rate of the clips; each video's own if not given.
      workers: processes that decode.
      scores: columns of the table.
      without: files to leave out unasked.
      samples: folder of what a run itself films. It may lie in `path`, and then is no data: else a run that goes on would be one on other data.

    Raises:
      ValueError: no folder or table, no video, none that can be used, or a table that is wrong.
    """
    data = path
    path, files, table = listed(data, scores, bool(buckets))
    if samples is not None and real(samples).is_relative_to(real(path)):
        filmed = f"{real(samples).relative_to(real(path))}/"
        files = [file for file in files if not file.startswith(filmed)]
        if not files:
            raise ValueError(f"{path} holds no video but what the run itself filmed")
    pool, set_aside, videos = DecodePool(workers), SetAside(), {}
    asked = sorted(set(files) - set(without))
    if len(asked) < len(files):
        log.warning("%s: %d videos that could not be used as this run began stay out of it", path, len(files) - len(asked))
    shapes: dict[str, Shape] = {}
    for file, (size, begin, duration, own, *shown) in probe(data, path, asked, pool, set_aside).items():
        rate, picture = fps or own, is_picture(file)
        if buckets:
            shape = choose(buckets, picture, duration, rate, tuple(shown))
        else:
            shape = "a picture, which only --buckets can hold" if picture else video if fitting(duration, rate, video[0]) else short(duration, rate, video[0])
        if isinstance(shape, str):
            set_aside.report(VideoError(str(in_folder(file, path)), shape))
        else:
            shapes[file] = shape
            videos[file] = Video(file, size, begin, *(0.0, 1) if picture else (rate, fitting(duration, rate, shape[0])), *table[file])
    if not videos:
        file, reason = next(iter(set_aside.items()))
        raise ValueError(f"of {counted(len(files), 'video')} in {path} none can be used; the first, {file}: {reason}")
    unused = tuple(sorted(set(files) - set(videos)))
    parts = halves(path, list(videos), shapes)

    def folder(part: set[str], shape: Shape) -> Folder:
        own = [one for file, one in videos.items() if file in part and shapes[file] == shape]
        return Folder(path, own, shape, pool, set_aside, unused, max(len(buckets), 1))

    if not buckets:
        return tuple(folder(part, video) for part in parts)
    return tuple(Mixed({shape: one for shape in buckets if len(one := folder(part, shape))}) for part in parts)


def halves(path: epath.PathLike, files: list[str], shapes: Mapping[str, Shape] = {}) -> list[set[str]]:
    """The files to train on and those to hold out, by a hash of their names, or of the videos that they were cut from, for each shape apart. Where some
    come or go, no more of the others of the shape change halves than these are. Files that were cut from one video go with the first."""
    if len(files) == 1:
        log.warning("%s is the only video of %s: it is trained on and held out at once", files[0], path)
    uncut = {file: video_of(file) for file in files}
    if len(files) > 1 == len(set(uncut.values())):
        log.warning("all clips of %s were cut from one video: what is held out may look like what is trained on", path)
        uncut = {file: file for file in files}
    first = {name: shapes.get(file) for file, name in reversed(uncut.items())}
    parts = set(), set()
    for shape in dict.fromkeys(first.values()):
        by_hash = sorted((name for name in first if first[name] == shape), key=lambda name: hashlib.sha256(name.encode()).digest())
        if len(by_hash) == 1 < len(first):
            log.warning("%s is the only video of %s of its shape, %s: it is trained on and held out at once", by_hash[0], path, named(shape))
        for part, half in zip(parts, split_last(len(by_hash))):
            part.update(by_hash[i] for i in half)
    return [{file for file in files if uncut[file] in part} for part in parts]


def listed(
    path: epath.PathLike, scores: tuple[str, ...] = SCORES, pictures: bool = False
) -> tuple[epath.Path, list[str], dict[str, tuple[str, dict[str, float]]]]:
    """(folder, files, caption and scores of each) of a folder, or of a table and the folder that it lies in; NaN is a score that is not known.

    Args:
      pictures: those of a folder are taken, too.

    Raises:
      ValueError: no folder or table, no video, or a table that is wrong.
    """
    path = existing(path)
    if path.suffix.lower() in TABLES:
        table, path = rows_of(path, scores), path.parent
        files = sorted(table)
    elif path.is_dir():
        files = sorted(str(p.relative_to(path)) for p in find_videos(path, pictures=pictures))
        table = rows_of(only, scores, files) if (only := only_table(path)) else {}
        if not only and (further := [name for name in scores if name not in SCORES]):
            raise ValueError(f"{path} holds no table, of which the score {further[0]} is wanted")
    else:
        raise ValueError(f"{path} is neither a folder nor a table of clips ({', '.join(TABLES)})")
    if not files:
        raise ValueError(f"{path} holds no video ({', '.join(VIDEOS)})" + f" and no picture ({', '.join(PICTURES)})" * pictures)
    return path, files, {file: table.get(file, ("", dict.fromkeys(scores, np.nan))) for file in files}


def only_table(folder: epath.Path) -> epath.Path | None:
    """The table that lies beside a folder's videos, if there is one.

    Raises:
      ValueError: two of them.
    """
    tables = sorted(p for p in folder.iterdir() if p.suffix.lower() in TABLES and not p.name.startswith("."))
    if len(tables) > 1:
        named = ", ".join(p.name for p in tables)
        raise ValueError(f"{folder} holds {len(tables)} tables, where one is allowed: {named}; give the one that is meant as --data")
    return tables[0] if tables else None


def rows_of(table: epath.Path, scores: tuple[str, ...], files: Iterable[str] | None = None) -> dict[str, tuple[str, dict[str, float]]]:
    """file → (caption, scores). Rows without a file, of clips that could not be cut, are set aside.

    Args:
      files: those that it may name, by other paths too; any by default.

    Raises:
      ValueError: no row, no column `file`, or none in any row, no text in it, a file that it may not name or that stands twice, a part of a
        file (`start_s`, `end_s`;
        in a table of koala_jax.split they are the source's), a score that is no number.
    """
    wanted = ("file", "caption", "start_s", "end_s", *scores)
    held = read_table(table, wanted)
    cells = lambda name: texts(held, name, table) if name in ("file", "caption") else held[name].to_pylist()  # noqa: E731
    columns = {name: cells(name) if name in wanted else [] for name in held.column_names}
    if "file" not in columns:
        raise ValueError(f"{table} has no column `file`; its columns are {', '.join(columns)}")
    if lost := [name for name in scores if name not in (*SCORES, *columns)]:
        raise ValueError(f"{table} has no column `{lost[0]}`, a score that is wanted; its columns are {', '.join(columns)}")
    known, rows = None if files is None else set(files), {}
    captions = columns.get("caption", itertools.repeat(None))
    if files is None and not len(held):
        raise ValueError(f"{table} has no row, and names no clip to train on")
    if bare := [number for number, file in enumerate(columns["file"], 1) if not file]:
        what = f"{len(bare)} of the {len(held)} rows of {table} name no file (row {', '.join(map(str, bare[:5]))}{' …' if len(bare) > 5 else ''})"
        if len(bare) == len(held):
            raise ValueError(f"{what}: none of these clips was cut")
        log.warning("%s and are set aside: these clips were not cut", what)
    for number, (given, caption) in enumerate(zip(columns["file"], captions)):
        if not given:
            continue
        file = given if known is None or given in known else os.path.relpath(in_folder(given, table.parent), table.parent)
        if known is not None and file not in known:
            raise ValueError(f"{table} names {given!r}, which is not among the {len(known)} videos of the folder")
        if file in rows:
            raise ValueError(f"{table} names {file!r} twice")
        for name in () if {"source", "clip"} <= columns.keys() else ("start_s", "end_s"):
            if name in columns and not np.isnan(score_of(columns[name][number], name, file, table)):
                raise ValueError(f"{table} gives {file!r} a {name}, but what is trained on is the whole file: cut it first")
        own = {name: columns[name][number] if name in columns else None for name in scores}
        rows[file] = (caption or "", {name: score_of(value, name, file, table) for name, value in own.items()})
    return rows


def score_of(value: Any, name: str, file: str, table: epath.Path) -> float:
    """A cell of a table as a number, NaN where it is empty; `file` is what its row is of. Raises ValueError: it is none."""
    if value is None or value == "":
        return np.nan
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.inf
    if np.isinf(number):
        raise ValueError(f"{table} gives {file!r} the {name} {value!r}, which is not a number")
    return number
