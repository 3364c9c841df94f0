"""`python -m koala_jax.split`: videos to shots. Finds every transition, writes tables, clips and contact sheets.

Each video is decoded by one process on one thread, as many videos at a time as there are cores; detection runs where the frames
are. Finished work is never repeated: OUT/records has what was detected, OUT/clips what was cut.
"""
import contextlib
import dataclasses
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import pyarrow as pa
import tyro
from etils import epath
from rich.console import Console

from core_jax import cli
from core_jax.cores import cores
from core_jax.files import clear, read_kept, real, remote, sha256, write_bytes, write_json
from core_jax.lock import hold, release
from core_jax.mesh import several_hosts
from core_jax.numbers import COUNT, POSITIVE, refuse, within
from core_jax.tables import write_parquet
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax.shots import index, sheet
from koala_jax.shots.cut import Cut, cut, partial_path
from koala_jax.shots.detect import EVERY, Seen, detect, shrunk
from koala_jax.shots.encode import Piece
from koala_jax.shots.inputs import Source, find
from koala_jax.shots.record import Clip, Record, cut_clips, read_all, read_sources, write_tables
from koala_jax.transitions import Backend, Detection, Method, official
from koala_jax.transitions.css_device import BatchScorer
from koala_jax.transitions.learned import WEIGHTS


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Split videos into shots: tables, clips and contact sheets. Rerun the same command to go on where it stopped."""

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """files, folders and globs, local or gs://"""
    out: str = "shots"
    """folder for tables, clips and contact sheets"""
    method: Method = Method.LEARNED
    """learned: a small network (docs/transitions.md); official: Koala-36M's released rule"""
    backend: Backend = Backend.AUTO
    """where frames are scored: cpu, in the decoding processes; accelerator, by one JAX program (official only); auto: there if this host is alone"""
    table_only: bool = False
    """write the tables, but neither clips nor contact sheets"""
    sheets: bool = True
    """write a contact sheet of each video, about 46 kB a transition; a later run makes those that are missing"""
    scores: bool = False
    """also write the scores of every pair of neighbouring frames, OUT/scores/*.parquet"""
    cut: Cut = Cut.ENCODE
    """how clips are written: encode, every frame again; lossless, copied bit for bit where key frames allow"""
    crf: int = 18
    """H.264 quality of what is encoded: 0 (lossless) to 51 (worst)"""
    shortest: float = 0.0
    """seconds; shorter clips are left out"""
    longest: float = math.inf
    """seconds; longer clips are cut into equal parts or, if these would be shorter than --shortest, into parts of this length, without the rest"""
    workers: int = cores()
    """decoding processes, one video each"""
    patience: float = 120.0
    """seconds without progress after which a video is given up"""
    pixels: int = 2**26
    """largest frame that is decoded, in pixels"""
    memory: float = 2.0
    """GiB that one process may take for one video"""
    json: str | None = None
    """also write the figures to this file"""

    def __post_init__(self):
        if not self.inputs:
            raise ValueError("no input was given: name files, folders or globs, local or gs://")
        if not 0 <= self.shortest <= self.longest or self.longest <= 0:
            raise ValueError(f"clips of {self.shortest} to {self.longest} s: want 0 ≤ --shortest ≤ --longest, and --longest above 0")
        refuse(self, {within(0, 51): "crf", COUNT: "workers pixels", POSITIVE: "patience", within(0.001, 2**20): "memory"})


