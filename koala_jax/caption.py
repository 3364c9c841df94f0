"""`python -m koala_jax.caption CLIPS --out captions.parquet`: captions of six parts for the clips of a folder or a table."""
import collections
import dataclasses
import json
import statistics
import sys
import time

import jax
import pyarrow as pa
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
from koala_jax.journal import Journal, Row


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
) -> tuple[list[Row], int]:
    """(rows of the clips, without those that other shares still owe; how many clips were asked about now). Shares take the clips in turn."""
    if not config.backend.looks:  # costs nothing, so that nothing is kept for a rerun
        parts = known.SENTENCES if config.backend is Backend.TEMPLATE else Part  # of the others no metric tells anything, which is no problem
        begun = [Captioned(clip, problems=dict.fromkeys(parts, Problem.MISSING.value)) for clip in clips]
        lost = list(each(why_none, clips))
        made = iter(caption_group([(one, None) for one, why in zip(begun, lost) if not why], answers, attempts=1))
        return [(unread(one, why) if why else next(made)).row() for one, why in zip(begun, lost)], len(clips)
    kept = journal.rows()
    begun = [Captioned.of(clip, kept.get(key)) for clip, key in zip(clips, each(lambda clip: clip.key, clips))]
    done = {one.clip.name: one.row() for one in begun if one.done}
    if done:
        console.print(f"{len(done)} of {len(clips)} clips are captioned already")
    todo = [one for one in begun[number::shares] if not one.done]
    if shares > 1:
        console.print(f"share {number + 1}/{shares} has {counted(len(todo), 'clip')} to caption")
    groups = caption_clips(todo, answers, frames=config.frames, side=config.side, attempts=config.attempts, group=config.group)
    with cli.progress("captions", len(todo), console) as made:
        for one in journaled(groups, journal, lambda clip: clip.key):
            done[one.clip.name] = one.row()
            if one.failed:
                console.print(f"{one.clip.name}: {one.failed}")
            made()
    others = journal.rows() if shares > 1 else {}
    rows = [done.get(clip.name) or others.get(clip.key) for clip in clips]
    return [row for row in rows if row], len(todo)


def summary(rows: list[dict], seconds: float, made: int) -> dict:
    """The figures of a run."""
    good = [row["words"] for row in rows if row["words"]]
    counts = lambda column: collections.Counter(entry for row in rows for entry in row[column])
    caught = collections.Counter()
    for entry in (entry for row in rows for entry in row["caught"]):
        name, number = entry.rsplit(": ", 1)
        caught[name] += int(number)
    return {
        "clips": len(rows),
        "captioned": len(good),
        "without any problem": sum(not row["problems"] and not row["failed"] for row in rows),
        "unreadable": sum(bool(row["failed"]) for row in rows),
        "words, mean": statistics.mean(good) if good else None,
        "words, median": statistics.median(good) if good else None,
        "problems left": dict(counts("problems").most_common()),
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
        sys.exit(f"stopped: the same command goes on from what is finished in {out}.parts")
    if len(rows) < len(clips):
        _say(console, spent())
        return console.print(f"share {number + 1}/{shares} is done; {out} is written by whoever does the last one, or by the same command again")
    rows = [row | {"backend": config.backend.value} for row in rows]
    inside = epath.Path(config.clips) / "x" if epath.Path(config.clips).is_dir() else config.clips  # clips are named from where they lie
    rows = [row | {"file": file} for row, file in zip(rows, named_from((row["file"] for row in rows), inside, out))]
    table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({"settings": json.dumps(settings)}))
    for field in (field for field in given.schema if field.name not in SCHEMA.names):  # scores go with the caption
        table = table.append_column(field, given[field.name])
    for name in {"start_s", "end_s"}.intersection(given.column_names if of_split(given.column_names) else ()):  # the source's
        table = table.set_column(table.column_names.index(name), name, given[name])
    write_parquet(out, table)
    figures = summary(rows, time.monotonic() - started, made) | spent()
    _say(console, figures)
    console.save(config.json, figures)
    if config.report:
        report.write(epath.Path(config.report), clips, rows, figures)
        console.print(f"wrote {config.report}")
    if not figures["captioned"]:
        raise ValueError(f"no clip has a caption: {out} says why in the columns problems and failed")
    console.print(f"wrote {out}; next: {cli.command('videodit_jax.train', '--data', out)}")


if __name__ == "__main__":
    cli.run(main)
