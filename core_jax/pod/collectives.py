"""What a compiled program sends between devices: how much, along which mesh axis, how often, and whether compute runs meanwhile."""
import dataclasses
import math
import re

import numpy as np
from jax.sharding import Mesh

from core_jax.pod.hlo import Instruction, Place, Program, size

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_GROUP = re.compile(r"\{([\d,]+)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program, or `count` of them that are alike."""

    kind: str
    axes: tuple[str, ...]
    """mesh axes over which the devices of a group lie"""
    bytes: int
    """on one device, in one call, of the whole array: gathered, or before it is reduced"""
    times: int
    """calls in a step: the trip counts of the loops around it"""
    overlapped: bool
    """the schedule issues compute between its start and its end"""
    op_name: str = ""
    """where in the traced function it came from"""
    count: int = 1

    @property
    def total_bytes(self) -> int:
        """In a step, on one device."""
        return self.bytes * self.times * self.count


def groups(attributes: str) -> np.ndarray:
    """(groups, devices) of a collective's replica groups, in any of XLA's forms, or its (source, target) pairs.

    Raises:
      ValueError: in a form that is not known.
    """
    if match := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", attributes):
        return np.array([[int(i) for i in group.split(",")] for group in _GROUP.findall(match[1])])
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, dims, order = ([int(i) for i in part.split(",")] if part else None for part in match.groups())
        ids = np.arange(math.prod(dims)).reshape(dims)
        return (ids.transpose(order) if order else ids).reshape(shape)
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((?:\[([\d,]+)\]T\(([\d,]+)\)|([\d,]+))\))? ?\{([^}]*)\}", attributes):
        dims = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", match[1])}
        along = re.findall(r"'([^']+)'", match[5])
        ids = np.arange(math.prod(dims.values()))
        if match[2]:
            ids = ids.reshape([int(i) for i in match[2].split(",")]).transpose([int(i) for i in match[3].split(",")])
        elif match[4]:
            ids = np.array([int(i) for i in match[4].split(",")])
        if set(along) <= set(dims):
            ids = ids.reshape(tuple(dims.values()))
            last = [list(dims).index(name) for name in along]
            ids = np.moveaxis(ids, last, range(-len(last), 0))
            return ids.reshape(-1, math.prod(dims[name] for name in along))
    raise ValueError(f"replica groups in a form that is not known: {attributes[:200]}")


def axes_of(ids: np.ndarray, mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ; ids count the mesh's devices in row-major order."""
    places = np.stack(np.unravel_index(ids, mesh.devices.shape), -1)
    varies = (places != places[:, :1]).any((0, 1))
    return tuple(name for name, v in zip(mesh.axis_names, varies) if v)


def collectives(program: Program, mesh: Mesh) -> list[Collective]:
    """All collectives of a program compiled for the mesh, in the order in which they are issued.

    A collective that the compiler spreads over several fusions (an async collective fusion, whose parts carry one chain_id) counts
    once. An all-reduce of which each device keeps a piece is a reduce-scatter.
    """
    spread: dict[tuple, list[Place]] = {}
    for place in program.places():
        kind = place.instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            chain = re.search(r'chain_id="(\d+)"', place.instruction.attributes)
            which = chain[1] if chain and place.home != place.computation else place.instruction.name
            spread.setdefault((place.computation, kind, which), []).append(place)
    return [_collective(program, mesh, kind, places) for (_, kind, _), places in spread.items()]


def alike(found: list[Collective]) -> list[Collective]:
    """Those that differ in their origin alone counted together, the most bytes first."""
    merged: dict[tuple, Collective] = {}
    for one in found:
        key = one.kind, one.axes, one.bytes, one.times, one.overlapped
        merged[key] = dataclasses.replace(merged[key], count=merged[key].count + one.count) if key in merged else one
    return sorted(merged.values(), key=lambda one: -one.total_bytes)


def _collective(program: Program, mesh: Mesh, kind: str, places: list[Place]) -> Collective:
    first = places[0]
    ids = groups(first.instruction.attributes)
    home = program.computations[first.home]
    moved = sum(size(home[name].type) for name in first.instruction.operands)
    if kind == "all-gather":
        moved *= ids.shape[1]
    if kind == "all-reduce" and first.home.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    return Collective(kind, axes_of(ids, mesh), moved, first.times, _overlapped(program, places), first.instruction.op_name)


def _overlapped(program: Program, places: list[Place]) -> bool:
    issued = list(program.computations[places[0].computation].values())
    flying = {issued[place.index].name for place in places if issued[place.index].opcode.endswith("-start")}
    span = {place.index for place in places}
    for i, other in enumerate(issued):  # in order, so that an end is found behind the updates on the way to it
        if other.opcode.endswith(("-update", "-done")) and flying & set(other.operands):
            flying.add(other.name)
            span.add(i)
    own = {i for i in span if issued[i].opcode != "fusion"}  # a fusion that it is spread over holds other work too
    return len(span) > 1 and any(_computes(issued[i]) for i in range(min(span), max(span) + 1) if i not in own)


def _computes(instruction: Instruction) -> bool:
    """Whether the TensorCore works on it for longer than it takes to issue."""
    return instruction.told > 0 or instruction.opcode == "while" or "tpu_custom_call" in instruction.attributes
