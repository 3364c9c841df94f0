"""What is known of each video, one JSON file a video, and the tables made of all of them.

Nothing else keeps track: a video is detected when its record is there, a clip is cut when its file is there. Both appear by
renaming, so a run that is broken off anywhere goes on from what is finished.
"""
import dataclasses
import json
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from etils import epath

from core_jax.files import each, unbroken, write_bytes
from core_jax.tables import read_table, write_csv, write_parquet
from koala_jax.journal import table
from koala_jax.shots.detect import Seen
from koala_jax.shots.inputs import Source
from koala_jax.transitions import Detection, Transition

CURVE = 1200
"""points of the score curve that a record keeps: of each stretch the score furthest from the median of all"""
AROUND, INSIDE = 4, 6
"""frames that a film strip shows before and after a transition, and at most of it"""

TRANSITIONS = pa.schema({
    "source": pa.string(), "start_frame": pa.int64(), "end_frame": pa.int64(), "start_s": pa.float64(), "end_s": pa.float64(),
    "type": pa.string(), "score": pa.float64(),
})  # fmt: skip
CLIPS = pa.schema({
    "source": pa.string(), "clip": pa.int64(), "start_frame": pa.int64(), "end_frame": pa.int64(), "start_s": pa.float64(),
    "end_s": pa.float64(), "file": pa.string(),
})  # fmt: skip
SOURCES = pa.schema({
    "source": pa.string(), "height": pa.int64(), "width": pa.int64(), "frames": pa.int64(), "seconds": pa.float64(),
    "transitions": pa.int64(), "clips": pa.int64(), "margin": pa.float64(), "error": pa.string(),
})  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames from `start_frame` up to, without, `end_frame`; the seconds likewise. `file` relative to the output folder."""

    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    file: str


@dataclasses.dataclass(frozen=True)
class Record:
    """One video.

    `transitions` are rows of that table without their source, and `doubt` one of them or one that was not found, with its `margin`: the decision
    that came nearest to going the other way (`Detection.doubt`). `strips` has the frames to show of each with their seconds, those of a
    doubt that is no transition at the end. `error` says what was wrong, though not fatal.
    """

    source: str
    bytes: int
    mtime: int
    height: int
    width: int
    frames: int
    seconds: float
    transitions: list[dict]
    strips: list[list[tuple[int, float]]]
    clips: list[Clip]
    curve: list[float]
    error: str | None
    doubt: dict | None = None
    shown: tuple[int, int] | None = None
    """(H, W) in square pixels; records of earlier versions have none"""

    @classmethod
    def make(cls, source: Source, seen: Seen, detection: Detection, shortest: float, longest: float) -> "Record":
        margin, doubt = detection.doubt
        shown = detection.transitions + [doubt] * (doubt not in detection.transitions)
        rows = [
            {"start_frame": t.start_frame, "end_frame": t.end_frame, "start_s": seen.at(t.start_frame), "end_s": seen.at(t.end_frame),
             "type": t.type.value, "score": round(t.score, 6)}
            for t in shown
        ]  # fmt: skip
        clips = [
            Clip(start, end, seen.at(start), seen.at(end), f"clips/{source.name}/{k:04d}.mp4")
            for k, (start, end) in enumerate(of_lengths(detection.clips, seen, shortest, longest))
        ]
        return cls(
            source=source.path,
            bytes=source.bytes,
            mtime=source.mtime,
            height=seen.height,
            width=seen.width,
            frames=len(seen.seconds),
            seconds=seen.end - seen.at(0),
            transitions=rows[: len(detection.transitions)],
            strips=[[(frame, seen.at(frame)) for frame in frames_around(t, len(seen.seconds))] for t in shown],
            clips=clips,
            curve=thinned(next(iter(detection.scores.values()))),
            error=seen.broken,
            doubt=rows[shown.index(doubt)] | {"margin": round(margin, 6)},
            shown=seen.shown,
        )

    @classmethod
    def read(cls, path: epath.Path) -> "Record | None":
        """None where there is none, or where a host that went down lost it: the video is detected again."""
        value = unbroken(path, lambda path: json.loads(path.read_text()))
        return value and cls(**value | {"clips": [Clip(**clip) for clip in value["clips"]]})

    def write(self, path: epath.Path) -> None:
        write_bytes(path, json.dumps(dataclasses.asdict(self)).encode())

    def of(self, source: Source) -> bool:
        """Whether the file is still the one that this was made of."""
        return (self.source, self.bytes, self.mtime) == (source.path, source.bytes, source.mtime)


def frames_around(transition: Transition, frames: int) -> list[int]:
    """Of a video of so many frames: some before a transition, some of it, some after."""
    first, last = transition.start_frame, transition.end_frame
    inside = np.unique(np.linspace(first, last, min(INSIDE, last - first + 1)).round().astype(int)).tolist()
    return [*range(max(0, first - AROUND), first), *inside, *range(last + 1, min(frames, last + 1 + AROUND))]


def of_lengths(clips: list[tuple[int, int]], seen: Seen, shortest: float, longest: float) -> list[tuple[int, int]]:
    """Drops clips of less than `shortest` seconds, and cuts those of more than `longest` into as few equal parts as will do.

    Where such parts would be too short, they are as long as may be, and the rest is dropped.
    """
    kept = []
    for start, end in clips:
        begin, length = seen.at(start), seen.at(end) - seen.at(start)
        if length < shortest - 1e-9:
            continue
        parts = max(1, math.ceil(length / longest - 1e-9))
        step = length / parts
        if step < shortest - 1e-9:
            parts, step = parts - 1, longest
            end = int(np.searchsorted(seen.seconds, begin + step * parts - 1e-9))
        inner = np.searchsorted(seen.seconds, begin + step * np.arange(1, parts) - 1e-9).tolist()
        kept += [apart(a, b, seen) for a, b in zip([start, *inner], [*inner, end])]
    return [(a, b) for a, b in kept if a < b]


def apart(start: int, end: int, seen: Seen) -> tuple[int, int]:
    """A clip without what is shown at one time with the frame beside it: it is cut by time."""
    while 0 < start < end and seen.at(start) == seen.at(start - 1):
        start += 1
    while start < end and seen.at(end) == seen.at(end - 1):
        end -= 1
    return start, end


def cut_clips(out: epath.Path, source: str) -> set[str]:
    """Files of the clips of a source (`Source.name`) that are there, relative to the output folder."""
    folder = out / "clips" / source
    return {f"clips/{source}/{path.name}" for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()


def read_all(out: epath.Path) -> list[Record]:
    """By source, without the curves and strips, which are large."""
    folder = out / "records"
    paths = [path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith(".")] if folder.is_dir() else []
    slim = lambda path: (record := Record.read(path)) and dataclasses.replace(record, curve=[], strips=[])  # noqa: E731
    return sorted(filter(None, each(slim, paths)), key=lambda record: record.source)


def read_sources(out: epath.Path) -> dict[str, str | None]:
    """What an earlier run's table `sources` names, and what was wrong with it."""
    path = out / "sources.parquet"
    read = lambda path: {row["source"]: row["error"] for row in read_table(path).to_pylist()}  # noqa: E731
    return (path.exists() and unbroken(path, read)) or {}


