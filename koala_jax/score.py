"""`python -m koala_jax.score CLIPS… --out scores.parquet`: sub-metrics and a suitability score of every clip, one row each.

Every video is decoded once, in a worker process with limits; its pixels serve all metrics and the scorer. Of several hosts each scores its
share of the clips on its own devices and knows nothing of the others, so that one that dies takes nothing from them: run the command again,
with other shares if you like, and only what has no row, or could not be read, is done.
"""
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait

import jax
import numpy as np
import pyarrow as pa
import tyro
from etils import epath
from jaxtyping import Float, UInt8
from rich.console import Console

from core_jax import cli, mesh
from core_jax.cores import cores
from core_jax.files import each, refuse_unwritable, sha256
from core_jax.numbers import COUNT, POSITIVE, refuse
from core_jax.tables import write_parquet
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax import share
from koala_jax.aesthetic.predictor import Aesthetic, load_clip, load_head
from koala_jax.journal import Journal, Row, key, stopped
from koala_jax.metrics import Metric
from koala_jax.metrics.measure import Measured, Plan, measure
from koala_jax.shots.inputs import named
from koala_jax.tsa import scorer
from koala_jax.tsa.predict import MOST_CORES, Predictor
from koala_jax.tsa.scale import Scale

ABOUT = {
    "frames": pa.int64(), "seconds": pa.float64(), "fps": pa.float64(), "height": pa.int64(), "width": pa.int64(), "bits_per_pixel": pa.float64(),
    "transfer": pa.string(),
}  # fmt: skip
VTSS = "vtss"
PICTURES = 4
"""frames whose aesthetic is averaged"""
PART_SECONDS = 20
"""rows are kept at least this often"""


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """Measure and score clips. Rerun the same command to go on where it stopped."""

    clips: tyro.conf.Positional[tuple[str, ...]]
    """videos, and folders of videos, which are read with their subfolders"""
    out: str = "scores.parquet"
    """the table; finished work is kept in OUT.parts/ beside it"""
    metrics: tuple[Metric, ...] = tuple(Metric)
    """sub-metrics to measure"""
    weights: str | None = None
    """a scorer, as koala_jax.tsa.convert and koala_jax.tsa.train write it, in place of the small one that comes with the package (column quality)"""
    quality: bool = True
    """without --weights, score by the package's scorer; --no-quality: sub-metrics alone. A scorer's sub-metrics are measured in any case"""
    aesthetic: tuple[str, str] | None = None
    """CLIP ViT-L/14 and LAION's linear head (predictor.py says which files); without them the column aesthetic is empty and there is no embedding"""
    draws: int = 1
    """number of random fragments that a score is the mean of; with more than one their spread is reported"""
    seed: int = 0
    """seed of the fragments; the same seed gives the same score"""
    workers: int = cores()
    """decoding processes, on each host"""
    batch: int = 1
    """clips that a device scores at a time"""
    limit: float = 600.0
    """seconds that one video may take to decode"""
    share: str | None = None
    """K/N, as 1/8 … 8/8 on eight hosts: score every N-th clip, from the K-th on. Where jax knows the hosts, as on a TPU slice, each finds its own"""
    json: str | None = None
    """also write counts and times to this file"""

    def __post_init__(self):
        if not self.clips:
            raise ValueError("no clips were given: name folders of videos, or videos")
        refuse(self, {COUNT: "draws workers batch", POSITIVE: "limit"})
        if self.share:
            share.parse(self.share)

    @property
    def scorer(self) -> str | None:
        """The weights that are used."""
        return self.weights or (scorer.PACKAGED if self.quality else None)


