"""`python -m videodit_jax.train`: trains a Video DiT by flow matching, on a laptop or, by the same command, on a TPU pod."""
import contextlib
import dataclasses
import functools
import sys

import jax
import numpy as np
from etils import epath

from core_jax import cli, loop, mesh
from core_jax.checkpoint import Checkpoints, newest, refuse_pattern
from core_jax.files import refuse_unwritable, whole
from core_jax.lora import combine
from core_jax.report import Report, ended
from core_jax.sharding import shardings
from core_jax.state import TrainState, begin, compile_step, create
from core_jax.weights import count, digest
from core_jax.words import counted
from videodit_jax import control, lora, shown, step
from videodit_jax.autoencoder import SIZES
from videodit_jax.autoencoder.codec import Codec
from videodit_jax.conditioning import SCORES, ScoreStatistics
from videodit_jax.config import LoRAConfig, TrainConfig
from videodit_jax.data import buckets, encoder, open_sources
from videodit_jax.data.loader import global_batches
from videodit_jax.evaluate import loss
from videodit_jax.media import contact_sheet, write_samples
from videodit_jax.model import forward_flops
from videodit_jax.presets import preset
from videodit_jax.reading import by_name, warn_out_of_range
from videodit_jax.run import PRETRAINED, Run, abstract_parts, abstract_state, initial, make_model, named_by, parts, to_sample
from videodit_jax.sampler import Sampler
from videodit_jax.umt5 import XXL

TUNED = "runs/tuned"
"""where a run goes that starts from another one's weights"""


def preset_of(args: list[str]) -> TrainConfig:
    """The preset that a command line names, for the data that it names; or, where it names none, the settings of the run that it starts from,
    and once it has begun its own: that one may train on, or go. That LoRA trained there binds nobody here, nor do the prompts of its samples."""
    name, init = cli.given(args, "--preset", ""), cli.given(args, "--init", "")
    if init and not name and (folder := named_by(init)).suffix != ".safetensors":
        begun = epath.Path(cli.given(args, "--out", TUNED))
        if (begun / "config.json").exists():
            return dataclasses.replace(Run.read(begun).config, out=TUNED, extend=False)
        return dataclasses.replace(Run.read(folder).config, out=TUNED, extend=False, lora=LoRAConfig(), sample_prompts=None)
    return preset(name or "tiny", *(cli.given(args, flag, "") or None for flag in ("--data", "--autoencoder", "--text-encoder")))


def parse(args: list[str]) -> TrainConfig:
    """The preset's settings, changed by flags."""
    config = cli.parse(TrainConfig, args, "videodit_jax.train", default=preset_of(args))
    kept = {}  # by the run's folder, for commands in any folder
    if config.init and named_by(config.init) != PRETRAINED:
        kept["init"] = str(whole(config.init))
    if config.autoencoder and config.autoencoder not in SIZES:
        kept["autoencoder"] = str(whole(config.autoencoder))
    if config.text_encoder and config.text_encoder != XXL:
        kept["text_encoder"] = str(whole(config.text_encoder))
    if config.sample_prompts:
        kept["sample_prompts"] = str(whole(config.sample_prompts))
    if config.lora.start:
        kept["lora"] = dataclasses.replace(config.lora, start=str(whole(config.lora.start)))
    return dataclasses.replace(config, **kept)


