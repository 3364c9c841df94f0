"""`python -m videodit_jax.plan`: compiles the step that `train` or `sample` runs for a TPU slice, on a machine without one.

Does it fit, what lies in memory, what is sent along which mesh axis, the floors in time and which of them binds, and an estimate of
the step. All of it comes from the compiler and from data sheets; nothing is measured.
"""
import dataclasses
import functools
import sys
from typing import Annotated, Any

import jax
import tyro

from core_jax import cli, mesh
from core_jax.pod import topology
from core_jax.pod.plan import MISFIT, Plan, Work, plan as plan_work, show
from core_jax.sharding import RULES, Rules
from core_jax.state import compile_step
from core_jax.words import counted
from videodit_jax import sampler, search, step, train
from videodit_jax.config import Dtype, TrainConfig, named
from videodit_jax.data.loader import rows_of
from videodit_jax.model import forward_flops
from videodit_jax.presets import SLICES
from videodit_jax.run import abstract_state, to_sample
from videodit_jax.search import Of, divides, planned

APART = "encoding the captions before, and decoding the latents after, each without the model in memory"


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Compile a step for a TPU slice; all other flags are those of `python -m videodit_jax.train`."""

    train: Annotated[TrainConfig, tyro.conf.arg(name="")]
    topology: str
    """the slice: v5p:4x4x4, or v5p-128 as Cloud TPU counts, or several such as 2*v5e:16x16; by default the one that the preset is meant for"""
    of: Of = Of.TRAIN
    """what is planned: a step of training, or the sampling of --batch clips at once"""
    search: bool = False
    """try meshes, and for training remat policies and microbatches; return the fastest by the estimate"""
    json: str | None = None
    """also write the figures here"""


def parse(args: list[str]) -> PlanConfig:
    """The preset's settings, changed by flags."""
    preset = train.preset_of(args)
    return cli.parse(PlanConfig, args, "videodit_jax.plan", default=PlanConfig(preset, SLICES[preset.preset]))


def on_tpu(config: TrainConfig) -> TrainConfig:
    """The config as a TPU runs it: `auto` precision is bf16 there."""
    return dataclasses.replace(config, dtype=Dtype.BFLOAT16) if config.dtype is Dtype.AUTO else config


def plan(config: TrainConfig, which: topology.Slice, of: Of = Of.TRAIN, rules: Rules = RULES) -> Plan:
    """Compiles one config for a slice.

    Args:
      rules: where the model lies, and training's state; batch and activations lie by `RULES` always.

    Raises:
      ValueError: the mesh does not fit the slice, or does not divide the batch, the tokens or the heads.
    """
    config = on_tpu(config)
    devices = which.devices()
    try:
        on = mesh.build(config.mesh, devices)
        step.refuse_misfit(config, on)
    except ValueError as error:
        raise ValueError(f"{error}; --search looks for a mesh that does") from error
    config = planned(config, of)
    flops = forward_flops(config.model, config.clip, frozen=of is Of.TRAIN and config.lora.rank > 0)
    with jax.set_mesh(on):
        if of is Of.TRAIN:
            state, batch, rest = step.inputs(config, on, rules)
            lowered = compile_step(step.make(config), state).lower(state, batch, rest)
            held = {"parameters": (state.model, rest), "optimizer": state.opt_state, "ema": state.ema}
            counts = {"total": flops.train, "attention": 3 * flops.attention, "executed": flops.executed(config.model.remat)}
        else:
            lowered, model = sampler.lower(config, on, rules)
            held, times = {"parameters": model}, config.sampling.evaluations
            counts = {"total": times * flops.forward, "attention": times * flops.attention, "executed": times * flops.forward}
        makes = {Of.TRAIN: "step", Of.SAMPLE: "batch"}[of]
        apart = (APART,) if of is Of.SAMPLE and config.autoencoder else ()
        work = Work(lowered, held, {name: config.batch * count for name, count in counts.items()}, apart=apart, makes=makes)
        return plan_work(work, which, on)


def json_of(config: TrainConfig, of: Of, found: Plan) -> dict[str, Any]:
    """The figures under the names that others rely on."""
    config = planned(config, of)
    return {
        "preset": config.preset, "of": of.value, "remat": config.model.remat.value, "microbatches": config.optimizer.accumulate, "batch": config.batch,
        "video": list(config.video), "tokens": config.tokens,
    } | (of_run(config, found) if of is Of.TRAIN else {}) | found.json()  # fmt: skip


