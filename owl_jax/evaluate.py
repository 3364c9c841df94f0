"""`python -m owl_jax.evaluate --run DIR`: memory, consistency, motion and dynamics of a world model on held-out `stories`, beside its
baselines and ablations, and how they hold over time."""
import dataclasses
import itertools
import json

import jax
import numpy as np
from etils import epath
from matplotlib.figure import Figure
from rich.table import Table

from core_jax import cli, mesh
from core_jax.files import in_memory, nulled, refuse_unwritable, unbroken, write_bytes, write_json
from core_jax.mesh import MeshConfig
from core_jax.numbers import FROM_0, refuse
from core_jax.words import markdown
from owl_jax import judge, run, storyboard
from owl_jax.config import Caption, ContextConfig
from owl_jax.films import FPS, begins_scene
from owl_jax.stages import Stage
from owl_jax.ways import TITLES, Filmed, Way, film, foreseen_texts
from owl_jax.world import World
from videodit_jax.data.check_stories import check
from videodit_jax.data.shapes import Split
from videodit_jax.data.stories import Stories
from videodit_jax.evaluate import embeddings, report


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Measure a world model on held-out stories, beside baselines and ablations."""

    run: str = "runs/owl"
    """folder of a world model that was trained on `stories`"""
    stage: Stage | None = None
    """stage whose model is judged; by default the last one that has ended"""
    stories: int = 100
    """held-out stories to film"""
    unseen: bool = False
    """film stories of pairs of colour and shape that were never trained, instead of new stories of the trained pairs"""
    clips: int = 12
    """clips of each story"""
    batch: int = 50
    """stories filmed side by side"""
    ways: tuple[Way, ...] = tuple(Way)
    """ways that are compared, a column of the table each; owl_jax/ways.py says what each is"""
    embedding: str | None = None
    """directory of a DINO or CLIP for slow-fast consistency; a fixed feature of pixels by default"""
    seed: int = 0
    """seed of the films"""
    temperature: float = 1.0
    """temperature of the texts of the loop by itself, as in owl_jax.generate"""
    out: str | None = None
    """folder of the figures, the curves over time and a storyboard a way; RUN/evaluation, or RUN/evaluation-unseen, by default"""
    context: ContextConfig = ContextConfig()
    mesh: MeshConfig = MeshConfig()
    json: str | None = None
    """also write the figures to this file"""

    def __post_init__(self):
        refuse(self, {FROM_0: "temperature"})
        if min(self.stories, self.batch) < 1 or self.clips < 6 or self.clips % 3 or not self.ways:
            raise ValueError(
                f"--stories {self.stories} --batch {self.batch} --clips {self.clips}: at least 1 story a batch, and clips in three scenes "
                "(a multiple of 3, at least 6), are needed, and one way"
            )


Interval = dict[str, float | None]


def interval(values: list[float]) -> Interval:
    """Mean over stories and its 95 % interval, None for a single story; stories to which a figure does not apply are left out."""
    known = np.asarray(values)[np.isfinite(values)]
    if not known.size:
        return {}
    low, high = report.interval(known)
    return {"value": float(known.mean()), "low": low, "high": high, "stories": int(known.size)}


def cells(figures: dict[str, dict[str, Interval]]) -> list[list[str]]:
    """Ways, then a row a figure, a column a way, with half the width of its interval."""
    rows = [[name, *(_cell(found.get(name)) for found in figures.values())] for name in next(iter(figures.values()))]
    return [["", *(TITLES[Way(way)] for way in figures)], *rows]


def table(figures: dict[str, dict[str, Interval]], config: EvaluateConfig) -> Table:
    """The same to be printed."""
    what = f"held-out stories{' of unseen pairs' if config.unseen else ''}"
    shown = Table(title=f"films of {config.clips} clips on {what}: mean over stories ± half of its 95 % interval")
    head, *rows = cells(figures)
    for i, heading in enumerate(head):
        shown.add_column(heading, justify="right" if i else "left")
    for row in rows:
        shown.add_row(*row)
    return shown


def _cell(found: Interval | None) -> str:
    if not found:
        return "–"
    return f"{found['value']:.2f}" + ("" if found["low"] is None else f" ±{(found['high'] - found['low']) / 2:.2f}")


def curves(over_time: dict[str, dict[str, np.ndarray]], seconds: float) -> bytes:
    """PNG: each quality against the film's time, a line a way."""
    names = list(next(iter(over_time.values())))
    figure = Figure((4 * len(names), 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names)), names):
        for (way, rows), mark in zip(over_time.items(), itertools.cycle("osD^v<>X")):
            axes.plot(np.arange(len(rows[name])) * seconds, rows[name], label=TITLES[Way(way)], marker=mark, markersize=4, linewidth=1)
        axes.set(title=name, xlabel="seconds", ylim=(0, None))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(over_time))
    return in_memory(lambda file: figure.savefig(file, format="png", dpi=110))


