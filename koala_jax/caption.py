"""`python -m koala_jax.caption CLIPS --out captions.parquet`: captions of six parts for the clips of a folder or a table."""
import collections
import dataclasses
import json
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute
import tyro
from etils import epath
from rich.console import Console

from core_jax import cli
from core_jax.files import each, refuse_overwriting, refuse_unwritable
from core_jax.numbers import COUNT, refuse
from core_jax.tables import named_from, write_parquet
from core_jax.words import counted
from koala_jax import share
from koala_jax.captions import known, report
from koala_jax.captions.backend import Answers, Backend
from koala_jax.captions.checks import Problem
from koala_jax.captions.clips import PARTS, Clip, of_split, open_table, why_none
from koala_jax.captions.endpoint import Endpoint, EndpointConfig
from koala_jax.captions.model import Model, ModelConfig, content
from koala_jax.captions.run import SCHEMA, Captioned, caption_clips, caption_group, journaled, unread
from koala_jax.captions.schema import Part
from koala_jax.journal import Journal, Row, stopped, table


@dataclasses.dataclass(frozen=True)
class CaptionConfig:
    """Caption clips in six parts: subject, actions, environment, visual language, camera language, world knowledge."""

    clips: tyro.conf.Positional[str]
    """a folder of videos, one video, or a .csv or .parquet table with the column `file` (and `start_s`, `end_s`), such as koala_jax.split's clips"""
    out: str = "captions.parquet"
    """the table to write; finished work is kept in OUT.parts/ beside it"""
    backend: Backend = Backend.MODEL
    """who writes: a model, an endpoint, a template that states the table's metrics, or given columns of the table"""
    model: ModelConfig = ModelConfig()
    endpoint: EndpointConfig = EndpointConfig()
    frames: int = 8
    """frames that are shown of a clip, at equal distances"""
    side: int = 512
    """pixels of a frame's longer side"""
    attempts: int = 3
    """most answers asked for a part, until one passes the checks"""
    group: int = 8
    """clips that are asked about, and saved, together"""
    share: str | None = None
    """K/N, as 1/8 … 8/8 on eight hosts: caption every N-th clip, from the K-th on. Where jax knows the hosts, as on a TPU slice, each finds its own"""
    report: str | None = None
    """also write a page (.html) with frames and parts side by side"""
    json: str | None = None
    """also write the figures to this file"""

    def __post_init__(self):
        refuse(self, {COUNT: "frames side attempts group"})
        refuse_unwritable("--out", self.out, ".parquet")
        refuse_overwriting("CLIPS", self.clips, [self.out])
        if self.share:
            share.parse(self.share)
            if not self.backend.looks:
                raise ValueError(f"--share {self.share}: the backend {self.backend.value} asks nobody, and one process writes the whole table at once")
        if self.report:
            refuse_unwritable("--report", self.report, ".html")

    def settings(self) -> dict[str, object]:
        """What changes a text that passes the checks; with more attempts only those that do not are asked for again."""
        who = {}
        if self.backend is Backend.MODEL:
            who = {"weights": content(self.model.directory), "most": self.model.most, "half": self.model.half}
        elif self.backend is Backend.ENDPOINT:
            who = {"by": f"{self.endpoint.url} {self.endpoint.model}", "most": self.endpoint.most}
        return {"backend": self.backend.value, "frames": self.frames, "side": self.side} | who


ROW = pa.schema([field for field in SCHEMA if field.name != "backend"])
TOLD = {Backend.TEMPLATE: known.METRICS, Backend.GIVEN: PARTS}
"""columns that a backend reads"""


def _open(config: CaptionConfig, clips: list[Clip]) -> Answers:
    told = TOLD.get(config.backend)
    if told and not any(clip.row.get(name) not in (None, "") for clip in clips for name in told):
        raise ValueError(f"the backend {config.backend.value} reads the columns {', '.join(told)}, and {config.clips} fills none of them")
    match config.backend:
        case Backend.MODEL:
            return Model(config.model)
        case Backend.ENDPOINT:
            return Endpoint(config.endpoint)
        case Backend.TEMPLATE:
            return known.template
        case Backend.GIVEN:
            return known.given


def _share(config: CaptionConfig) -> tuple[int, int]:
    """(this process's share from 0, how many there are), where answers cost something. An endpoint may need the devices here for itself, and
    no device is taken."""
    if not config.backend.looks:
        return 0, 1
    if config.backend is Backend.ENDPOINT:
        jax.config.update("jax_platforms", "cpu")
    return share.start(config)


