"""`python -m owl_jax.train --stage align|film|world`: one trainer; the stage is data."""
import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tyro
from etils import epath

from core_jax import cli, loop, mesh
from core_jax.checkpoint import Checkpoints, newest, refuse_place
from core_jax.compiler import jit
from core_jax.files import existing, whole
from core_jax.lmm.model import Inputs
from core_jax.report import Report, ended
from core_jax.settings import flat, to_json
from core_jax.sharding import refuse_undivided
from core_jax.state import TrainState, begin, compile_step
from core_jax.weights import count, digest
from core_jax.words import counted
from owl_jax import run, step
from owl_jax.config import Caption
from owl_jax.films import Film, open_films
from owl_jax.sequence import Batch, Kind, Pieces, collate, longest, unroll
from owl_jax.stages import PRESETS, Stage, TrainConfig
from videodit_jax import train as film_train
from videodit_jax.data.loader import global_batches, global_epoch
from videodit_jax.evaluate.loss import NOISE
from videodit_jax.presets import preset as film_preset
from videodit_jax.run import Run


def parse(args: list[str]) -> TrainConfig:
    """The preset's settings of the stage, changed by flags.

    Raises:
      ValueError: no stage is named, or none of this name.
    """
    stages, helps = {stage.value: stage for stage in Stage}, {"-h", "--help"} & set(args)
    stage, preset = cli.given(args, "--stage", "align" if helps else ""), cli.given(args, "--preset", "stories")
    if stage not in stages or preset not in PRESETS:
        raise ValueError(f"--stage {stage or 'missing'}, --preset {preset}: the stages are {', '.join(stages)}, the presets {', '.join(PRESETS)}")
    config = cli.parse(TrainConfig, args, "owl_jax.train", default=dataclasses.replace(PRESETS[preset](stages[stage]), stage=tyro.MISSING))
    film, lmm = (path and str(whole(path)) for path in (config.film, config.lmm))  # the run's folder keeps them, for commands in any folder
    return dataclasses.replace(config, film=film, lmm=lmm)


def encoder(config: TrainConfig, pieces: Pieces, film: Run) -> Callable[[Film], dict[str, Any]]:
    """What turns a film into arrays of fixed shapes."""
    kind = Kind.DYNAMICS if config.stage is Stage.WORLD else Kind.TEXT
    tokenize, names = film.config.model.text.tokenize, film.config.model.scores

    def encode(example: Film) -> dict[str, Any]:
        whole = unroll(pieces, example.image, example.text, example.clips, example.said, kind)
        behind = kind is Kind.DYNAMICS and config.owl.caption is Caption.THIS
        inputs, states, learned = collate(pieces, [whole], longest(pieces, example.clips[0], len(example.clips), behind))
        known = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(Inputs)}
        motion = [{"motion": float(m)} if "motion" in names else {} for m in example.motion]
        return {
            "inputs": {name: x[0] for name, x in known.items() if x is not None}, "states": states[0], "learned": learned[0],
            "video": example.clips, "joined": example.joined, "scores": np.stack([film.statistics.vector(m) for m in motion]),
            "caption": jax.tree.map(lambda *x: np.stack(x), *map(tokenize, example.captions)),
        }  # fmt: skip

    return encode


def batch_of(arrays: dict[str, Any]) -> Batch:
    """What a loader gives, named."""
    return Batch(**arrays | {"inputs": Inputs(**arrays["inputs"])})


def refuse(config: TrainConfig, pieces: Pieces, length: int) -> None:
    """Raises ValueError for settings that this language model cannot take.

    Args:
      length: tokens of a film.
    """
    most = pieces.lmm.decoder.context
    if length > most:
        raise ValueError(
            f"--clips {config.clips}: a film of so many takes {length} tokens, and the language model's context is {most}: lower --clips, "
            "--owl.words, --owl.queries or --owl.key-frames"
        )
    if pieces.encode is not None and (config.history_noise or config.own_history):
        raise ValueError(
            f"--history-noise {config.history_noise:g} --own-history {config.own_history:g}: both change pixels, and this language model reads "
            "codes; leave them at 0"
        )


def following(config: TrainConfig) -> str:
    """The command that goes on from this stage: the next one, with the settings in which it must agree."""
    stages = list(Stage)
    after = stages[stages.index(config.stage) + 1 :]
    if not after:
        return f"owl_jax.generate {shlex.join(['--run', config.out])}"
    preset = PRESETS[config.preset](after[0])
    names = (*run.SHARED, "data") if after[0] is Stage.FILM else run.SHARED
    mine, default = (flat({name: to_json(getattr(one, name)) for name in names}) for one in (config, preset))
    words = ["--stage", after[0].value, "--preset", config.preset]
    for name, value in mine.items():
        if value != default[name]:
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    if after[0] is Stage.WORLD and config.data != "stories":
        words += ["--data", "VRIPT_OR_ACTIVITYNET"]
    return f"owl_jax.train {shlex.join([*words, '--out', config.out])}"


