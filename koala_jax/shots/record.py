"""What is known of each video, one JSON file a video, and the tables made of all of them.

Nothing else keeps track: a video is detected when its record is there, a clip is cut when its file is there. Both appear by
renaming, so a run that is broken off anywhere goes on from what is finished.
"""
import dataclasses
import io
import json
import math
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from etils import epath

from core_jax.files import write_bytes
from koala_jax.shots.detect import Seen
from koala_jax.shots.inputs import Source
from koala_jax.transitions import Detection

CURVE = 1200
"""points of the score curve that a record keeps: the lowest score of each stretch"""

TRANSITIONS = pa.schema(
    [
        ("source", pa.string()),
        ("start_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("type", pa.string()),
        ("score", pa.float64()),
    ]
)
CLIPS = pa.schema(
    [
        ("source", pa.string()),
        ("clip", pa.int64()),
        ("start_frame", pa.int64()),
        ("end_frame", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("file", pa.string()),
    ]
)
SOURCES = pa.schema(
    [
        ("source", pa.string()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("frames", pa.int64()),
        ("seconds", pa.float64()),
        ("transitions", pa.int64()),
        ("clips", pa.int64()),
        ("error", pa.string()),
    ]
)


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
    """One video. `transitions` are rows of that table without their source; `error` says what was wrong, though not fatal."""

    source: str
    bytes: int
    mtime: int
    height: int
    width: int
    frames: int
    seconds: float
    transitions: list[dict]
    clips: list[Clip]
    curve: list[float]
    error: str | None

    @classmethod
    def make(cls, source: Source, seen: Seen, detection: Detection, shortest: float, longest: float) -> "Record":
        transitions = [
            {"start_frame": t.start_frame, "end_frame": t.end_frame, "start_s": seen.at(t.start_frame), "end_s": seen.at(t.end_frame),
             "type": t.type.value, "score": round(t.score, 6)}
            for t in detection.transitions
        ]  # fmt: skip
        clips = [
            Clip(start, end, seen.at(start), seen.at(end), f"clips/{source.name}/{k:04d}.mp4")
            for k, (start, end) in enumerate(of_lengths(detection.clips, seen, shortest, longest))
        ]
        decisive = next(iter(detection.scores.values()))
        stretches = np.array_split(decisive, min(CURVE, len(decisive)))
        curve = [round(float(stretch.min()), 3) for stretch in stretches]
        length = seen.end - seen.at(0)
        return cls(
            source.path, source.bytes, source.mtime, seen.height, seen.width, len(seen.seconds), length, transitions, clips, curve, seen.broken
        )

    @classmethod
    def read(cls, path: epath.Path) -> "Record":
        value = json.loads(path.read_text())
        return cls(**value | {"clips": [Clip(**clip) for clip in value["clips"]]})

    def write(self, path: epath.Path) -> None:
        write_bytes(path, json.dumps(dataclasses.asdict(self)).encode())

    def of(self, source: Source) -> bool:
        """Whether the file is still the one that this was made of."""
        return (self.source, self.bytes, self.mtime) == (source.path, source.bytes, source.mtime)


def of_lengths(clips: list[tuple[int, int]], seen: Seen, shortest: float, longest: float) -> list[tuple[int, int]]:
    """Drops clips of less than `shortest` seconds, and cuts those of more than `longest` into as few equal parts as will do."""
    kept = []
    for start, end in clips:
        begin, length = seen.at(start), seen.at(end) - seen.at(start)
        if length < shortest:
            continue
        parts = max(1, math.ceil(length / longest - 1e-9))
        inner = np.searchsorted(seen.seconds, begin + length / parts * np.arange(1, parts) - 1e-9).tolist()
        kept += [(a, b) for a, b in zip([start, *inner], [*inner, end]) if a < b]
    return kept


def write_tables(out: epath.Path, records: Iterable[Record], failed: dict[str, str]) -> None:
    """`transitions`, `clips` and `sources`, each as Parquet and CSV; `failed` are sources without a record."""
    records = sorted(records, key=lambda record: record.source)
    transitions = [{"source": r.source} | row for r in records for row in r.transitions]
    clips = [{"source": r.source, "clip": k} | dataclasses.asdict(clip) for r in records for k, clip in enumerate(r.clips)]
    for clip in clips:
        clip["file"] = clip["file"] if (out / clip["file"]).exists() else None
    sources = [
        {"source": r.source, "height": r.height, "width": r.width, "frames": r.frames, "seconds": r.seconds, "transitions": len(r.transitions),
         "clips": len(r.clips), "error": failed.get(r.source, r.error)}
        for r in records
    ]  # fmt: skip
    sources += [{"source": source, "error": reason} for source, reason in failed.items() if source not in {r.source for r in records}]
    for name, rows, schema in (("transitions", transitions, TRANSITIONS), ("clips", clips, CLIPS), ("sources", sources, SOURCES)):
        table = pa.Table.from_pylist(rows, schema)
        write_parquet(out / f"{name}.parquet", table)
        buffer = io.BytesIO()
        pa.csv.write_csv(table, buffer)
        write_bytes(out / f"{name}.csv", buffer.getvalue())


def write_parquet(path: epath.Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pa.parquet.write_table(table, buffer)
    write_bytes(path, buffer.getvalue())
