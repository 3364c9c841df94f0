"""A package hands over its lowered step; out comes what it takes on a slice: memory, collectives, floors, an estimate."""
import dataclasses
import math
import time
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree
from rich.console import Console
from rich.table import Table

from core_jax.chips import GIB
from core_jax.compiler import options
from core_jax.mesh import described
from core_jax.pod import compiled, hlo
from core_jax.pod.collectives import Collective, alike, collectives
from core_jax.pod.estimate import VERSION, Estimate, estimate, line, seconds
from core_jax.pod.topology import Slice
from core_jax.words import counted

SHOWN = 12
"""rows of the table of collectives"""
MISFIT = 3
"""exit status of a command whose plan does not fit, when all is said and written; 1 is bad input, 2 a flag that cannot be read"""


@dataclasses.dataclass(frozen=True)
class Work:
    """A step as a package hands it over."""

    lowered: jax.stages.Lowered
    held: dict[str, PyTree]
    """arguments that stay on the devices, by what they are for; `jax.ShapeDtypeStruct`s that say where they lie"""
    model_flops: dict[str, float]
    """of one step on all devices: `total` and `attention` as a paper would count them, `executed` with what is computed again"""
    reads: int = 1
    """times that the step reads its arguments from HBM: a loop of decoding does for each token"""
    apart: tuple[str, ...] = ()
    """what the command does besides, which is not counted"""
    makes: str = "step"
    """what one call of the program makes, for messages: a step of training, or a batch of samples or answers"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiler makes of a step on a slice. Nothing here is measured."""

    which: Slice
    mesh: dict[str, int]
    model_flops: dict[str, float]
    seconds: float
    """that compiling took, or reading an earlier result"""
    misfit: compiled.Misfit | None = None
    hbm: dict[str, int] = dataclasses.field(default_factory=dict)
    """bytes of one device, by part"""
    collectives: tuple[tuple[Collective, float], ...] = ()
    """each with the seconds of all its calls"""
    estimate: Estimate | None = None
    makes: str = "step"
    """as of `Work`"""

    @property
    def mfu(self) -> float | None:
        peak = self.which.chip.peak * self.which.chips * self.which.chip.devices
        return self.model_flops["total"] / (self.estimate.step * peak) if self.estimate else None

    def json(self) -> dict[str, Any]:
        """The figures under the names that others rely on."""
        names = {
            "topology": str(self.which), "devices": math.prod(self.mesh.values()), "mesh": self.mesh, "compile_seconds": self.seconds,
            "fits": self.misfit is None, "model_flops": self.model_flops,
        }  # fmt: skip
        if self.misfit:
            return names | {"needed_bytes": self.misfit.needed, "limit_bytes": self.misfit.available}
        rows = [{**dataclasses.asdict(one), "total_bytes": one.total_bytes, "seconds": took} for one, took in self.collectives]
        return names | {
            "hbm_bytes": self.hbm, "collectives": rows, "floor_seconds": self.estimate.floors, "binds": self.estimate.binds,
            "interconnect_seconds_by_axis": self.estimate.by_axis,
            "estimated_step_seconds": self.estimate.step, "estimated_mfu": self.mfu,
            "estimate": {
                "version": VERSION, "validated": True, "fusions": self.estimate.fusions, "attention": self.estimate.attention,
                "exposed_collectives": self.estimate.exposed, "left_out": list(self.estimate.left_out),
            },
        }  # fmt: skip


def plan(work: Work, which: Slice, on: Mesh) -> Plan:
    """Compiles a step that was lowered for a mesh of the slice's devices."""
    started, shape = time.monotonic(), dict(on.shape)
    result = compiled.compile(work.lowered, f"{which} {shape} {options(on.devices.flat[0])}")
    if isinstance(result, compiled.Misfit):
        return Plan(which, shape, work.model_flops, time.monotonic() - started, result)
    program = hlo.parse(result.text)
    activations, gradients = compiled.stacked(program)
    found = alike(collectives(program, on))
    moved = work.reads * result.arguments + result.outputs + 2 * activations
    times = estimate(program, found, which, on, flops=work.model_flops["executed"], hbm_bytes=moved)
    times = dataclasses.replace(times, left_out=(*times.left_out, *work.apart))
    hbm = parts(work.held, result, activations, gradients) | {"total": result.bytes, "limit": which.chip.hbm}
    rows = tuple((one, seconds(one, line(which, on, one.axes)) * one.times * one.count) for one in found)
    return Plan(which, shape, work.model_flops, time.monotonic() - started, None, hbm, rows, times, work.makes)


def local_bytes(tree: PyTree) -> int:
    """Bytes that one device holds of arrays, or of `jax.ShapeDtypeStruct`s, that say where they lie."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def parts(held: dict[str, PyTree], result: compiled.Compiled, activations: int, gradients: int) -> dict[str, int]:
    """Bytes of one device's memory by what they are for; they add up to the program's."""
    lasting = {name: local_bytes(tree) for name, tree in held.items()}
    return lasting | {
        "batch and padding": result.arguments - sum(lasting.values()),
        "activations": activations,
        "gradients": gradients,
        "temporaries": result.allocated - result.arguments - activations - gradients,
        "program": result.code,
    }


def show_fit(title: str, which: Slice, shape: dict[str, int], misfit: compiled.Misfit | None, console: Console) -> None:
    """What was compiled for which slice and mesh, and, where it does not fit, by how much."""
    console.print(f"{title} on {which} ({counted(which.chips, 'chip')}): {described(shape)}")
    if misfit:
        console.print(f"does not fit: {misfit}", style="red")


def memory(hbm: dict[str, int]) -> Table:
    """Bytes of one device by part."""
    spare = (hbm["limit"] - hbm["total"]) / GIB
    shown = Table("HBM of one device", title=f"fits, with {spare:.2f} GiB to spare" if spare >= 0 else None, title_justify="left")
    shown.add_column("GiB", justify="right")
    for name, size in hbm.items():
        shown.add_row(name, f"{size / GIB:.2f}", end_section=name in ("program", "at work", "total"))
    return shown


def show(found: Plan, title: str, console: Console) -> None:
    """The plan as tables, under a title that says what was compiled."""
    show_fit(title, found.which, found.mesh, found.misfit, console)
    if found.misfit:
        return
    console.print(memory(found.hbm))
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
    console.print(f"model FLOPs a {found.makes}: {flops['total']:.3g}, {flops['attention'] / flops['total']:.0%} of them attention's")
    floors = ", ".join(f"{name} {value:.3g} s" for name, value in times.floors.items())
    console.print(f"floors: {floors}; {times.binds} binds")
    console.print(
        f"estimated {found.makes}: {times.step:.3g} s (compiler's cycles {times.fusions:.3g}, attention {times.attention:.3g}, "
        f"exposed collectives {times.exposed:.3g}), MFU {found.mfu:.1%} of {found.which.chip.peak / 1e12:.0f} bf16 TFLOP/s a device",
    )
    checked = "within 25 % of steps of 14B that others measured (videodit_jax.published)"
    console.print(f"version {VERSION} of the estimate, {checked}, leaves out: {'; '.join(times.left_out)}", style="dim")
