"""How long a compiled step may take: floors that no schedule goes under, and an estimate.

Floors, each as if the others were free:
  matmul        = FLOPs executed / (peak · devices)                        recomputation counted
  hbm           = (arguments · times read + outputs + 2 · saved activations) / HBM bandwidth
  interconnect  = max over mesh axes of Σ seconds of the collectives along it
One collective of n devices, its whole array of D bytes on one device, on an axis of bandwidth w:
  all-gather, reduce-scatter   D·(n − 1)/n / w            all-reduce   twice that
  all-to-all                   D·longest/4 / (w / dims)   collective-permute   D / w
  w = Σ over the torus dims that the axis runs along of link · (2 if it closes to a ring, else 1) / stride
The estimate, version 3:
  step = Σ cycles of the compiler's own estimate · trip counts / clock    (a copy of which it tells none: bytes read and written / HBM bandwidth)
       + Σ (FLOPs of an attention kernel / (share · peak) + 0.35 µs · steps of its grid) · trip counts
       + Σ seconds of the collectives that the schedule does not overlap
share: the share of peak at which the compiler schedules the kernel if it never waits. 0.35 µs: what a step of a kernel's grid takes beyond its
schedule; it makes up for what one measured run with small tiles takes longer, and the other measured runs check it (docs/plan.md). Version 1,
frozen before it was compared with any measured step, took every attention kernel at 0.6 of peak, version 2 at 0.6 of the rate of its schedule.
"""
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from core_jax.attention.kernel import planned
from core_jax.attention.tiles import even_chunk
from core_jax.chips import Chip
from core_jax.pod.collectives import Collective
from core_jax.pod.hlo import Program, shapes
from core_jax.pod.topology import Slice

