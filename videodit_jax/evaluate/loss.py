"""The loss on held-out clips at fixed times and with fixed noise, beside what simple predictors reach there."""
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray, Shaped
from rich.table import Table

from core_jax.compiler import jit
from core_jax.files import each
from core_jax.layers import patchify
from core_jax.sharding import batch_pieces
from core_jax.words import counted
from videodit_jax import flow
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import TrainConfig, named
from videodit_jax.data import Source, encoder
from videodit_jax.data.buckets import Shape, parts
from videodit_jax.data.loader import global_epoch, spaced
from videodit_jax.given import apart, channels
from videodit_jax.model import VideoDiT
from videodit_jax.objective import to_float

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""of those that are trained on, from the first to the last"""
NOISE = 1
"""key of the noise, whatever a run's seed"""
NUMBERS = 2**26
"""pixels times channels that the simple predictors look at, of the training clips and of the held-out ones: 64 clips of 81 frames at
720×1280 would take hundreds of GB"""


def times_of(config: TrainConfig) -> tuple[float, ...]:
    """TIMES among those of the run, which of an expert are not all."""
    first, last = config.flow.between
    return tuple(round(first + (last - first) * t, 6) for t in TIMES)


def loss_at_times(config: TrainConfig) -> Callable:
    """(model, batch, key) → losses summed over the batch at each of `times_of`, all conditions given.

    A clip's noise goes by its number, so that runs are compared on the same noise whatever their batches.
    """

    def evaluate(model: VideoDiT, batch: dict[str, Any], key: PRNGKeyArray) -> Float[Array, "times"]:
        video, known = apart(config.model, batch["video"])
        x0 = to_float(video)
        given = channels(to_float(known), jnp.ones(len(x0), int), True) if config.model.gray else None
        eps = jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(key, number), x0.shape[1:]))(batch["number"])

        def at(time):
            t = jnp.full((x0.shape[0],), time)
            out = model(flow.mix(x0, eps, t).astype(config.dtype.jax), t, batch["text"], batch["scores"], given, batch.get("picture"))
            return (flow.losses(config.flow, out, x0, eps) * batch["weight"]).sum()

        return jax.lax.map(at, jnp.asarray(times_of(config)))

    return evaluate


