"""Which tiles of the scores a kernel visits, and which of their scores count: the same for every pass.

A tile is `skipped` if no query of it sees a key of it, `interior` if every query of it sees every key, and a boundary
tile otherwise. Only boundary tiles pay for a mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from core_jax.attention.tiles import Tile


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What is known of a call when its kernels are built.

    `short_rows` says that some query tile holds rows past the last query, `short_columns` the same of keys.
    The methods take `reach`, the scalars in SMEM: (lengths [B], kv_lengths [B], q_offset [1]), batch element b, query
    tile i and key tile j.
    """

    rows: int
    columns: int
    tile: Tile
    causal: bool
    segmented: bool
    short_rows: bool
    short_columns: bool

    @property
    def query_tiles(self) -> int:
        return pl.cdiv(self.rows, self.tile.q)

    @property
    def key_tiles(self) -> int:
        return pl.cdiv(self.columns, self.tile.k)

    def keys_seen(self, reach, b, i):
        """How many keys from the first on the queries of tile i may see."""
        lengths, kv_lengths, q_offset = reach
        keys = kv_lengths[b]
        if self.causal:
            keys = jnp.minimum(keys, jnp.maximum(q_offset[0] + (i + 1) * self.tile.q, 0))
        return jnp.where(i * self.tile.q < lengths[b], keys, 0) if self.short_rows else keys

    def skipped(self, reach, b, i, j):
        return j * self.tile.k >= self.keys_seen(reach, b, i)

    def interior(self, reach, b, i, j):
        lengths, kv_lengths, q_offset = reach
        end = (j + 1) * self.tile.k
        interior = end <= kv_lengths[b]
        if self.causal:
            interior &= end <= q_offset[0] + i * self.tile.q + 1
        if self.short_rows:
            interior &= (i + 1) * self.tile.q <= lengths[b]
        return interior

    def key_tile(self, reach, b, i, j):
        """Key tile j, or the last one that query tile i reads: a skipped step then fetches nothing."""
        last = jnp.maximum(pl.cdiv(self.keys_seen(reach, b, i), self.tile.k) - 1, 0)
        return jnp.minimum(j, last)

    def query_tile(self, reach, b, i, j):
        """Query tile i, moved into the range of those that read key tile j."""
        lengths, _, q_offset = reach
        last = jnp.maximum(pl.cdiv(lengths[b], self.tile.q) - 1, 0)
        if self.causal:
            first = jnp.maximum(j * self.tile.k - q_offset[0], 0) // self.tile.q
            i = jnp.maximum(i, first)
        return jnp.minimum(i, last)

    def visit(self, reach, b, i, j, step: Callable[[bool], None]) -> None:
        """Run step(masked) on tile (i, j) unless it is skipped."""
        if not (self.segmented or self.causal or self.short_rows or self.short_columns):
            return step(False)
        visited = jnp.logical_not(self.skipped(reach, b, i, j))
        if self.segmented:
            return pl.when(visited)(lambda: step(True))
        interior = self.interior(reach, b, i, j)
        pl.when(visited & interior)(lambda: step(False))
        pl.when(visited & jnp.logical_not(interior))(lambda: step(True))

    def visible(self, reach, b, i, j, q_segments, kv_segments, *, keys_first: bool = False):
        """The scores of tile (i, j) that count, [q k] or [k q]; segment ids come as a column and a row."""
        lengths, kv_lengths, q_offset = reach
        shape = (self.tile.k, self.tile.q) if keys_first else (self.tile.q, self.tile.k)
        row = jax.lax.broadcasted_iota(jnp.int32, shape, 1 if keys_first else 0)
        column = jax.lax.broadcasted_iota(jnp.int32, shape, 0 if keys_first else 1)
        visible = column < kv_lengths[b] - j * self.tile.k
        if self.short_rows:
            visible &= row < lengths[b] - i * self.tile.q
        if self.causal:
            visible &= column - row <= q_offset[0] + i * self.tile.q - j * self.tile.k
        if self.segmented:
            visible &= q_segments == kv_segments
        return visible

    def real_queries(self, reach, b, i, x):
        """x [q …] with the rows past the last query, which hold anything, set to 0."""
        row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
        return jnp.where(row < reach[0][b] - i * self.tile.q, x, 0) if self.short_rows else x

    def real_keys(self, reach, b, j, x):
        """x [k …] with the rows past the last key, which hold anything, set to 0."""
        row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
        return jnp.where(row < reach[1][b] - j * self.tile.k, x, 0) if self.short_columns else x


def row_to_column(row: jax.Array) -> jax.Array:
    """[1 N] to [N 128], every lane the same."""
    return jnp.broadcast_to(row, (128, row.shape[1])).T


def column_to_row(column: jax.Array) -> jax.Array:
    """[N 128], every lane the same, to [1 N]."""
    return column.T[:1]


def product(x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """Matrix product over dim contract[0] of x and contract[1] of y: in the operands' dtype, fp32 sums."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dims = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)