class Splitter:
    """Everything that is done with one video; threads share one."""

    def __init__(self, config: SplitConfig, out: epath.Path, pool: DecodePool, seen: Callable[[int], None]):
        """`seen` is called with how many more frames have been decoded for detection."""
        self.config, self.out, self.pool, self.seen = config, out, pool, seen
        self.on_device = on_device(config.method, config.backend)

    def __call__(self, source: Source) -> str | None:
        """What is wrong with a video, though not fatal. Raises VideoError and OSError."""
        config, failed = self.config, []
        record, scores = self._known(source), self.out / "scores" / f"{source.name}.parquet"
        if not source.bytes:
            raise VideoError(source.path, "is an empty file")
        if record is None or (config.scores and not scores.exists()):
            seen, detection = self._detect(source)
            if config.scores:
                pairs = {"seconds": seen.seconds[1:]} | detection.scores
                write_parquet(scores, pa.table({"frame": range(1, len(seen.seconds))} | pairs))
            record = Record.make(source, seen, detection, config.shortest, config.longest)
            record.write(self.out / "records" / f"{source.name}.json")
        if not config.table_only:
            there = cut_clips(self.out, source.name)
            for clip in record.clips:
                if clip.file not in there:
                    try:
                        self._cut(source, clip)
                    except VideoError as error:  # the other clips may do
                        failed.append(error)
            page = self.out / "sheets" / f"{source.name}.html"
            if config.sheets and not page.exists():
                sheet.write(page, record, lambda seconds, size: self.pool.read_clip(source.path, seconds, size))
        if failed:
            raise failed[0]
        return record.error

    def _known(self, source: Source) -> Record | None:
        """The record, unless the file has changed since, for all that is known: then what was made of it goes."""
        path = self.out / "records" / f"{source.name}.json"
        record = Record.read(path)
        if record and record.of(source):
            return record
        sheets = (self.out / "sheets" / f"{source.name}{suffix}" for suffix in (".html", ".jpg"))
        for old in (*(self.out / file for file in cut_clips(self.out, source.name)), *sheets, self.out / "scores" / f"{source.name}.parquet", path):
            old.unlink(missing_ok=True)
        return None

    def _detect(self, source: Source) -> tuple[Seen, Detection]:
        if self.on_device:
            scorer = BatchScorer(EVERY)
            seen = self.pool.run(shrunk, source.path, report=lambda batch: (scorer.push(np.stack(batch)), self.seen(len(batch))))
            return seen, official.decide(scorer.finish())
        return self.pool.run(detect, source.path, self.config.method, report=lambda batch: self.seen(len(batch)))

    def _cut(self, source: Source, clip: Clip) -> None:
        piece = Piece(clip.start_s, clip.end_s, clip.end_frame - clip.start_frame)
        path, how = self.out / clip.file, (self.config.cut, self.config.crf)
        if remote(path):
            with tempfile.TemporaryDirectory() as folder:
                local = Path(folder) / path.name
                self.pool.run(cut, source.path, piece, str(local), *how)
                write_bytes(path, local.read_bytes())
            return
        try:
            self.pool.run(cut, source.path, piece, str(path), *how)
        finally:  # the process that wrote it may have been killed
            partial_path(path).unlink(missing_ok=True)


def on_device(method: Method, backend: Backend) -> bool:
    """Whether JAX scores the frames. Raises ValueError where it is told to and cannot."""
    able = method is Method.OFFICIAL
    if backend is Backend.CPU or backend is Backend.AUTO and (not able or several_hosts()):
        return False  # without starting JAX, which would claim the accelerator, and on a slice wait for the other hosts
    there = jax.default_backend() != "cpu"
    if backend is Backend.ACCELERATOR and not (there and able):
        what = f"--method {method.value} has no program for one" if there else "JAX finds none on this machine"
        raise ValueError(f"--backend accelerator: {what}; --backend cpu works everywhere")
    return there


def split(config: SplitConfig, console: Console) -> dict:
    """Does it all; returns the figures."""
    out = epath.Path(config.out)
    new = not (remote(out) or out.exists())
    hold(out, f"another process is writing {out}: wait for its end, or choose another --out")
    try:
        for folder in (out, out / "records", out / "sheets", out / "scores"):  # a clip's part is written over
            clear(folder)
        return _split(config, out, console)
    finally:
        release(out)
        if new:
            with contextlib.suppress(OSError):  # what has become something stays
                os.rmdir(out)


