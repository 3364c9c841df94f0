"""`python -m koala_jax.tsa.train`: trains a suitability scorer, on labels of people or on pairs that it makes itself.

  --labels labels.csv   columns `file` and raters (or one mean score): a VTSS of your own
  --clips FOLDER        no labels: every clip is degraded in known ways and amounts, and the rank is what is learned

Held out are whole videos. What was cut from the videos is kept in OUT/samples, so that a rerun starts at once; a run that was stopped
goes on from its last checkpoint.
"""
import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from core_jax import cli, loop, mesh
from core_jax.checkpoint import Checkpoints
from core_jax.files import existing, nulled, write_json
from core_jax.report import Report
from core_jax.rngs import Rngs
from core_jax.sharding import batch_sharding, distribute, refuse_undivided
from core_jax.state import compile_step, create, init, make_step
from core_jax.video_worker import DecodePool
from core_jax.weights import by_name, count, named, renamed
from core_jax.words import counted
from koala_jax.begun import refuse_other
from koala_jax.tsa import evaluate, scorer
from koala_jax.tsa.card import card, licences
from koala_jax.tsa.config import TrainConfig, settings_of
from koala_jax.tsa.convert import read_tensors
from koala_jax.tsa.first import LEARNT, moved, train_labels
from koala_jax.tsa.fragments import IMAGE, normalised
from koala_jax.tsa.losses import Loss
from koala_jax.tsa.model import SuitabilityConfig
from koala_jax.tsa.predict import Predictor
from koala_jax.tsa.prepare import samples_of
from koala_jax.tsa.samples import Samples, batches
from koala_jax.tsa.scale import Scale


def without_bits(samples: Samples) -> tuple[tuple[str, ...], np.ndarray]:
    """The sub-metrics; what a file's encoder made of it is none of them."""
    names = tuple(name for name in samples.names if name != "bits_per_pixel")
    return names, samples.columns[:, [samples.names.index(name) for name in names]].astype(float)


def label_rows(labels: scorer.Labels | None, samples: Samples) -> np.ndarray:
    """What the label branch gets, (n, M); (n, 0) where there is no such branch."""
    return labels.vectors(without_bits(samples)[1]).astype(np.float32) if labels else np.zeros((len(samples), 0), np.float32)