class Evaluation:
    """The held-out loss of a run on clips of one shape; all runs on the same data see the same clips, noise and times."""

    def __init__(self, config: TrainConfig, source: Source, statistics: ScoreStatistics, on: Mesh):
        """Args:
        source: the held-out split, of which `config.eval_examples` clips count, evenly spaced.
        """
        self.clips = min(len(source), config.eval_examples)
        pieces = batch_pieces(on)
        batch = min(config.batch // config.optimizer.accumulate, -(-self.clips // pieces) * pieces)
        self.batches = global_epoch(source, encoder(config, statistics), on, batch=batch, limit=self.clips, threads=max(config.workers, 2))
        self.evaluate = jit(loss_at_times(config))
        self.key = jax.random.key(NOISE)

    def __call__(self, model: VideoDiT) -> np.ndarray:
        """Mean loss at each of `times_of`."""
        return np.sum([jax.device_get(self.evaluate(model, batch, self.key)) for batch in self.batches()], 0) / self.clips


Losses = dict[Shape, np.ndarray]
"""of clips of each shape, at each of `times_of`"""


class Evaluations:
    """An `Evaluation` of clips of each shape. They share `config.eval_examples` as they share the held-out split, but for one that each has at least."""

    def __init__(self, config: TrainConfig, train: Source, held_out: Source, statistics: ScoreStatistics, on: Mesh):
        """Args:
        train, held_out: the splits; on the first the simple predictors of `tables` are fitted.
        """
        self.config, self.train, self.held_out = config, parts(train, config.video), parts(held_out, config.video)
        shares = {shape: max(config.eval_examples * len(part) // len(held_out), 1) for shape, part in self.held_out.items()}
        self.configs = {shape: dataclasses.replace(config.at(shape), eval_examples=share) for shape, share in shares.items()}
        self.each = {shape: Evaluation(one, self.held_out[shape], statistics, on) for shape, one in self.configs.items()}

    def __call__(self, model: VideoDiT) -> Losses:
        return {shape: evaluation(model) for shape, evaluation in self.each.items()}

    def mean(self, losses: Losses) -> np.ndarray:
        """At each of `times_of`, over the clips of all shapes."""
        if len(losses) == 1:  # which a mean would round
            return next(iter(losses.values()))
        return np.average(list(losses.values()), axis=0, weights=[self.each[shape].clips for shape in losses])

    def figures(self, losses: Losses) -> dict[str, float]:
        """By the names that they have in `held_out.jsonl`."""
        whole = self.mean(losses)
        own = {f"loss of {named(shape)}": one.mean() for shape, one in losses.items()} if self.config.buckets else {}
        return {"loss": whole.mean()} | {f"loss at t={t}": value for t, value in zip(times_of(self.config), whole)} | own

    def tables(self, losses: Losses) -> Iterator[Table]:
        """Of each shape, beside `baselines` where it has clips to fit them on."""
        for shape, config in self.configs.items():
            clips = counted(self.each[shape].clips, "held-out clip") + f" of {named(shape)}" * bool(self.config.buckets)
            splits = [split[shape] for split in (self.train, self.held_out) if shape in split]
            simple = baselines(config, *(some_clips(config, split) for split in splits)) if len(splits) == 2 else {}
            yield table({"model": losses[shape]} | simple, clips, times_of(config))


def some_clips(config: TrainConfig, source: Source) -> Shaped[np.ndarray, "n T H W C"]:
    """What `baselines` looks at: `eval_examples` clips, or as many of them as NUMBERS allows, evenly spaced."""
    most = max(min(config.eval_examples, NUMBERS // math.prod(config.stored.shape)), 1)
    return np.stack(list(each(lambda i: apart(config.model, source[i]["video"])[0], spaced(len(source), most), max(config.workers, 2))))


def baselines(
    config: TrainConfig, train: Shaped[np.ndarray, "n T H W C"], held_out: Shaped[np.ndarray, "m T H W C"]
) -> dict[str, np.ndarray]:
    """Held-out losses at `times_of` of two predictors fitted on training clips.

    Returns:
      "constant": the best single colour, whatever the input. "linear": the least-squares linear map, with offset, from a noisy
      patch to its target, a patch being one token of the model; at most 16,384 patches are fitted on.
    """
    rng = np.random.default_rng(config.seed)

    def pairs(video: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        x0 = np.asarray(to_float(video))
        eps = rng.standard_normal(x0.shape, np.float32)
        both = (1 - t) * x0 + t * eps, flow.TARGET_OF[config.flow.target](x0, eps)
        x, y = (np.asarray(patchify(part, config.model.patch)).reshape(-1, config.model.patch_numbers) for part in both)
        return np.concatenate([x, np.ones((len(x), 1), np.float32)], 1), y

    result = {"constant": [], "linear": []}
    for t in times_of(config):
        (x, y), (x_new, y_new) = pairs(train, t), pairs(held_out, t)
        colour = y.reshape(len(y), config.model.channels, -1).mean((0, 2))
        result["constant"].append(np.square(y_new.reshape(len(y_new), len(colour), -1) - colour[:, None]).mean())
        rows = rng.choice(len(x), min(len(x), 16_384), replace=False)
        weights, *_ = np.linalg.lstsq(x[rows], y[rows], rcond=None)
        result["linear"].append(np.square(x_new @ weights - y_new).mean())
    return {name: np.asarray(values) for name, values in result.items()}


def table(losses: dict[str, np.ndarray], clips: str, times: tuple[float, ...]) -> Table:
    """One row a predictor, one column a time; `clips` says how many, and of which shape."""
    out = Table(title=f"loss on {clips}, by time of the flow")
    for heading in ("", *(f"t = {t}" for t in times)):
        out.add_column(heading, justify="right")
    for name, row in losses.items():
        out.add_row(name, *(f"{value:.4f}" for value in row))
    return out
