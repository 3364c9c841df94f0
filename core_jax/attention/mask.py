"""Which keys a query sees, described without an array of queries × keys."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """Query i of batch element b sees key j if every part that is given allows it.

    lengths: i < lengths[b];  kv_lengths: j < kv_lengths[b];  segments: segments[b, i] == kv_segments[b, j];
    causal: j ≤ i + q_offset.
    """

    lengths: Int[Array, "B"] | None = None
    kv_lengths: Int[Array, "B"] | None = None
    segments: Int[Array, "B S"] | None = None
    kv_segments: Int[Array, "B Skv"] | None = None
    q_offset: Int[ArrayLike, ""] = 0
    causal: bool = dataclasses.field(default=False, metadata={"static": True})

    def part(self, row: Int[ArrayLike, ""], rows: int, column: Int[ArrayLike, ""], columns: int) -> Mask:
        """The mask of `rows` queries from `row` on and `columns` keys from `column` on, counted from there."""
        less = lambda x, start: None if x is None else x - start
        some = lambda x, start, size: None if x is None else jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)
        return Mask(
            less(self.lengths, row),
            less(self.kv_lengths, column),
            some(self.segments, row, rows),
            some(self.kv_segments, column, columns),
            self.q_offset + row - column,
            self.causal,
        )

    def visible(self, rows: int, columns: Int[Array, "N"]) -> Bool[Array, "#B 1 #S N"] | None:
        """What all queries (rows of them) see of the keys at positions `columns`; None stands for all of it."""
        query, key = jnp.arange(rows)[None, None, :, None], columns[None, None, None, :]
        allowed = []
        if self.lengths is not None:
            allowed.append(query < self.lengths[:, None, None, None])
        if self.kv_lengths is not None:
            allowed.append(key < self.kv_lengths[:, None, None, None])
        if self.segments is not None:
            ids = jnp.take(self.kv_segments, columns, axis=1, mode="clip")
            allowed.append(self.segments[:, None, :, None] == ids[:, None, None, :])
        if self.causal:
            allowed.append(key <= query + self.q_offset)
        return functools.reduce(jnp.logical_and, allowed) if allowed else None