VERSION = 3
"""of the estimate; figures by different versions cannot be compared"""
STEP = 0.35e-6
"""seconds that a step of an attention kernel's grid takes beyond its schedule"""
SCHEDULED = {
    "v4": {64: (0.65, 0.71), 128: (1.0, 1.0), 256: (1.0, 1.0)},
    "v5e": {64: (0.66, 0.71), 128: (1.0, 1.0), 256: (1.0, 1.0)},
    "v5p": {64: (0.65, 0.71), 128: (1.0, 1.0), 256: (1.0, 1.0)},
    "v6e": {64: (0.31, 0.33), 128: (0.60, 0.63), 256: (0.92, 0.96)},
    "tpu7x": {64: (0.31, 0.34), 128: (0.61, 0.65), 256: (0.92, 1.0)},
}
"""share of peak of our kernel as scheduled, by head dim, forward and backward: docs/kernel.md, 75,600 tokens; v4, whose matrix units are v5p's,
as v5p"""
HEAD_DIMS = 64, 128, 256
"""that our kernel pads to; larger ones are padded to whole 128s"""
PRODUCTS = {"attention_forward": 2, "attention_backward": 5, "splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}
"""matrix products of queries × keys × head dim in each attention kernel, ours and jax's splash attention, by how its name begins"""
CHIPLETS = 6
"""the two devices of a tpu7x chip are joined by this many times a link, docs.cloud.google.com/tpu/docs/tpu7x"""

LEFT_OUT = (
    "collectives that overlap compute, as if the overlap hid all of them",
    "HBM and VMEM contention between overlapped transfers and compute",
    "latency of collectives (their bytes alone count) and of launching kernels",
    "waits within attention kernels, but for 0.35 µs a step of their grids, and padding to tiles",
    "host work: loading data, logging, checkpoints, evaluation",
    "stragglers, clock throttling, and sparse-core offload",
)


@dataclasses.dataclass(frozen=True)
class Line:
    """How the devices of a group lie in the torus."""

    devices: int
    dims: int
    """torus dims that the group runs along"""
    longest: int
    """devices along the longest of them"""
    bandwidth: float | None
    """bytes/s that reach one device when all gather; None across slices whose network is not known"""


def line(which: Slice, mesh: Mesh, axes: tuple[str, ...]) -> Line:
    """Where the devices along these mesh axes lie, by the first such group."""
    places = tuple(slice(None) if name in axes else 0 for name in mesh.axis_names)
    group = np.atleast_1d(mesh.devices[places]).ravel()
    chip = which.chip
    if len({getattr(device, "slice_index", 0) for device in group}) > 1:
        return Line(len(group), 1, len(group), chip.network and chip.network / chip.devices)
    bandwidth, lengths = 0.0, []
    for dim in range(chip.torus):
        at = sorted({device.coords[dim] for device in group})
        if len(at) > 1:
            stride = min(b - a for a, b in zip(at, at[1:]))
            ring = which.closed[dim] and len(at) * stride == which.shape[dim]
            bandwidth += chip.link * (2 if ring else 1) / stride
            lengths.append(len(at))
    cores = len({device.core_on_chip for device in group})
    if not lengths:
        return Line(len(group), 1, len(group), 2 * CHIPLETS * chip.link)
    return Line(len(group), len(lengths), max(lengths), bandwidth * cores / chip.devices)


def seconds(one: Collective, along: Line) -> float:
    """One call of a collective, by the table at the top; 0 across a network whose speed is not known."""
    if not along.bandwidth or along.devices < 2:
        return 0.0
    n, whole = along.devices, one.bytes / along.bandwidth
    if one.kind == "all-to-all":
        return whole * along.longest / 4 * along.dims
    if one.kind == "collective-permute":
        return whole
    return whole * (n - 1) / n * (2 if one.kind == "all-reduce" else 1)


class Calls(NamedTuple):
    """All calls of a kernel on one device."""

    flops: float = 0.0
    steps: float = 0.0
    """of its grid; of jax's splash attention, whose tiles the program does not tell, none"""


def grid_steps(rows: int, columns: int, dim: int, dtype: jnp.dtype) -> tuple[int, int]:
    """Steps of the grids of our forward and backward kernels for the queries and keys of one head, on the chip of the current mesh."""
    tiles = planned(*(jax.ShapeDtypeStruct((1, length, 1, dim), dtype) for length in (rows, columns)))
    (q, k), (stay, stream) = ((-(-rows // tile.q), -(-columns // tile.k)) for tile in (tiles.forward, tiles.backward))
    return q * -(-k // even_chunk(k, tiles.key_chunk)), stream * -(-stay // even_chunk(stay, tiles.query_chunk))


def kernel_calls(program: Program) -> tuple[dict[tuple[str, int], Calls], list[str]]:
    """Of the attention kernels of a step, by a key of PRODUCTS and the head dim that they pad to; the names of the kernels that are not known.
    The tiles of ours are those of the chip of the current mesh."""
    calls, unknown = {}, set()
    for place in program.places():
        if 'custom_call_target="tpu_custom_call"' not in place.instruction.attributes:
            continue
        name = place.instruction.name.split(".")[0]
        home = program.computations[place.home]
        made = [dims for _, dims in shapes(place.instruction.type) if len(dims) > 2]
        read = [one for x in place.instruction.operands for one in shapes(home[x].type) if len(one[1]) > 2 and "f" in one[0]]
        known = next((known for known in PRODUCTS if name.startswith(known)), None)
        if not known or not made or len(read) < 2:
            unknown.add(name)
            continue
        (kind, (*many, rows, dim)), (_, (*_, columns, _)) = read[:2]  # q and k, of splash perhaps without a dim for a batch of one
        products, steps, goes = PRODUCTS[known], 0, 1
        if name.startswith("splash"):
            products += any(len(dims) > len(many) + 2 for dims in made)  # the one-pass backward makes dq too, in parts to be summed
        else:
            steps = grid_steps(rows, columns, dim, {"f32": jnp.float32}.get(kind, jnp.bfloat16))[known == "attention_backward"]
            goes = math.ceil(rows / made[0][-2])  # of which this call is one: what it makes first is out or, of its queries, dq
        padded = next((one for one in HEAD_DIMS if dim <= one), math.ceil(dim / 128) * 128)
        times, before = place.times * math.prod(many) / goes, calls.get((known, padded), Calls())
        calls[known, padded] = Calls(before.flops + times * products * 2.0 * rows * columns * padded, before.steps + times * steps)
    return calls, sorted(unknown)


def share(chip: Chip, kernel: str, dim: int) -> float:
    """Of peak, at which a kernel is scheduled: ours by SCHEDULED; others are taken to keep the matrix units busy."""
    ours = SCHEDULED[chip.name][min(dim, HEAD_DIMS[-1])]
    return {"attention_forward": ours[0], "attention_backward": ours[1]}.get(kernel, 1.0)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step; nothing here is measured."""

    floors: dict[str, float]
    """matmul, hbm, interconnect"""
    fusions: float
    """by the compiler's cycles, or by bytes where it tells none"""
    attention: float
    kernels: dict[tuple[str, int], Calls]
    """the attention kernels of one device, by kernel and head dim"""
    exposed: float
    """collectives that nothing overlaps"""
    by_axis: dict[str, float]
    """seconds of the collectives along each mesh axis, overlapped or not"""
    left_out: tuple[str, ...]

    @property
    def binds(self) -> str:
        """The largest floor."""
        return max(self.floors, key=self.floors.get)

    @property
    def step(self) -> float:
        return self.fusions + self.attention + self.exposed


def estimate(program: Program, found: list[Collective], which: Slice, mesh: Mesh, *, flops: float, hbm_bytes: int) -> Estimate:
    """The floors and the estimate of a program compiled for this mesh.

    Args:
      found: its collectives.
      flops: executed by all devices together.
      hbm_bytes: that one device reads and writes at least.
    """
    chip, by_axis, exposed, unknown_network = which.chip, {}, 0.0, False
    lines = {axes: line(which, mesh, axes) for axes in {one.axes for one in found}}
    for one in found:
        took = seconds(one, lines[one.axes]) * one.times * one.count
        unknown_network |= lines[one.axes].bandwidth is None
        by_axis["+".join(one.axes)] = by_axis.get("+".join(one.axes), 0.0) + took
        exposed += 0.0 if one.overlapped else took
    cycles = sum(place.cycles(chip) for place in program.places())
    with jax.set_mesh(mesh):
        kernels, unknown = kernel_calls(program)
    attention = sum(calls.flops / (share(chip, *kernel) * chip.peak) + STEP * calls.steps for kernel, calls in kernels.items())
    left_out = LEFT_OUT + tuple(f"the kernel {name}, whose FLOPs are not known" for name in unknown)
    if unknown_network:
        left_out += (f"collectives across slices: the network of a {chip.name} is not published",)
    floors = {
        "matmul": flops / (chip.peak * mesh.size),
        "hbm": hbm_bytes / chip.hbm_bandwidth,
        "interconnect": max(by_axis.values(), default=0.0),
    }
    return Estimate(floors, cycles / chip.clock, attention, kernels, exposed, by_axis, left_out)