def film_model(config: TrainConfig) -> bool:
    """Trains the small film model where none is given, or goes on with it; False if it was stopped before its end."""
    shared = {name: getattr(config, name) for name in ("seed", "mesh", "report", "stopped_status")}
    own = dataclasses.replace(film_preset("stories"), out=str(run.film_folder(config)), **shared)
    return newest(own.out) >= own.steps or int(film_train.train(own).step) == own.steps  # what a host has listed of a store may be old by then


def train(config: TrainConfig) -> None:
    """Trains a stage, or goes on from its last checkpoint."""
    mesh.start(config, saves=True)
    on, out = mesh.build(config.mesh), epath.Path(config.out) / config.stage.value
    refuse_place(out)
    refuse_undivided("--batch", config.batch, on)
    before = run.ended(config.out, config.stage.before) if config.stage.before else None
    run.begun(config)  # what no data can mend is said before that is looked at, which can take hours
    if before is None:
        for path in (config.lmm, None if config.data == "stories" else config.data):  # before a film model is trained
            if path:
                existing(path)
        if config.film is None:
            open_films(config, film_preset("stories"))
            if not film_model(config):
                return
    with jax.set_mesh(on), contextlib.ExitStack() as opened:
        owl, pieces, film = run.build(config, on)
        films, held_out = open_films(config, film.config)
        encode = encoder(config, pieces, film)
        one = batch_of(jax.tree.map(lambda x: x[None], encode(held_out[0])))
        length = one.inputs.tokens.size
        refuse(config, pieces, length)
        run.resume(config, films.fingerprint, getattr(films, "unused", ()))
        if newest(out) == config.steps and ended(out, config.steps):
            if jax.process_index() == 0:
                print(f"{out} has made all its {counted(config.steps, 'step')}; next: python -m {following(config)}")
            return
        if before is not None:
            owl = run.restored(before, owl, on)
        trained, rest = run.parts(config, owl)
        checkpoints = Checkpoints(out / "checkpoints", 2)
        start = checkpoints.latest or 0
        if start:
            state, position = checkpoints.restore(jax.eval_shape(lambda model: run.new_state(config, model), trained), on)
        else:
            state, position = begin(trained, run.optimizer(config), on), 0
        flops = step.flops(config, film.config, pieces.lmm, one)["total"] / config.batch
        report = opened.enter_context(Report(out, config.report, start=start, steps=config.steps, batch=config.batch, flops=lambda metrics: flops))
        report.say(
            f"{config.stage.value}: {count(trained) / 1e6:.2f}M of {count(owl) / 1e6:.2f}M parameters learn from {counted(len(films), 'film')} of "
            f"{counted(config.clips, 'clip')}, {length} tokens each" + (f"; resuming at step {start}" if start else "")
        )
        judge, keys = jit(step.on_parts(config, film.config)), jax.random.key(NOISE)
        fixed = global_epoch(held_out, encode, on, batch=config.batch, limit=config.eval_films, threads=max(config.workers, 2))

        def held_out_loss(number: int, state: TrainState) -> float:
            rows, weights = [], []
            for i, batch in enumerate(map(batch_of, fixed())):
                loss, more = judge(state.ema, batch, jax.random.fold_in(keys, i), rest)
                rows.append({"loss": float(loss)} | {name: float(x) for name, x in more.items()})
                weights.append(float(batch.weight.sum()))
            means = {name: np.average([row[name] for row in rows], weights=weights) for name in rows[0]}
            report.evaluation(number, means)
            return means["loss"]

        stream = global_batches(films, encode, on, seed=config.seed, batch=config.batch, start=position, threads=max(config.workers, 2))
        update = compile_step(step.make(config, film.config), state)
        state, done = loop.run(
            lambda state, batch: update(state, batch, rest), state, map(batch_of, stream), start=start,
            steps=config.steps, batch=config.batch, checkpoints=checkpoints, checkpoint_every=config.checkpoint_every, report=report,
            hooks=(loop.Hook(config.eval_every, held_out_loss),),
        )  # fmt: skip
        checkpoints.close()
        if done == config.steps:
            loop.refuse_diverged(done, held_out_loss(done, state))
            report.write({"step": done, "state_digest": digest(state)})
            report.say(f"wrote {out}; next: python -m {following(config)}")
        if done < config.steps and config.stopped_status:
            sys.exit(config.stopped_status)


def main(args: list[str]) -> None:
    train(parse(args))


if __name__ == "__main__":
    cli.run(main)