def write_tables(out: epath.Path, records: list[Record], failed: dict[str, str]) -> list[dict]:
    """`transitions`, `clips` and `sources`, each as Parquet and CSV; returns the rows of `sources`.

    `failed` has the reasons of sources that could not be used, or not wholly.
    """
    sources = {source: {"source": source} for source in failed} | {
        r.source: {name: getattr(r, name) for name in ("source", "height", "width", "frames", "seconds")}
        | {"transitions": len(r.transitions), "clips": len(r.clips), "margin": r.doubt and r.doubt["margin"]}
        for r in records
    }
    errors = {record.source: record.error for record in records} | failed
    sources = [row | {"error": errors[source]} for source, row in sorted(sources.items())]
    transitions = ({"source": r.source} | row for r in records for row in r.transitions)
    for name, rows, schema in (("transitions", transitions, TRANSITIONS), ("clips", _clips(out, records), CLIPS), ("sources", sources, SOURCES)):
        made = table(rows, schema)
        write_parquet(out / f"{name}.parquet", made)
        write_csv(out / f"{name}.csv", made)
    return sources


def _clips(out: epath.Path, records: list[Record]) -> Iterator[dict]:
    """Rows of the table `clips`; of a clip that is not there the file is None."""
    there = each(lambda record: cut_clips(out, record.clips[0].file.split("/")[1]) if record.clips else set(), records)
    for record, files in zip(records, there):
        for k, clip in enumerate(record.clips):
            row = {"source": record.source, "clip": k} | dataclasses.asdict(clip)
            yield row if clip.file in files else row | {"file": None}


def thinned(scores: np.ndarray) -> list[float]:
    """The points that a record keeps, at even distances."""
    points, usual = min(CURVE, len(scores)), np.median(scores)
    stretches = np.split(scores, np.arange(1, points) * len(scores) // points)  # array_split makes the first ones longer
    return [round(float(stretch[np.abs(stretch - usual).argmax()]), 3) for stretch in stretches]