def caption_all(
    config: CaptionConfig, clips: list[Clip], answers: Answers, journal: Journal, console: Console, number: int, shares: int
) -> tuple[pa.Table | None, int]:
    """(a row for each clip, or None while other shares owe some; how many clips were asked about now). Shares take the clips in turn."""
    if not config.backend.looks:  # costs nothing, so that nothing is kept for a rerun
        return table(_told(config, clips, answers), ROW), len(clips)
    keys, mine = list(each(lambda clip: clip.key, clips)), slice(number, None, shares)
    owed, done, half = set(keys[mine]), set(), {}
    for row in (row for rows in journal.parts() for row in rows):
        half.pop(row["key"], None)
        if not row["problems"] and not row["failed"]:
            done.add(row["key"])
        elif row["key"] in owed:
            half[row["key"]] = row
    todo = [Captioned.of(clip, half.get(key)) for clip, key in zip(clips[mine], keys[mine]) if key not in done]
    if done:
        console.print(f"{sum(key in done for key in keys)} of {len(clips)} clips are captioned already")
    if shares > 1:
        console.print(f"share {number + 1}/{shares} has {counted(len(todo), 'clip')} to caption")
    groups = caption_clips(todo, answers, frames=config.frames, side=config.side, attempts=config.attempts, group=config.group)
    with cli.progress("captions", len(todo), console) as made:
        for one in journaled(groups, journal, lambda clip: clip.key):
            if one.failed:
                console.print(f"{one.clip.name}: {one.failed}")
            made()
    rows = journal.table(keys, ROW)
    return (rows if rows.num_rows == len(clips) else None), len(todo)


def _told(config: CaptionConfig, clips: list[Clip], answers: Answers) -> Iterator[Row]:
    """Rows of clips of which nobody looks at a frame."""
    parts = known.SENTENCES if config.backend is Backend.TEMPLATE else Part  # of the others no metric tells anything, which is no problem
    for clip, why in zip(clips, each(why_none, clips)):
        one = Captioned(clip, problems=dict.fromkeys(parts, Problem.MISSING.value))
        yield (unread(one, why) if why else caption_group([(one, None)], answers, attempts=1)[0]).row()


def summary(rows: pa.Table, seconds: float, made: int) -> dict:
    """The figures of a run."""
    words, failed = np.asarray(rows["words"]), np.asarray(pa.compute.not_equal(rows["failed"], ""))
    flawed = np.asarray(pa.compute.greater(pa.compute.list_value_length(rows["problems"]), 0))
    counts = lambda column: {x["values"]: x["counts"] for x in pa.compute.value_counts(pa.compute.list_flatten(rows[column])).to_pylist()}
    caught = collections.Counter()
    for entry, times in counts("caught").items():
        name, number = entry.rsplit(": ", 1)
        caught[name] += int(number) * times
    good = words[words > 0]
    return {
        "clips": len(rows),
        "captioned": len(good),
        "without any problem": int((~flawed & ~failed).sum()),
        "unreadable": int(failed.sum()),
        "words, mean": float(good.mean()) if len(good) else None,
        "words, median": float(np.median(good)) if len(good) else None,
        "problems left": dict(collections.Counter(counts("problems")).most_common()),
        "problems caught": dict(caught.most_common()),
        "clips a second": made / seconds if made else None,
    }


def _say(console: Console, figures: dict) -> None:
    for name, value in figures.items():
        console.print(f"{name}: {report.text(value)}")


def main(args: list[str]) -> None:
    config = cli.parse(CaptionConfig, args, "koala_jax.caption")
    console, out = cli.console(), epath.Path(config.out)
    clips, given = open_table(config.clips, TOLD.get(config.backend, ()))
    number, shares = _share(config)
    answers = _open(config, clips)
    settings, started = config.settings(), time.monotonic()
    spent = lambda: answers.spent if isinstance(answers, Endpoint) else {}
    try:
        rows, made = caption_all(config, clips, answers, Journal(out, settings), console, number, shares)
    except KeyboardInterrupt:
        _say(console, spent())
        sys.exit(stopped(out))
    if rows is None:
        _say(console, spent())
        return console.print(f"share {number + 1}/{shares} is done; {out} is written by whoever does the last one, or by the same command again")
    inside = epath.Path(config.clips) / "x" if epath.Path(config.clips).is_dir() else config.clips  # clips are named from where they lie
    own = {"file": named_from((clip.file for clip in clips), inside, out), "backend": [config.backend.value] * len(clips)}
    columns = {field.name: pa.array(own[field.name], field.type) if field.name in own else rows[field.name] for field in SCHEMA}
    for name in {"start_s", "end_s"}.intersection(given.column_names if of_split(given.column_names) else ()):  # the source's
        columns[name] = given[name]
    columns |= {name: given[name] for name in given.column_names if name not in SCHEMA.names}  # scores go with the caption
    write_parquet(out, pa.table(columns, metadata={"settings": json.dumps(settings)}))
    figures = summary(rows, time.monotonic() - started, made) | spent()
    _say(console, figures)
    console.save(config.json, figures)
    if config.report:
        report.write(epath.Path(config.report), clips, rows.to_pylist(), figures)
        console.print(f"wrote {config.report}")
    if not figures["captioned"]:
        raise ValueError(f"no clip has a caption: {out} says why in the columns problems and failed")
    part = any((clip.start_s, clip.end_s) != (None, None) for clip in clips)
    train = cli.command("videodit_jax.train", "--data", out)
    console.print(f"wrote {out}; next: {'cut the clips that are parts of their files, as training takes whole ones' if part else train}")


if __name__ == "__main__":
    cli.run(main)