def _split(config: SplitConfig, out: epath.Path, console: Console) -> dict:
    before = read_sources(out)
    sources, failed = find(config.inputs, out / "clips", before)
    if not (sources or before):  # a mistyped name makes no folder, nor a row that would stay in its tables
        raise ValueError("there is no video to split: " + "; ".join(f"{path} {reason}" for path, reason in failed.items()))
    _same_settings(out, config)
    for path, reason in failed.items():
        console.print(f"{path}: {reason}")
    begin, frames, lock = time.monotonic(), 0, threading.Lock()
    with cli.progress("videos", len(sources), console) as done, ThreadPoolExecutor(config.workers) as threads:

        def seen(more: int) -> None:
            nonlocal frames
            with lock:
                frames += more
            done(0, f"{frames / (time.monotonic() - begin):.0f} frames/s")

        with DecodePool(config.workers, config.patience, int(config.memory * 2**30), config.pixels) as pool:
            splitter = Splitter(config, out, pool, seen)
            jobs = {threads.submit(splitter, source): source for source in sources}
            try:
                for job in as_completed(jobs):
                    path = jobs[job].path
                    try:
                        reason = job.result()
                    except VideoError as error:
                        reason = error.reason
                    except OSError as error:
                        reason = f"{error.strerror or error}: {error.filename or out}"
                    if reason:
                        failed[path] = reason
                        console.print(f"{path}: {reason}")
                    done()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
    seconds = time.monotonic() - begin
    records = read_all(out)
    rows = write_tables(out, records, not_asked(before, config.inputs, sources) | failed)
    if not config.table_only:
        index.write(out / "index.html", rows, {record.source: record for record in records})
    given = {source.path for source in sources}
    mine = [record for record in records if record.source in given]
    return {
        "videos": len(sources),
        "failed": failed,
        "transitions": sum(len(record.transitions) for record in mine),
        "clips": sum(len(record.clips) for record in mine),
        "frames": frames,
        "seconds": seconds,
        "frames_per_second": frames / seconds,
    }


def not_asked(before: dict[str, str | None], inputs: tuple[str, ...], sources: list[Source]) -> dict[str, str]:
    """What failed before and is not among the inputs now, nor in a folder among them: it stays as it was told."""
    asked = {real(path) for path in (*inputs, *(source.path for source in sources))}
    return {path: reason for path, reason in before.items() if reason and asked.isdisjoint((real(path), *real(path).parents))}


def _same_settings(out: epath.Path, config: SplitConfig) -> None:
    """One folder holds one way of splitting, from its first record on, and one of cutting, from its first clip on."""
    path = out / "settings.json"
    mine = {"method": config.method.value, "shortest": config.shortest, "longest": str(config.longest), "cut": config.cut.value, "crf": config.crf}
    if config.method is Method.LEARNED:
        mine["weights"] = sha256(WEIGHTS)[:12]  # an update brings others
    theirs = mine | read_kept(path)
    for name, value in mine.items():
        made = out / ("clips" if name in ("cut", "crf") else "records")
        if theirs[name] != value and made.is_dir():
            how = "other weights of the detector" if name == "weights" else f"--{name} {theirs[name]}, not {value}"
            raise ValueError(f"{out} was made with {how}: choose another --out, or remove it")
    write_json(path, mine)


def main(args: list[str]) -> None:
    config, console = cli.parse(SplitConfig, args, "koala_jax.split"), cli.console()
    out = config.out.rstrip("/")
    try:
        figures = split(config, console)
    except KeyboardInterrupt:
        sys.exit(f"stopped: the same command goes on from what is finished in {config.out}")
    console.save(config.json, figures)
    if config.table_only:
        what, following = "tables", "; next: the same command without --table-only cuts the clips"
    else:
        what = f"tables{', clips' if figures['clips'] else ''} and index.html to look at"
        following = f"; next: {cli.command('koala_jax.score', f'{out}/clips', '--out', f'{out}/scores.parquet')}"
    speed = f"; {figures['frames']:,} frames in {figures['seconds']:.1f} s ({figures['frames_per_second']:.0f} a second)" if figures["frames"] else ""
    console.print(
        f"{counted(figures['videos'], 'video')}, {counted(figures['transitions'], 'transition')}, {counted(figures['clips'], 'clip')}{speed}\n"
        f"wrote {out}: {what}{following if figures['clips'] else ''}",
    )  # fmt: skip
    if figures["failed"]:
        raise ValueError(f"{len(figures['failed'])} of the inputs failed, or broke off: their reasons stand above and in {config.out}/sources.csv")


if __name__ == "__main__":
    cli.run(main)
