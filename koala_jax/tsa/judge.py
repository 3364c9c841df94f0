"""`python -m koala_jax.tsa.judge CLIPS`: how well scorers rank degraded versions of your own videos.

One segment of each video is degraded in every way at every level, as in training; a row for each way says how the scores of one clip's
versions follow the level (Spearman, averaged over the clips), beside what needs no training. Judge on videos that no scorer was trained on:
its card names those.
"""
import dataclasses

import jax
import numpy as np
import tyro
from etils import epath

from core_jax import cli, mesh
from core_jax.cores import cores
from core_jax.files import nulled
from core_jax.numbers import COUNT, refuse
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax.metrics.measure import Plan
from koala_jax.tsa import evaluate, scorer
from koala_jax.tsa.card import seen
from koala_jax.tsa.degrade import Degradation
from koala_jax.tsa.predict import Predictor
from koala_jax.tsa.prepare import Maker
from koala_jax.tsa.samples import METRICS, Samples


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """Measure how well scorers rank degraded versions of videos. Rerun with the same --out to go on."""

    clips: tyro.conf.Positional[str]
    """a folder of videos"""
    weights: tuple[str, ...] = (scorer.PACKAGED,)
    """one scorer, or several that are compared on the same fragments"""
    out: str = "runs/judge"
    """folder of the degraded samples, kept for a rerun"""
    kinds: tuple[Degradation, ...] = tuple(Degradation)
    """ways to degrade a clip"""
    seed: int = 0
    """seed of the degradations and fragments"""
    workers: int = cores()
    """decoding processes"""
    json: str | None = None
    """also write the figures to this file"""

    def __post_init__(self):
        if not self.kinds:
            raise ValueError(f"--kinds: at least one is needed of {', '.join(kind.value for kind in Degradation)}")
        refuse(self, {COUNT: "workers"})


def judged(weights: str, samples: Samples) -> np.ndarray:
    """The scores of all samples."""
    on = mesh.build(devices=jax.local_devices())  # each host of a job judges all
    config, model = scorer.load(weights, on)
    labels = None
    if config.labels:
        if missing := set(config.labels.names) - set(samples.names):
            raise ValueError(f"{weights} was trained on sub-metrics that are not measured here: {', '.join(sorted(missing)[:5])}")
        labels = config.labels.vectors(samples.columns[:, [samples.names.index(name) for name in config.labels.names]].astype(float))
    return evaluate.predict(Predictor(model, on, per_device=8), samples, labels)


def following(figures: dict[str, dict[str, float]], weights: dict[str, str]) -> str:
    """The command that scores clips by the best of the scorers over all kinds; the package's own needs no flag."""
    best = weights[max(weights, key=lambda name: np.nan_to_num(figures["all"][name], nan=-1.0))]
    return cli.command("koala_jax.score", "CLIPS", "--out", "scores.parquet", *(() if best == scorer.PACKAGED else ("--weights", best)))


def main(args: list[str]) -> None:
    config, console = cli.parse(JudgeConfig, args, "koala_jax.tsa.judge"), cli.console()
    mesh.start(config)
    ways = {scorer.ScorerConfig.read(weights).fragments for weights in config.weights}
    if len(ways) != 1:
        raise ValueError(f"--weights: {len(config.weights)} scorers of {len(ways)} ways to sample a video; judge those of one way at a time")
    plan = Plan(METRICS, ways.pop(), 1, config.seed)
    with DecodePool(config.workers, seconds=1800, bytes=2**32) as pool:
        samples = Maker(epath.Path(config.out) / "samples", plan, config.kinds, pool, console.print).pairs(config.clips, 1)
    names = ["/".join(epath.Path(weights).parts[-2:]) for weights in config.weights]
    names = names if len(set(names)) == len(names) else config.weights
    scores = {name: judged(weights, samples) for name, weights in zip(names, config.weights)}
    figures = evaluate.by_kind({**scores, **evaluate.baselines(samples)}, samples)
    videos = len(set(samples.sources))
    console.print(evaluate.table(figures, f"SRCC within a clip across levels, {counted(videos, 'video')}"))
    weights = dict(zip(names, config.weights))
    for name, path in weights.items():
        if known := seen(epath.Path(path).with_suffix(".card.json"), "trained on", samples.sources):
            console.print(f"{name} was trained on {counted(len(known), 'video')} of these ({', '.join(known)}), which flatters it")
    console.save(config.json, nulled({"videos": videos, "weights": weights} | figures))
    console.print(f"next: {following(figures, weights)}")


if __name__ == "__main__":
    cli.run(main)