def started(model: nnx.Module, start: tuple[str, ...]) -> nnx.Module:
    """The model with the tensors of the files in place of its own.

    Raises:
      ValueError: no file of weights, a tensor that the model has not, or of another shape.
    """
    table = named(model)
    for file in start:
        tensors = read_tensors(file)
        if unknown := sorted(tensors.keys() - table.keys()):
            raise ValueError(f"{file} holds {unknown[0]}, which this network has not")
        table |= tensors
    return renamed(model, table)


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW on a warm-up and a cosine, with decay on matrices alone; the towers' updates scaled, and none of a label branch that learned before."""
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, min(config.warmup, config.steps // 2), config.steps)
    adam = optax.adamw(rate, weight_decay=config.weight_decay, mask=by_name(lambda name: name.endswith(".w")))
    slower = optax.masked(optax.scale(config.towers), by_name(lambda name: name.startswith(("dynamic.", "static."))))
    learnt = LEARNT if config.clips and config.label_steps else ()
    held = optax.masked(optax.set_to_zero(), by_name(lambda name: name.startswith(learnt)))
    return optax.chain(optax.clip_by_global_norm(1.0), adam, slower, held)


def train_flops(chosen: scorer.ScorerConfig) -> float:
    """FLOPs of one clip, forward and backward, which counts twice the forward, as XLA counts the program before it compiles it.

    On no mesh: one clip cannot be cut.
    """
    f, image = chosen.fragments, jax.ShapeDtypeStruct((1, IMAGE, IMAGE, 3), jnp.float32)
    clip = jax.ShapeDtypeStruct((1, f.frames, f.size, f.size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, len(chosen.labels.names)), jnp.float32) if chosen.labels else None
    lowered = jax.jit(lambda model, *inputs: model(*inputs)).lower(chosen.abstract(), clip, image, labels)
    return 3 * lowered.cost_analysis()["flops"]


def loss_fn(config: TrainConfig):
    """(model, batch, key) → (loss, {})."""

    def loss(model, batch, key):
        labels = batch["labels"] if batch["labels"].shape[1] else None
        scores = model(normalised(batch["clips"]), normalised(batch["images"]), labels, key=key)
        return config.chosen_loss(scores, batch["targets"], batch["groups"], batch["kinds"]), {}

    return loss


def global_batches(config: TrainConfig, samples: Samples, labels: np.ndarray, on: Mesh, start: int) -> Iterator[dict]:
    """Batches on the mesh: a random clip of each sample, mirrored half of the time; the same of all levels of a degradation, whose
    difference is to be learnt."""
    targets = {"targets": samples.targets, "groups": samples.groups, "kinds": samples.kind_numbers}
    for step, rows in enumerate(batches(samples, config.batch, config.seed, start), start):
        rng = np.random.default_rng([config.seed, step, 1])
        alike = np.unique(samples.groups[rows], return_inverse=True)[1] if config.clips else np.arange(len(rows))
        clips = samples.clips[rows, rng.integers(samples.clips.shape[1], size=len(rows))[alike]]
        mirrored = (rng.random(len(rows)) < 0.5)[alike]
        clips = np.where(mirrored[:, None, None, None, None], clips[:, :, :, ::-1], clips)
        images = np.where(mirrored[:, None, None, None], samples.images[rows][:, :, ::-1], samples.images[rows])
        x = moved(labels[rows], samples.groups[rows], rng) if config.clips else labels[rows]
        batch = {"clips": clips, "images": images, "labels": x} | {name: values[rows] for name, values in targets.items()}
        yield distribute(batch, batch_sharding(on))


def evaluated(config: TrainConfig, predictor: Predictor, samples: Samples, labels: scorer.Labels | None) -> dict:
    """The figures of the held-out videos."""
    rows = label_rows(labels, samples) if labels else None
    scores = {"scorer": evaluate.predict(predictor, samples, rows), **evaluate.baselines(samples)}
    return evaluate.by_kind(scores, samples) if config.clips else evaluate.against_labels(scores, samples)


def train(config: TrainConfig) -> None:
    """Trains, evaluates on the held-out videos, and writes OUT/scorer.safetensors and .json."""
    mesh.start(config, alone="a scorer is trained")
    on, out = mesh.build(config.mesh), epath.Path(config.out)
    if config.chosen_loss is Loss.PAIRS and not config.clips:
        raise ValueError("--loss pairs wants ranks that are known: give --clips")
    refuse_undivided("--batch", config.batch, on)
    settings, known = settings_of(config), licences(config.manifest)
    refuse_other(out, settings)
    for path in (config.judge, *config.start):  # before --clips are measured
        if path:
            existing(path)
    with DecodePool(config.workers, seconds=1800, bytes=2**32) as pool:
        fit, judge = samples_of(config, pool, lambda line: print(line, flush=True))
    told = {"trained on": fit, "judged on": judge}.items()  # what is held out goes by all that there is: with a video more, one that was trained on could be
    settings |= {name: f"{len(part)} samples of {len(set(part.sources))} videos, sha256 {part.fingerprint[:16]}" for name, part in told}
    refuse_other(out, settings)
    labels = scorer.Labels.of(*without_bits(fit))
    chosen = config.network.config(len(labels.names))
    labels = labels if isinstance(chosen.network, SuitabilityConfig) else None
    chosen = dataclasses.replace(chosen, labels=labels, column="vtss" if config.labels else "quality")
    tx, flops = optimizer(config), train_flops(chosen)

    def make() -> nnx.Module:
        return started(chosen.network.build(rngs=Rngs(config.seed)), config.start)

    with jax.set_mesh(on), contextlib.ExitStack() as opened:
        abstract = jax.eval_shape(lambda: init(make, tx))  # which refuses what --start cannot be, before anything is written
        write_json(out / "config.json", settings)
        checkpoints = Checkpoints(out / "checkpoints", keep=1)
        start = checkpoints.latest or 0
        if start:
            state, _ = checkpoints.restore(abstract, on)
        else:
            state = create(make, tx, on)
            if config.clips and labels and config.label_steps:
                first = train_labels(state.model, fit, label_rows(labels, fit), config.label_steps, config.seed)
                state = state.replace(model=first, ema=jax.tree.map(jnp.copy, first))
        report = opened.enter_context(Report(out, config.report, start=start, steps=config.steps, batch=config.batch, flops=lambda metrics: flops))
        report.say(f"{count(state.model) / 1e6:.2f}M parameters, {counted(len(fit), 'sample')} of {counted(len(set(fit.sources)), 'video')}, {len(judge)} held out")
        step = compile_step(make_step(loss_fn(config), tx, seed=config.seed, ema_decay=config.ema), state)
        state, done = loop.run(
            step, state, global_batches(config, fit, label_rows(labels, fit), on, start), start=start, steps=config.steps,
            batch=config.batch, checkpoints=checkpoints, checkpoint_every=config.checkpoint_every, report=report,
        )  # fmt: skip
        checkpoints.close()
        if done < config.steps:
            return
        predictor = Predictor(state.ema, on, per_device=8)
        figures = evaluated(config, predictor, judge, labels)
        if config.labels:
            train_scores = evaluate.predict(predictor, fit, label_rows(labels, fit) if labels else None)
            chosen = dataclasses.replace(chosen, scale=Scale.of(train_scores, fit.targets))
        report.say(evaluate.table(figures, "SRCC within a clip across levels" if config.clips else "held-out videos"))
        weights = out / "scorer.safetensors"
        scorer.save(weights, chosen, jax.tree.map(lambda x: x.astype(jnp.float16), state.ema) if config.half else state.ema)
        write_json(out / "evaluation.json", nulled(figures))
        if config.clips:
            write_json(out / "scorer.card.json", card(config, settings, known, set(fit.sources), set(judge.sources), nulled(figures)))
        report.console.save(config.json, nulled(figures))
        report.say(f"wrote {weights}; next: {cli.command('koala_jax.score', 'CLIPS', '--out', 'scores.parquet', '--weights', weights)}")


def main(args: list[str]) -> None:
    train(cli.parse(TrainConfig, args, "koala_jax.tsa.train"))


if __name__ == "__main__":
    cli.run(main)