def train(config: TrainConfig) -> TrainState:
    """Trains, or goes on from the last checkpoint in `config.out`."""
    mesh.start(config, saves=True)
    on = mesh.build(config.mesh)
    step.refuse_misfit(config, on)
    out, tuned = epath.Path(config.out), config.lora.rank > 0
    if tuned and not config.init:
        raise ValueError(f"--lora.rank {config.lora.rank} goes with --init: the weights beside which it learns")
    refuse_pattern(out)
    refuse_unwritable("--out", out / "config.json")
    begun = Run.begun(out, config)  # what no data can mend is said before that is looked at, which can take hours
    over = newest(out) == config.steps and ended(out, config.steps)
    prompted = shown.of_prompts(config, on) if config.sample_prompts and not over else None  # a text encoder has left before the model comes
    new = not newest(out)
    starts = lora.started(config, jax.eval_shape(lambda: make_model(config)), abstract_parts(config)[0]) if new and config.lora.start else None
    first = initial(config, on) if config.init and (tuned or new) else None
    codec = Codec(config.autoencoder, on, config.dtype.jax) if config.autoencoder and config.draws else None
    source, held_out = open_sources(config, out / "config.json")
    known = {} if begun else source.scores()
    statistics = begun.statistics if begun else ScoreStatistics.of({name: known.get(name, np.array([])) for name in config.model.scores})
    if none := [name for name in statistics.unknown if name not in SCORES]:
        raise ValueError(f"--model.scores {none[0]}: no clip of --data {config.data} has such a score")
    run = Run(config, statistics, source.fingerprint, getattr(source, "unused", ()), digest(first) if tuned else "")
    run.resume(out)
    checkpoints = Checkpoints(out / "checkpoints", config.keep, config.keep_every)
    with jax.set_mesh(on), contextlib.ExitStack() as opened:
        start, rest = checkpoints.latest or 0, None
        if tuned:
            first, rest = jax.jit(functools.partial(parts, config), out_shardings=shardings(abstract_parts(config), on))(first)
            first = starts(first) if starts else first
        if start:
            state, position = checkpoints.restore(abstract_state(config), on)
        else:
            tx, position = config.optimizer.build(config.steps), 0
            state = begin(first, tx, on) if config.init else create(lambda: make_model(config), tx, on)
        del first
        if over:
            checkpoints.close()
            if jax.process_index() == 0:
                print(f"{out} has made all its {counted(start, 'step')}; next: {to_sample(out, config)}")
            return state
        shaped = [config.at(shape) for shape in config.shapes]
        flops = [forward_flops(config.model, one.clip, tuned).train for one in shaped]
        learn, size = (count(tree) / 1e6 for tree in (state.model, combine(state.model, rest)))
        of_step = lambda metrics: flops[int(metrics.get("bucket", 0))]
        report = opened.enter_context(Report(out, config.report, start=start, steps=config.steps, batch=config.batch, flops=of_step))
        report.say(
            f"{config.preset}: {f'{learn:.3g}M of {size:.2f}M parameters learn' if tuned else f'{size:.2f}M parameters'}, "
            f"{config.tokens} tokens a clip, "
            f"{config.dtype.resolve().value}, {counted(jax.device_count(), f'{jax.devices()[0].device_kind} device')}; "
            f"{counted(len(source), 'clip')} to train on, {len(held_out):,} held out" + (f"; resuming at step {start}" if start else "")
        )
        if config.buckets:
            report.say(buckets.table(config.shapes, [one.tokens for one in shaped], source, held_out))
        if config.flow.expert:
            report.say("an expert of the times {:g} to {:g}: no samples are drawn of it alone".format(*config.flow.between))
        if unknown := run.statistics.unknown:
            report.say(f"unknown for every clip, and so nothing that samples could steer by: {', '.join(unknown)}")
        averaged = lambda state: combine(state.ema, rest)
        train_on, hold_out = (buckets.parts(split, config.video) for split in (source, held_out))
        shares = loss.shared(config, held_out)
        evaluations = {shape: loss.Evaluation(one, hold_out[shape], run.statistics, on) for shape, one in shares.items()}
        drawn = prompted or shown.of_clips(config, hold_out.get(config.video) or train_on[config.video])
        warn_out_of_range(run.statistics, by_name(prompted.scores if prompted else ()))
        sampler = Sampler(config, run.statistics, on, batch=min(len(drawn.texts), shown.CLIPS))

        def held_out_loss(number: int, state: TrainState) -> dict[buckets.Shape, np.ndarray]:
            report.doing("held-out loss")
            model = averaged(state)
            losses = {shape: evaluation(model) for shape, evaluation in evaluations.items()}
            whole = loss.mean(losses, evaluations)
            own = {f"loss of {buckets.named(shape)}": one.mean() for shape, one in losses.items()} if config.buckets else {}
            report.evaluation(number, {"loss": whole.mean()} | {f"loss at t={t}": value for t, value in zip(loss.times_of(config), whole)} | own)
            return losses

        def draw(number: int, state: TrainState) -> None:
            report.doing("sampling")
            videos = sampler(averaged(state), drawn.texts, drawn.scores, drawn.seeds, first=drawn.first)
            videos = codec.decode(videos) if codec else videos
            if jax.process_index() == 0:
                paths = write_samples(out / "samples" / f"step_{number:06d}", videos, drawn.labels, fps=config.fps or 8)
                report.picture(number, "samples", contact_sheet(videos, drawn.labels))
                report.say(f"step {number}: wrote {paths[0]}, .mp4 and .png")

        encode, threads = encoder(config, run.statistics), max(config.workers, 2)
        batches = global_batches(source, encode, on, seed=config.seed, batch=config.batch, start=position, threads=threads)
        update, places, compiled = compile_step(step.make(config), state), {one.clip: k for k, one in enumerate(shaped)}, set()

        def advance(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
            """One step, compiled once for each shape of clips; of several it says which this was, by its place among them."""
            bucket = places[batch["video"].shape[1:4]] if config.buckets else 0
            if bucket not in compiled and compiled:  # what that takes is not the time of a step
                report.pause()
            compiled.add(bucket)
            state, metrics = update(state, batch, rest)
            return state, metrics | ({"bucket": bucket} if config.buckets else {})

        state, done = loop.run(
            advance, state, batches,
            start=start, steps=config.steps, batch=config.batch,
            checkpoints=checkpoints, checkpoint_every=config.checkpoint_every, report=report,
            hooks=(loop.Hook(config.eval_every, held_out_loss), *[loop.Hook(config.sample_every, draw)] * config.draws),
            max_skipped=config.optimizer.max_skipped,
        )
        checkpoints.close()
        if done < config.steps:
            if config.stopped_status:
                sys.exit(config.stopped_status)
            return state
        losses = held_out_loss(done, state)
        loop.refuse_diverged(done, loss.mean(losses, evaluations).mean())
        if report.on:
            for shape, one in shares.items():
                clips = counted(evaluations[shape].clips, "held-out clip") + f" of {buckets.named(shape)}" * bool(config.buckets)
                simple = loss.baselines(one, *(loss.some_clips(one, split[shape]) for split in (train_on, hold_out))) if shape in train_on else {}
                report.say(loss.table({"model": losses[shape]} | simple, clips, loss.times_of(config)))
        if config.draws:
            draw(done, state)
        if config.draws and config.data == "shapes" and "motion" in config.model.scores:
            report.doing("measuring control")
            figures, videos = control.measure(Sampler(config, run.statistics, on), averaged(state))
            if report.on:
                control.report(figures, videos, out, report.console)
        report.write({"step": done, "state_digest": digest(state)})
        report.say(f"wrote {out}; next: {to_sample(out, config)}")
    return state


def main(args: list[str]) -> None:
    train(parse(args))


if __name__ == "__main__":
    cli.run(main)
