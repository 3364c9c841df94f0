"""`python -m videodit_jax.plan`: compiles the step that `train` runs for a TPU slice that need not be there, and says what it takes.

Does it fit, what lies in memory, what is sent along which mesh axis, the floors in time and which of them binds, and an estimate of
the step. All of it comes from the compiler and from data sheets; nothing is measured.
"""
import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding
from rich.console import Console
from rich.table import Table

from core_jax import cli, mesh
from core_jax.chips import GIB
from core_jax.files import write_json
from core_jax.pod import compiled, hlo, topology
from core_jax.pod.collectives import Collective, alike, collectives
from core_jax.pod.estimate import Estimate, estimate, line, seconds
from core_jax.sharding import RULES, Rules
from core_jax.state import compile_step
from videodit_jax import search, step, train
from videodit_jax.config import Dtype, TrainConfig, to_json
from videodit_jax.model import forward_flops


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Compile train's step for a TPU slice; all other flags are those of `python -m videodit_jax.train`."""

    train: Annotated[TrainConfig, tyro.conf.arg(name="")]
    topology: str = tyro.MISSING
    """the slice: v5p:4x4x4, or v5p-128 as Cloud TPU counts, or several such as 2*v5e:16x16"""
    search: bool = False
    """try meshes, remat policies and microbatches; return the fastest by the estimate"""
    json: Path | None = None
    """also write the figures here"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiler makes of a config on a slice."""

    config: TrainConfig
    which: topology.Slice
    mesh: dict[str, int]
    seconds: float
    """that compiling took, or reading an earlier result"""
    misfit: compiled.Misfit | None = None
    hbm: dict[str, int] = dataclasses.field(default_factory=dict)
    """bytes of one device, by part"""
    collectives: tuple[tuple[Collective, float], ...] = ()
    """each with the seconds of all its calls"""
    estimate: Estimate | None = None

    @property
    def model_flops(self) -> dict[str, float]:
        flops = forward_flops(self.config.model, self.config.video)
        batch = self.config.batch
        return {"total": batch * flops.train, "attention": batch * 3 * flops.attention, "executed": batch * flops.executed(self.config.model.remat)}

    @property
    def mfu(self) -> float | None:
        peak = self.which.chip.peak * self.which.chips * self.which.chip.devices
        return self.model_flops["total"] / (self.estimate.step * peak) if self.estimate else None

    def json(self) -> dict[str, Any]:
        """The figures under the names that others rely on."""
        names = {
            "preset": self.config.preset, "topology": str(self.which), "devices": int(np.prod(list(self.mesh.values()))), "mesh": self.mesh,
            "remat": self.config.model.remat.value, "microbatches": self.config.optimizer.accumulate, "batch": self.config.batch,
            "video": list(self.config.video), "tokens": int(np.prod(self.config.model.grid(self.config.video))),
            "compile_seconds": self.seconds, "fits": self.misfit is None, "model_flops": self.model_flops,
        }  # fmt: skip
        if self.misfit:
            return names | {"needed_bytes": self.misfit.needed, "limit_bytes": self.misfit.available}
        rows = [{**to_json(one), "total_bytes": one.total_bytes, "seconds": took} for one, took in self.collectives]
        return names | {
            "hbm_bytes": self.hbm, "collectives": rows, "floor_seconds": self.estimate.floors, "binds": self.estimate.binds,
            "interconnect_seconds_by_axis": self.estimate.by_axis,
            "estimated_step_seconds": self.estimate.step, "estimated_mfu": self.mfu,
            "estimate": {
                "version": 1, "validated": VALIDATED, "fusions": self.estimate.fusions, "attention": self.estimate.attention,
                "exposed_collectives": self.estimate.exposed, "left_out": list(self.estimate.left_out),
            },
        }  # fmt: skip


def parse(args: list[str]) -> PlanConfig:
    """The preset's settings, changed by flags."""
    return cli.parse(PlanConfig, args, "videodit_jax.plan", default=PlanConfig(train.preset_of(args)))


def on_tpu(config: TrainConfig) -> TrainConfig:
    """The config as a TPU runs it: `auto` precision is bf16 there."""
    return dataclasses.replace(config, dtype=Dtype.BFLOAT16) if config.dtype is Dtype.AUTO else config


def plan(config: TrainConfig, which: topology.Slice, rules: Rules = RULES) -> Plan:
    """Compiles one config for a slice.

    Args:
      rules: where the state and the batch lie; activations lie by `RULES` always.

    Raises:
      ValueError: the mesh does not fit the slice, or does not divide the batch, the tokens or the heads.
    """
    config = on_tpu(config)
    started = time.monotonic()
    devices = which.devices()
    try:
        on = mesh.build(config.mesh, devices)
        step.refuse_misfit(config, on)
    except ValueError as error:
        raise ValueError(f"{error}; --search looks for a mesh that does") from error
    with jax.set_mesh(on):
        state, batch = step.inputs(config, on, rules)
        result = compiled.compile(compile_step(step.make(config), state).lower(state, batch), f"{which} {dict(on.shape)}")
    shape = dict(on.shape)
    if isinstance(result, compiled.Misfit):
        return Plan(config, which, shape, time.monotonic() - started, result)
    program = hlo.parse(result.text)
    activations, gradients = compiled.stacked(program)
    found = alike(collectives(program, on))
    moved = result.arguments + result.outputs + 2 * activations
    flops = config.batch * forward_flops(config.model, config.video).executed(config.model.remat)
    times = estimate(program, found, which, on, flops=flops, hbm_bytes=moved)
    hbm = parts(state, result, activations, gradients) | {"total": result.bytes, "limit": which.chip.hbm}
    rows = tuple((one, _seconds(one, which, on)) for one in found)
    return Plan(config, which, shape, time.monotonic() - started, None, hbm, rows, times)


