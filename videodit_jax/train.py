"""`python -m videodit_jax.train`: trains a Video DiT by flow matching, on a laptop or, by the same command, on a TPU pod."""
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator

import jax
from etils import epath
from jax.sharding import Mesh
from rich.console import RenderableType

from core_jax import cli, loop, mesh
from core_jax.checkpoint import Checkpoints, newest, refuse_place
from core_jax.files import whole
from core_jax.lora import combine
from core_jax.report import Report, ended
from core_jax.sharding import shardings
from core_jax.state import TrainState, begin, compile_step, create
from core_jax.weights import count, digest
from core_jax.words import counted
from videodit_jax import control, lora, shown, step
from videodit_jax.autoencoder import SIZES
from videodit_jax.autoencoder.codec import Codec
from videodit_jax.config import LoRAConfig, TrainConfig
from videodit_jax.data import Source, buckets, encoder, open_sources, statistics_of
from videodit_jax.data.loader import global_batches
from videodit_jax.evaluate import loss
from videodit_jax.media import contact_sheet, write_samples
from videodit_jax.model import VideoDiT
from videodit_jax.picture import VIT_H
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
    return preset(name or "tiny", *(cli.given(args, flag, "") or None for flag in ("--data", "--autoencoder", "--text-encoder", "--image-encoder")))


def parse(args: list[str]) -> TrainConfig:
    """The preset's settings, changed by flags; paths as the run's folder keeps them, for commands in any folder."""
    config = cli.parse(TrainConfig, args, "videodit_jax.train", default=preset_of(args))
    no_paths = {"init": ("pretrained", str(PRETRAINED)), "autoencoder": SIZES, "text_encoder": (XXL,), "image_encoder": (VIT_H,), "sample_prompts": ()}
    kept = {name: str(whole(path)) for name, words in no_paths.items() if (path := getattr(config, name)) and path not in words}
    if config.lora.start:
        kept["lora"] = dataclasses.replace(config.lora, start=str(whole(config.lora.start)))
    return dataclasses.replace(config, **kept)


def earlier_part(config: TrainConfig, on: Mesh) -> Run | None:
    """Of the run, if it has begun. Raises ValueError: what no data can mend, said before any is opened, which can take hours."""
    step.refuse_misfit(config, on)
    if config.lora.rank and not config.init:
        raise ValueError(f"--lora.rank {config.lora.rank} goes with --init: the weights beside which it learns")
    out = epath.Path(config.out)
    refuse_place(out)
    return Run.begun(out, config)


def introduction(run: Run, state: TrainState, rest: VideoDiT | None, source: Source, held_out: Source, start: int) -> Iterator[RenderableType]:
    """What is said of a run before its first step, or its first since it was stopped."""
    config = run.config
    learn, size = (count(tree) / 1e6 for tree in (state.model, combine(state.model, rest)))
    yield (
        f"{config.preset}: {f'{learn:.3g}M of {size:.2f}M parameters learn' if config.lora.rank else f'{size:.2f}M parameters'}, "
        f"{config.tokens} tokens a clip, "
        f"{config.dtype.resolve().value}, {counted(jax.device_count(), f'{jax.devices()[0].device_kind} device')}; "
        f"{counted(len(source), 'clip')} to train on, {len(held_out):,} held out" + (f"; resuming at step {start}" if start else "")
    )
    if config.buckets:
        yield buckets.table(config.shapes, [config.at(shape).tokens for shape in config.shapes], source, held_out)
    if config.flow.expert:
        yield "an expert of the times {:g} to {:g}: no samples are drawn of it alone".format(*config.flow.between)
    if unknown := run.statistics.unknown:
        yield f"unknown for every clip, and so nothing that samples could steer by: {', '.join(unknown)}"


def train(config: TrainConfig) -> TrainState:
    """Trains, or goes on from the last checkpoint in `config.out`."""
    mesh.start(config, saves=True)
    on, out, tuned = mesh.build(config.mesh), epath.Path(config.out), config.lora.rank > 0
    earlier = earlier_part(config, on)
    over = newest(out) == config.steps and ended(out, config.steps)
    prompted = shown.of_prompts(config, on) if config.sample_prompts and not over else None  # a text encoder has left before the model comes
    new = not newest(out)
    starts = lora.started(config) if new and config.lora.start else None
    first = initial(config, on) if config.init and (tuned or new) else None
    codec = Codec(config.autoencoder, on, config.dtype.jax) if config.autoencoder and config.draws else None
    source, held_out = open_sources(config, out / "config.json")
    statistics = earlier.statistics if earlier else statistics_of(config, source)
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
        report = opened.enter_context(Report(out, config.report, start=start, steps=config.steps, batch=config.batch, flops=step.flops(config)))
        for line in introduction(run, state, rest, source, held_out, start):
            report.say(line)
        averaged = lambda state: combine(state.ema, rest)
        evaluations = loss.Evaluations(config, source, held_out, run.statistics, on)
        drawn = prompted or shown.of_clips(config, next(split[config.video] for split in (evaluations.held_out, evaluations.train) if config.video in split))
        warn_out_of_range(run.statistics, by_name(prompted.scores if prompted else ()))
        sampler = Sampler(config, run.statistics, on, batch=min(len(drawn.texts), shown.CLIPS))

        def held_out_loss(number: int, state: TrainState) -> loss.Losses:
            report.doing("held-out loss")
            losses = evaluations(averaged(state))
            report.evaluation(number, evaluations.figures(losses))
            return losses

        def draw(number: int, state: TrainState) -> None:
            report.doing("sampling")
            videos = sampler(averaged(state), drawn.texts, drawn.scores, drawn.seeds, first=drawn.first, picture=drawn.picture)
            videos = codec.decode(videos) if codec else videos
            if jax.process_index() == 0:
                paths = write_samples(out / "samples" / f"step_{number:06d}", videos, drawn.labels, fps=config.fps or 8)
                report.picture(number, "samples", contact_sheet(videos, drawn.labels))
                report.say(f"step {number}: wrote {paths[0]}, .mp4 and .png")

        encode, threads = encoder(config, run.statistics), max(config.workers, 2)
        batches = global_batches(source, encode, on, seed=config.seed, batch=config.batch, start=position, threads=threads)
        state, done = loop.run(
            step.of_shapes(config, compile_step(step.make(config), state), rest, report.pause), state, batches,
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
        loop.refuse_diverged(done, evaluations.mean(losses).mean())
        if report.on:
            for table in evaluations.tables(losses):
                report.say(table)
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
