"""How the kernel runs on a mesh: batch over data and fsdp, heads over tensor, queries over context, keys gathered (or not: ring.py).

XLA cannot split a kernel by itself, so that each call is mapped over the mesh by hand. An axis that does not divide its
dim splits nothing: the devices along it repeat the same work, and a warning says so.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math

import jax
from jax.sharding import PartitionSpec

from core_jax.attention.mask import Mask
from core_jax.sharding import RULES, axis_sizes

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Split:
    """The mesh axes over which the batch, the heads and the queries of a call are split; keys are whole everywhere."""

    batch: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    mapped: frozenset[str] = frozenset()
    """All axes that the kernel is mapped over; along those that split nothing the devices repeat the same work."""

    @property
    def by_query(self) -> PartitionSpec:
        """Of q, the output and their gradients."""
        return PartitionSpec(self.batch, self.queries, self.heads)

    @property
    def by_key(self) -> PartitionSpec:
        return PartitionSpec(self.batch, None, self.heads)

    @property
    def lse(self) -> PartitionSpec:
        return PartitionSpec(self.batch, self.heads, self.queries)

    @property
    def bias(self) -> PartitionSpec:
        return PartitionSpec(None, self.heads, self.queries)

    def mask(self, mask: Mask) -> Mask:
        """The specs of a mask's parts."""
        batch = PartitionSpec(self.batch)
        specs = Mask(batch, batch, PartitionSpec(self.batch, self.queries), batch, PartitionSpec(), mask.causal)
        fields = ("lengths", "kv_lengths", "segments", "kv_segments")
        return dataclasses.replace(specs, **{name: None for name in fields if getattr(mask, name) is None})

    def local_mask(self, mask: Mask, rows: int) -> Mask:
        """The mask as one shard of `rows` queries sees it: its first query is not query 0."""
        if not self.queries:
            return mask
        start = jax.lax.axis_index(self.queries) * rows
        lengths = None if mask.lengths is None else mask.lengths - start
        return dataclasses.replace(mask, lengths=lengths, q_offset=mask.q_offset + start)


def current_split(batch: int, rows: int, heads: int, kv_heads: int, groups: int) -> Split:
    """The split of a call on the current mesh: of its axes in Auto mode, those that divide the call's dims.

    Raises:
      ValueError: where a shard of the batch would not hold whole rounds of the bias groups, or an axis is Explicit.
    """
    sizes, mesh = axis_sizes(), jax.sharding.get_abstract_mesh()
    if explicit := [name for name in mesh.explicit_axes if mesh.shape[name] > 1]:
        raise ValueError(
            f"attention maps its kernel over mesh axes that are Auto, and {', '.join(explicit)} is Explicit: "
            "make the mesh by core_jax.mesh.build, or call attention inside jax.sharding.auto_axes"
        )
    split = Split(
        _dividing(RULES.B, sizes, batch),
        _dividing(RULES.K, sizes, math.gcd(heads, kv_heads)),
        _dividing(RULES.S, sizes, rows),
        frozenset(sizes) if math.prod(sizes.values()) > 1 else frozenset(),
    )
    shard = batch // math.prod(sizes[axis] for axis in split.batch)
    if shard % groups:
        raise ValueError(
            f"a bias of {groups} groups needs a multiple of {groups} batch elements on each device, "
            f"but a batch of {batch} over the mesh axes {', '.join(split.batch)} leaves {shard}"
        )
    used = split.batch + split.heads + split.queries
    unused = tuple(axis for axis, size in sizes.items() if size > 1 and axis not in used)
    if unused:
        _warn_once(unused, (batch, rows, heads, kv_heads))
    return split


def _dividing(axes: tuple[str, ...], sizes: dict[str, int], length: int) -> tuple[str, ...]:
    used: tuple[str, ...] = ()
    for axis in axes:
        if sizes.get(axis, 1) > 1 and length % sizes[axis] == 0:
            used, length = (*used, axis), length // sizes[axis]
    return used


@functools.lru_cache(maxsize=None)
def _warn_once(unused: tuple[str, ...], shape: tuple[int, ...]) -> None:
    _log.warning(
        "attention of batch %d, %d queries, %d heads and %d key-value heads does not divide over the mesh axes %s: "
        "devices along them repeat the same work",
        *shape,
        ", ".join(unused),
    )


def map_over_mesh(split: Split, function, in_specs, out_specs):
    """`function` mapped over the mesh axes of the split, or itself on one device."""
    if not split.mapped:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, axis_names=split.mapped, check_vma=False)


def add_over(axes: tuple[str, ...], x: jax.Array) -> jax.Array:
    """x summed over mesh axes."""
    return jax.lax.psum(x, axes) if axes else x