def _seconds(one: Collective, which: topology.Slice, on: Mesh) -> float:
    return seconds(one, line(which, on, one.axes)) * one.times * one.count


def parts(state, result: compiled.Compiled, activations: int, gradients: int) -> dict[str, int]:
    """Bytes of one device's memory by what they are for; they add up to the program's."""

    def held(tree) -> int:
        return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree))

    parameters, optimizer, ema = held(state.model), held(state.opt_state), held(state.ema)
    return {
        "parameters": parameters,
        "optimizer": optimizer,
        "ema": ema,
        "batch and padding": result.arguments - parameters - optimizer - ema,
        "activations": activations,
        "gradients": gradients,
        "temporaries": result.temporaries - activations - gradients + result.outputs - result.aliased,
        "program": result.code,
    }


SHOWN = 12
"""rows of the table of collectives"""
VALIDATED = False
"""whether `python -m videodit_jax.published` finds the estimate within 25 % of every step that others measured"""


def show(found: Plan, console: Console) -> None:
    """The plan as tables."""
    config, which = found.config, found.which
    tokens = int(np.prod(config.model.grid(config.video)))
    shape = ", ".join(f"{axis} {size}" for axis, size in found.mesh.items() if size > 1) or "one device"
    console.print(
        f"[bold]{config.preset}[/] on [bold]{which}[/] ({which.chips} chips): {shape}; batch {config.batch}, {tokens:,} tokens a clip, "
        f"remat {config.model.remat.value}, {config.optimizer.accumulate} microbatch(es), {config.dtype.value}",
        highlight=False,
    )
    if found.misfit:
        console.print(f"[bold red]does not fit[/]: {found.misfit}", highlight=False)
        return
    memory = Table("HBM of one device", title_justify="left")
    memory.add_column("GiB", justify="right")
    for name, size in found.hbm.items():
        memory.add_row(name, f"{size / GIB:.2f}", end_section=name in ("program", "total"))
    console.print(memory)
    sent = Table("collective", "along")
    for name in ("MB a call", "calls", "ms", "overlapped"):
        sent.add_column(name, justify="right")
    for one, took in found.collectives[:SHOWN]:
        calls = f"{one.count * one.times}"
        sent.add_row(one.kind, "+".join(one.axes), f"{one.bytes / 1e6:.2f}", calls, f"{took * 1e3:.2f}", "yes" if one.overlapped else "no")
    if len(found.collectives) > SHOWN:
        rest = sum(took for _, took in found.collectives[SHOWN:])
        sent.add_row(f"{len(found.collectives) - SHOWN} smaller", "", "", "", f"{rest * 1e3:.2f}", "")
    console.print(sent)
    times, flops = found.estimate, found.model_flops
    console.print(f"model FLOPs a step: {flops['total']:.3g}, {flops['attention'] / flops['total']:.0%} of them attention's", highlight=False)
    floors = ", ".join(f"{name} {value:.3g} s" for name, value in times.floors.items())
    console.print(f"floors: {floors}; [bold]{times.binds}[/] binds", highlight=False)
    console.print(
        f"estimated step{'' if VALIDATED else ', [bold]not validated[/]'}: {times.step:.3g} s (compiler's cycles {times.fusions:.3g}, attention {times.attention:.3g}, "
        f"exposed collectives {times.exposed:.3g}), MFU {found.mfu:.1%} of {which.chip.peak / 1e12:.0f} bf16 TFLOP/s a device",
        highlight=False,
    )
    console.print("the estimate leaves out: " + "; ".join(times.left_out), highlight=False, style="dim")


def main(args: list[str]) -> None:
    jax.config.update("jax_platforms", "cpu")  # nothing runs: a TPU or GPU of this machine stays free
    asked = parse(args)
    which, console = topology.parse(asked.topology), Console()
    if asked.search:
        tried = search.search(on_tpu(asked.train), which, plan, lambda line: console.print(line, highlight=False))
        console.print(search.table(tried))
        found = search.best(tried)
    else:
        console.print(f"compiling {asked.train.preset} for {which}", highlight=False)
        tried, found = [], plan(asked.train, which)
    show(found, console)
    if asked.json:
        write_json(asked.json, found.json() | ({"tried": [one.json() for one in tried]} if tried else {}))
        console.print(f"wrote {asked.json}", highlight=False)
    if found.misfit:
        hint = "a larger slice, a smaller --batch or fewer --frames" if asked.search else f"python -m videodit_jax.plan {' '.join(args)} --search"
        console.print(f"next: {hint}", highlight=False)
    else:
        console.print(f"next, on the slice: python -m videodit_jax.train {' '.join(of_train(args) + search.flags(found))}", highlight=False)


def of_train(args: list[str]) -> list[str]:
    """The flags that train knows too, without those that a plan settles."""
    settled = ("--topology", "--json", "--search", *search.SETTLED)
    kept, ours = [], False
    for word in args:
        if word.startswith("--"):
            ours = word.split("=")[0] in settled
        if not ours:
            kept.append(word)
    return kept


if __name__ == "__main__":
    cli.run(main)