class Scoring:
    """What turns a measured video into a row."""

    def __init__(self, config: ScoreConfig):
        self.on = mesh.build(devices=jax.local_devices())
        self.config, self.scorer, self.predict, self.aesthetic = config, None, None, None
        if config.aesthetic:
            tower, head = config.aesthetic
            self.aesthetic = Aesthetic(load_clip(tower), load_head(head), self.on)
        wanted = set()
        if config.scorer:
            self.scorer, model = scorer.load(config.scorer, self.on)
            self.predict = Predictor(model, self.on, config.batch)
            wanted = set(self.scorer.labels.names if self.scorer.labels else ())
            if missing := wanted - {name for m in Metric for name in m.columns} - ABOUT.keys():
                raise ValueError(f"{config.scorer} was trained on sub-metrics that are not measured here: {', '.join(sorted(missing)[:5])}")
        self.metrics = tuple(m for m in Metric if m in config.metrics or wanted & set(m.columns))

    @property
    def plan(self) -> Plan:
        return Plan(self.metrics, self.scorer and self.scorer.fragments, self.config.draws, self.config.seed, PICTURES if self.aesthetic else 0)

    @property
    def schema(self) -> pa.Schema:
        """The table's columns: file, the scores, about the file, the metrics, error."""
        score = {}
        if self.scorer:
            name = self.scorer.column
            names = (name, *([f"{name}_raw"] if name == VTSS else []), *([f"{name}_spread"] if self.config.draws > 1 else []))
            score = dict.fromkeys(names, pa.float64())
        measured = {name: pa.float64() for metric in self.metrics for name in metric.columns}
        embedding = {"embedding": pa.list_(pa.float32())} if self.aesthetic else {}
        return pa.schema({"file": pa.string(), **score, "aesthetic": pa.float64(), **ABOUT, **measured, **embedding, "error": pa.string()})

    @property
    def together(self) -> int:
        """Videos whose clips, or pictures, fill all devices."""
        clips = self.predict.batch // (self.config.draws * self.scorer.fragments.clips) if self.scorer else 1
        return max(clips, self.aesthetic.batch // PICTURES if self.aesthetic else 1, 1)

    def rows(self, results: Iterable[tuple[str, str, Future]]) -> list[Row]:
        """Rows of (key, file, measured), their scores not yet on a scale; where one failed, `error` says why and the rest is empty."""
        rows, shown, asked = [], [], []
        for key, file, result in results:
            try:
                measured: Measured = result.result()
            except VideoError as error:
                rows.append({"key": key, "file": file, "error": error.reason})
                continue
            rows.append({"key": key, "file": file, **measured.columns, "error": measured.unscored or measured.broken})
            if measured.pictures is not None:
                shown.append((rows[-1], measured.pictures))
            if measured.clips is not None:
                asked.append((rows[-1], measured))
        for (row, _), looks in zip(shown, self._looks([pictures for _, pictures in shown]) if shown else ()):
            row |= looks
        for (row, _), raw in zip(asked, self.raw(*(measured for _, measured in asked)) if asked else ()):
            if np.isfinite(raw).all():
                row |= {"raw": float(raw.mean()), "raw_spread": float(raw.std(ddof=1)) if len(raw) > 1 else None}
            else:
                row |= {"error": f"the scorer {self.config.scorer} gives no number"}
        return rows

    def _looks(self, pictures: list[UInt8[np.ndarray, "n 224 224 3"]]) -> list[Row]:
        """Of the pictures of each video."""
        ends = np.cumsum([len(some) for some in pictures])[:-1]
        parts = zip(*(np.split(x, ends) for x in self.aesthetic(np.concatenate(pictures))))
        return [
            {"aesthetic": float(scores.mean()), "embedding": embeddings.mean(0).astype(float).round(5).tolist()}
            if np.isfinite(scores).all() else {"error": "the weights of --aesthetic give no number"}
            for scores, embeddings in parts
        ]  # fmt: skip

    @property
    def kept(self) -> pa.Schema:
        """The columns of a row whose score is not yet on a scale."""
        return pa.unify_schemas([self.schema, pa.schema({"raw": pa.float64(), "raw_spread": pa.float64()})])

    def scaled(self, held: pa.Table) -> tuple[pa.Table, Scale | None]:
        """The table of rows that the journal held; a vtss whose weights bring no scale is scaled by the clips of the table."""
        if not self.scorer:
            return held.select(self.schema.names), None
        name, scale = self.scorer.column, self.scorer.scale
        raw, spread = (np.asarray(held[column].fill_null(np.nan)) for column in ("raw", "raw_spread"))
        if scale is None and name == VTSS:
            scale = Scale.of(raw) if np.unique(raw[np.isfinite(raw)]).size > 1 else None
        scores = scale(raw) if scale else np.full_like(raw, np.nan) if name == VTSS else raw
        slope = scale.label_std / scale.std if scale else 1.0
        made = {name: scores, f"{name}_raw": raw, f"{name}_spread": slope * spread}
        known = {column: pa.array(x, mask=~np.isfinite(x)) for column, x in made.items()}
        return pa.table({column: known.get(column, held[column]) for column in self.schema.names}, self.schema), scale

    def raw(self, *measured: Measured) -> Float[np.ndarray, "videos draws"]:
        """The network's score of each draw of each video: the mean over its clips. Raises ValueError where a video has none, e.g. is too short."""
        if reasons := [one.unscored for one in measured if one.unscored]:
            raise ValueError(reasons[0])
        clips = np.stack([one.clips for one in measured])
        videos, draws, seen = clips.shape[:3]
        alike = lambda rows: np.repeat(np.stack(rows), draws * seen, axis=0)  # noqa: E731
        labels = alike([self.scorer.labels.vector(one.columns) for one in measured]) if self.scorer.labels else None
        return self.predict(clips.reshape(-1, *clips.shape[3:]), alike([one.image for one in measured]), labels).reshape(videos, draws, seen).mean(2)


def measured(files: dict[str, epath.Path], plan: Plan, pool: DecodePool) -> Iterator[tuple[str, Future]]:
    """(name, what was measured) as it comes, a few videos ahead of who asks: one that hangs holds up no other."""
    waiting, todo = {}, iter(files.items())
    with pool.threads() as threads:
        while True:
            for name, file in itertools.islice(todo, 2 * pool.workers - len(waiting)):
                waiting[threads.submit(pool.run, measure, str(file), plan)] = name
            if not waiting:
                return
            wait(waiting, return_when=FIRST_COMPLETED)
            job = next(job for job in waiting if job.done())
            yield waiting.pop(job), job


def score(config: ScoreConfig, console: Console, number: int = 0, shares: int = 1) -> dict:
    """Does one of so many shares, the `number`-th from 0; counts and seconds."""
    out = epath.Path(config.out)
    refuse_unwritable("--out", out, ".parquet")
    files = {name: file for given in config.clips for name, file in named(epath.Path(given), out).items()}
    scoring = Scoring(config)
    weights = scorer.fingerprint(config.scorer) if config.scorer else None
    aesthetic = [sha256(path)[:16] for path in config.aesthetic or ()]
    columns = [name for metric in scoring.metrics for name in metric.columns]  # another version's may be others
    settings = {"metrics": columns, "weights": weights, "aesthetic": aesthetic, "draws": config.draws, "seed": config.seed}
    journal = Journal(out, settings)
    keys = dict(zip(files, each(lambda item: key(*item), files.items())))
    done = {row["key"]: "frames" in row for rows in journal.parts() for row in rows}  # what could not be read is tried again
    owed = list(files)[number::shares]  # whatever the others have done when this host looks
    mine = {name: files[name] for name in owed if not done.get(keys[name])}
    here = f"; share {number + 1}/{shares} has {len(mine)} to do" if shares > 1 else ""
    console.print(f"{counted(len(files), 'clip')}, {sum(done.get(key, False) for key in keys.values())} of them done before{here}")
    started, rows, failed, kept = time.monotonic(), [], 0, time.monotonic()
    with DecodePool(config.workers, seconds=config.limit) as pool, cli.progress("clips", len(mine), console) as scored:
        try:
            coming = measured(mine, scoring.plan, pool)
            while new := scoring.rows((keys[name], name, result) for name, result in itertools.islice(coming, scoring.together)):
                rows += new
                for row in new:
                    if row["error"]:
                        failed += 1
                        console.print(f"{row['file']}: {row['error']}")
                scored(len(new))
                if time.monotonic() - kept > PART_SECONDS:
                    journal.add(rows)
                    rows, kept = [], time.monotonic()
        finally:
            if rows:
                journal.add(rows)
    seconds = time.monotonic() - started
    held = journal.table(keys.values(), scoring.kept)
    complete = held.num_rows == len(keys)
    if complete:
        table, scale = scoring.scaled(held)
        about = {"settings": json.dumps(settings), "scale": json.dumps(scale and dataclasses.asdict(scale))}
        write_parquet(out, table.replace_schema_metadata(about))
    decoded = held.num_rows - held["frames"].null_count
    return {"clips": len(files), "decoded": decoded, "scored_now": len(mine), "failed_now": failed, "seconds": seconds, "complete": complete}


def main(args: list[str]) -> None:
    config, console = cli.parse(ScoreConfig, args, "koala_jax.score"), cli.console()
    mesh.use_cores(MOST_CORES)
    number, shares = share.start(config)
    try:
        figures = score(config, console, number, shares)
    except KeyboardInterrupt:
        sys.exit(stopped(config.out))
    console.save(config.json, figures)
    if figures["scored_now"]:
        console.print(f"{counted(figures['scored_now'], 'clip')} in {figures['seconds']:.1f} s, {figures['failed_now']} with an error in their row")
    if figures["complete"]:
        column = next((metric.columns[0] for metric in Metric if metric in config.metrics), "seconds")
        look, keep = cli.command("koala_jax.score_report", config.out), cli.command("koala_jax.filter", config.out, "--keep", f"{column} >= p10")
        following = f"; next: {look}, to look at it; {keep}" if figures["decoded"] else ""
        console.print(f"wrote {config.out}{following}")
    else:
        console.print(f"share {number + 1}/{shares} is done; {config.out} is written by whoever does the last one, or by the same command again")
    if figures["complete"] and not figures["decoded"]:
        raise ValueError(f"no clip could be read: {config.out} says why in the column error")


if __name__ == "__main__":
    cli.run(main)
