"""How long a compiled step may take: floors that no schedule goes under, and an estimate.

Floors, each as if the others were free:
  matmul        = FLOPs executed / (peak · devices)                        recomputation counted
  hbm           = (arguments · times read + outputs + 2 · saved activations) / HBM bandwidth
  interconnect  = max over mesh axes of Σ seconds of the collectives along it
One collective of n devices, its whole array of D bytes on one device, on an axis of bandwidth w:
  all-gather, reduce-scatter   D·(n − 1)/n / w            all-reduce   twice that
  all-to-all                   D·longest/4 / (w / dims)   collective-permute   D / w
  w = Σ over the torus dims that the axis runs along of link · (2 if it closes to a ring, else 1) / stride
The estimate, version 1, frozen before it was compared with any measured step:
  step = Σ cycles of the compiler's own estimate · trip counts / clock    (a copy of which it tells none: bytes read and written / HBM bandwidth)
       + Σ FLOPs of attention kernels · trip counts / (0.6 · peak)
       + Σ seconds of the collectives that the schedule does not overlap
0.6 is the best share of peak published for an attention forward on a TPU (tpu7x, 37.8k tokens, head dim 128); kernels carry no cycles.
"""
import dataclasses
import math

import numpy as np
from jax.sharding import Mesh

from core_jax.pod.collectives import Collective
from core_jax.pod.hlo import Program, shapes
from core_jax.pod.topology import Slice

ATTENTION_SHARE = 0.6
PRODUCTS = {"attention_forward": 2, "attention_backward": 5, "splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}
"""matrix products of queries × keys × head dim in each attention kernel, ours and jax's splash attention, by how its name begins"""
LANES = 128
CHIPLETS = 6
"""the two devices of a tpu7x chip are joined by this many times a link, docs.cloud.google.com/tpu/docs/tpu7x"""

LEFT_OUT = (
    "collectives that overlap compute, as if the overlap hid all of them",
    "HBM and VMEM contention between overlapped transfers and compute",
    "latency of collectives (their bytes alone count) and of launching kernels",
    "attention kernels other than by FLOPs at an assumed 60 % of peak, padding to tiles aside",
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


def kernel_flops(program: Program) -> tuple[float, list[str]]:
    """FLOPs of the attention kernels of a step on one device, and the names of the kernels that it does not know."""
    flops, unknown = 0.0, set()
    for place in program.places():
        if 'custom_call_target="tpu_custom_call"' not in place.instruction.attributes:
            continue
        name = place.instruction.name.split(".")[0]
        home = program.computations[place.home]
        made = [dims for _, dims in shapes(place.instruction.type) if len(dims) > 2]
        read = [dims for x in place.instruction.operands for kind, dims in shapes(home[x].type) if len(dims) > 2 and "f" in kind]
        products = next((n for known, n in PRODUCTS.items() if name.startswith(known)), 0)
        if not products or not made or len(read) < 2:
            unknown.add(name)
            continue
        if name.startswith("splash"):  # q and k, perhaps without a dim for a batch of one
            (*many, rows, dim), columns = read[0], read[1][-2]
            products += any(len(dims) > len(read[0]) for dims in made)  # the one-pass backward makes dq too, in parts to be summed
        else:  # q and k, and out or dq, which may be of one of several goes alone
            (*many, rows, dim), columns = read[0], read[1][-2]
            rows /= math.ceil(rows / made[0][-2])
        flops += place.times * products * 2.0 * math.prod(many) * rows * columns * math.ceil(dim / LANES) * LANES
    return flops, sorted(unknown)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step; nothing here is measured."""

    floors: dict[str, float]
    """matmul, hbm, interconnect"""
    fusions: float
    """by the compiler's cycles, or by bytes where it tells none"""
    attention: float
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
    attention, unknown = kernel_flops(program)
    left_out = LEFT_OUT + tuple(f"the kernel {name}, whose FLOPs are not known" for name in unknown)
    if unknown_network:
        left_out += (f"collectives across slices: the network of a {chip.name} is not published",)
    floors = {
        "matmul": flops / (chip.peak * mesh.size),
        "hbm": hbm_bytes / chip.hbm_bandwidth,
        "interconnect": max(by_axis.values(), default=0.0),
    }
    return Estimate(floors, cycles / chip.clock, attention / (ATTENTION_SHARE * chip.peak), exposed, by_axis, left_out)