def of_run(config: TrainConfig, found: Plan) -> dict[str, Any]:
    """What the whole training takes; its hours, where it fits, by the estimate and without held-out losses, samples and checkpoints."""
    figures = {"checkpoint_bytes": checkpoint_bytes(config), "clips_a_host": clips_a_host(config, found)}
    return figures if found.misfit else figures | {"steps": config.steps, "run_hours": config.steps * found.estimate.step / 3600}


def checkpoint_bytes(config: TrainConfig) -> int:
    """Of the whole state, whatever the mesh."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract_state(config)))


def clips_a_host(config: TrainConfig, found: Plan) -> int:
    """How many clips of a batch a host reads, at most."""
    devices = found.which.devices()
    on = mesh.build(config.mesh, devices)
    return max(len(rows_of(on, config.batch, host)) for host in {device.process_index for device in devices})


def title(config: TrainConfig, of: Of) -> str:
    one = planned(config, of)
    shape = f" of {named(one.video)}, the most of {len(config.shapes)} buckets" if config.buckets and of is Of.TRAIN else ""
    own, learn = config.sampling, f"LoRA of rank {config.lora.rank}, " if config.lora.rank else ""
    how = {
        Of.TRAIN: f"{learn}remat {config.model.remat.value}, {config.optimizer.accumulate} {'microbatch' if config.optimizer.accumulate == 1 else 'microbatches'}",
        Of.SAMPLE: f"sampled in {own.steps} steps by {own.evaluations} evaluations",
    }[of]
    return f"{config.preset}, batch {config.batch}, {one.tokens:,} tokens a clip{shape}, {how}, {config.dtype.value},"


def main(args: list[str]) -> None:
    cli.on_cpu()
    asked = parse(args)
    config, which, console = on_tpu(asked.train), topology.parse(asked.topology), cli.console()
    tried = []
    if asked.search or not (any(word.startswith("--mesh.") for word in args) or divides(config, which)):
        tried = search.search(config, which, asked.of, functools.partial(plan, of=asked.of), console.print)
        console.print(search.table(tried))
        config, found = search.best(tried)
    else:
        console.print(f"compiling {config.preset} for {which}")
        found = plan(config, which, asked.of)
    show(found, title(config, asked.of), console)
    if asked.of is Of.TRAIN:
        run, held = of_run(config, found), config.keep + 1  # the new checkpoint is whole before the oldest goes
        size, clips = run["checkpoint_bytes"] / 1e9, run["clips_a_host"]
        if not found.misfit:
            hours = f"{run['run_hours']:,.3g} hours, {run['run_hours'] * which.chips:,.4g} chip-hours by the estimate"
            most = "at most " * bool(config.buckets)
            console.print(f"all {counted(config.steps, 'step')}: {most}{hours}; held-out losses, samples and checkpoints come on top")
            chips = which.chips // len({device.process_index for device in which.devices()})
            a_second = f"{clips / found.estimate.step:,.3g} a second by the estimate; what a core reads: docs/tpu.md, Is the data fast enough?"
            console.print(f"a host of {counted(chips, 'chip')} reads {counted(clips, 'clip')} a step, {a_second}")
        besides = f", and one more for every {config.keep_every} steps" if config.keep_every else ""
        console.print(f"a checkpoint takes up to {size:.3g} GB; --out holds up to {held} of them, {held * size:.3g} GB, by --keep {config.keep}{besides}")
    others = {"tried": [json_of(one, asked.of, its) for one, its in tried]} if tried else {}
    console.save(asked.json, json_of(config, asked.of, found) | others)
    if found.misfit:
        hint = "a larger slice, a smaller --batch or fewer --frames" if tried else cli.command("videodit_jax.plan", *args, "--search")
        following = f"next: {hint}"
    elif asked.of is Of.SAMPLE:
        shape = [word for axis, size in found.mesh.items() for word in (f"--mesh.{axis}", size)]
        following = f"next, on the slice: {to_sample('RUN', config, '--n', config.batch, *shape)}"
    else:
        beside = ("--init", "DIR") * (config.lora.rank > 0 and not config.init)
        following = f"next, on the slice: {cli.command('videodit_jax.train', *of_train(args), *beside, *search.flags(config, found))}"
    console.print(following)
    if found.misfit:
        sys.exit(MISFIT)


def of_train(args: list[str]) -> list[str]:
    """The flags that train knows too, without those that a plan settles."""
    settled = ("--topology", "--of", "--json", "--search", "--no-search", *search.SETTLED)
    kept, ours = [], False
    for word in args:
        if word.startswith("--"):
            ours = word.split("=")[0] in settled
        if not ours:
            kept.append(word)
    return kept


if __name__ == "__main__":
    cli.run(main)