def evaluate(config: EvaluateConfig) -> dict:
    """Films the stories in every way, judges, writes; films that an earlier run made are not made again."""
    mesh.start(config, alone="films are made")
    on, console = mesh.build(config.mesh), cli.console()
    trained = run.trained(config.run, config.stage)
    if trained.owl.caption is Caption.THIS:
        raise ValueError(f"{config.run} was trained with --owl.caption this: its texts tell of the clip seen, and those judged here of the next one")
    console.print(run.describe(trained))
    out = epath.Path(config.out or f"{config.run}/evaluation{'-unseen' if config.unseen else ''}")
    refuse_unwritable("--out", out / "figures.json")
    with jax.set_mesh(on):
        bare, pieces, before = run.build(trained, on, only_films=True)
        owl = run.restored(trained, bare, on)
        T, H, W = before.config.video
        source = Stories(T, H, W, clips=config.clips, split=Split.HELD_OUT, unseen=config.unseen)
        stories = [source[i] for i in range(config.stories)]
        fps = before.config.fps or FPS
        true = [judge.motion(np.stack([clip.video for clip in story.clips]), fps) for story in stories]
        embed = embeddings.load(config.embedding, on) if config.embedding else embeddings.pixels(on)
        look = lambda frames: embed(embed.view(frames))
        new_world = lambda: World(owl, pieces, before.config, config.context, temperature=config.temperature)
        figures, over_time = {}, {}
        groups = [stories[i : i + config.batch] for i in range(0, len(stories), config.batch)]
        for way in config.ways:
            path, title = out / "films" / f"{way.value}.npz", TITLES[way]
            drawn = config.stories, config.unseen, config.clips, config.batch, config.seed, config.temperature if way is Way.FORESEEN else None
            settings = json.dumps((*drawn, config.context, before.config.sampling, run.key(trained)), default=str)
            made = _kept(path, settings)
            if made is None:
                parts = []
                for i, group in enumerate(groups):
                    parts.append(film(way, new_world, bare.film, group, config.seed + i))
                    console.print(f"{title}: {min((i + 1) * config.batch, config.stories)} of {config.stories} stories filmed")
                made = Filmed(np.concatenate([part.clips for part in parts]), [row for part in parts for row in part.said])
                _keep(path, made, settings)
            seen = [[check(clip) for clip in clips] for clips in made.clips]
            own = way is Way.FORESEEN  # this way alone cuts where its own texts say
            cuts = [list(map(begins_scene, said)) if own else [clip.cut for clip in story.clips] for story, said in zip(stories, made.said)]
            rows = [judge.judge(*one, look, fps) for one in zip(stories, true, made.clips, seen, made.said, cuts)]
            figures[way.value] = {name: interval([row[name] for row in rows]) for name in rows[0]}
            each = [judge.by_clip(*one) for one in zip(stories, seen)]
            over_time[way.value] = {name: np.ma.masked_invalid([one[name] for one in each]).mean(0).filled(np.nan) for name in each[0]}
            scenes = list(zip(made.clips[0], made.said[0], cuts[0]))
            storyboard.write(out / way.value, scenes, config.clips, (T - 1) / fps)
        texts = [row for group in groups for row in foreseen_texts(new_world, group)]
    found = [judge.next_event(story, row) for story, row in zip(stories, texts)]
    next_ = {name: interval([row[name] for row in found]) for name in found[0]}
    console.print(table(figures, config))
    for name, value in next_.items():
        console.print(f"{name}, the true past given: {_cell(value)}")
    write_bytes(out / "time.png", curves(over_time, (T - 1) / fps))
    result = {
        "stories": config.stories, "unseen": config.unseen, "clips": config.clips, "embedding": config.embedding or "pixels", "step": run.step(trained),
        "ways": figures, "dynamics": next_, "time": nulled({way: {name: row.tolist() for name, row in rows.items()} for way, rows in over_time.items()}),
    }  # fmt: skip
    write_json(out / "figures.json", result)
    write_bytes(out / "table.md", markdown(*cells(figures)).encode())
    console.save(config.json, result)
    console.print(f"wrote {out}: figures.json, table.md, time.png, storyboards; next: {cli.command('owl_jax.generate', '--run', config.run)}")
    return result


def _kept(path: epath.Path, settings: str) -> Filmed | None:
    def read(path: epath.Path) -> Filmed | None:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            return Filmed(held["clips"], held["said"].tolist()) if str(held["settings"]) == settings else None

    return unbroken(path, read)


def _keep(path: epath.Path, made: Filmed, settings: str) -> None:
    write_bytes(path, in_memory(lambda file: np.savez_compressed(file, clips=made.clips, said=np.array(made.said), settings=settings)))


def main(args: list[str]) -> None:
    evaluate(cli.parse(EvaluateConfig, args, "owl_jax.evaluate"))


if __name__ == "__main__":
    cli.run(main)
