"""Which tiles of the scores a kernel visits, and which of their scores count: the same for every pass.

Scores lie keys first, [k q], in every kernel. The last tiles may reach past the end of their arrays, where anything may stand, also NaN:
it is masked out of the scores, and of what is multiplied by them it is zeroed. A tile is `skipped` if no query of it sees a key of it,
`interior` if every query of it sees every key, and a boundary tile otherwise. Only boundary tiles pay for a mask. Queries past their
length need none: the forward pass gives them up at its end, and the backward pass gets lse = +∞ for them.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from core_jax.attention.tiles import Tile


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What is known of a call when its kernels are built: its queries and keys, the tile, and which parts a mask has.

    `short_rows` says that some tile of queries may be past the last query, `short_columns` that some keys of the array may be hidden by
    length, `skipping` that some tile may be skipped.
    The methods take `reach`, the scalars in SMEM: (lengths [B], kv_lengths [B], q_offset [1]), batch element b, query tile i and key
    tile j.
    """

    rows: int
    columns: int
    tile: Tile
    causal: bool
    segmented: bool
    short_rows: bool
    short_columns: bool
    skipping: bool

    @property
    def query_tiles(self) -> int:
        return -(-self.rows // self.tile.q)

    @property
    def key_tiles(self) -> int:
        return -(-self.columns // self.tile.k)

    @property
    def ragged_rows(self) -> bool:
        return self.rows % self.tile.q != 0

    @property
    def ragged_columns(self) -> bool:
        return self.columns % self.tile.k != 0

    @property
    def hiding(self) -> bool:
        """Whether any key of the array may be hidden from a query."""
        return self.segmented or self.causal or self.short_columns

    @property
    def masked(self) -> bool:
        """Whether any tile needs a mask for what its queries see."""
        return self.hiding or self.ragged_columns

    @property
    def last_columns(self) -> int:
        """Keys of the array in its last tile."""
        return self.columns - (self.key_tiles - 1) * self.tile.k

    def keys_seen(self, reach, b, i):
        """How many key tiles from the first on the queries of tile i may see."""
        lengths, kv_lengths, q_offset = reach
        keys = kv_lengths[b]
        if self.causal:
            keys = jnp.minimum(keys, jnp.maximum(q_offset[0] + (i + 1) * self.tile.q, 0))
        keys = jnp.where(i * self.tile.q < lengths[b], keys, 0) if self.short_rows else keys
        return pl.cdiv(keys, self.tile.k)

    def keys_interior(self, reach, b, i):
        """How many of them from the first on need no mask."""
        _, kv_lengths, q_offset = reach
        if self.segmented:
            return 0
        keys = kv_lengths[b] if self.masked else self.columns
        if self.causal:
            keys = jnp.minimum(keys, jnp.maximum(q_offset[0] + i * self.tile.q + 1, 0))
        return keys // self.tile.k

    def last_seen(self, reach) -> jax.Array | np.ndarray:
        """The last key tile that each query tile sees, 0 if it sees none, [B · query_tiles]: in SMEM a second dim takes 128 places. Where no
        tile is skipped nobody asks."""
        if not self.skipping:
            return np.zeros(1, np.int32)
        b, i = jnp.indices((len(reach[0]), self.query_tiles), dtype=jnp.int32)
        return jnp.maximum(self.keys_seen(reach, b, i) - 1, 0).reshape(-1)

    def queries_seeing(self, reach, b, j) -> tuple:
        """The query tiles that see anything of key tile j: the first, and the one behind the last."""
        lengths, kv_lengths, q_offset = reach
        start, stop = 0, self.query_tiles
        if self.short_rows:
            stop = pl.cdiv(lengths[b], self.tile.q)
        if self.skipping:
            stop = jnp.where(j * self.tile.k < kv_lengths[b], stop, 0)
        if self.causal:
            start = jnp.maximum(j * self.tile.k - q_offset[0], 0) // self.tile.q
        return start, stop

    def queries_interior(self, reach, b, j) -> tuple:
        """Those of them that need no mask and do not reach past the last query."""
        _, kv_lengths, q_offset = reach
        if self.segmented:
            return 0, 0
        start, stop, end = 0, self.query_tiles - self.ragged_rows, (j + 1) * self.tile.k
        if self.masked:
            stop = jnp.where(end <= kv_lengths[b], stop, 0)
        if self.causal:
            start = pl.cdiv(jnp.maximum(end - 1 - q_offset[0], 0), self.tile.q)
        return start, stop

    def visible(self, reach, b, i, j, q_segments, kv_segments, queries: slice | None = None, keys: slice | None = None, ends: bool = False):
        """The scores [k q] of tile (i, j) that count, or those of some of its queries and keys; segment ids come as rows. With `ends`, none
        of a query past the last."""
        _, kv_lengths, q_offset = reach
        queries, keys = queries or slice(0, self.tile.q), keys or slice(0, self.tile.k)
        shape = keys.stop - keys.start, queries.stop - queries.start
        column = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
        visible = column < kv_lengths[b] - j * self.tile.k - keys.start
        row = jax.lax.broadcasted_iota(jnp.int32, shape, 1)
        if ends and self.ragged_rows:
            visible &= row < self.rows - i * self.tile.q - queries.start
        if self.causal:
            visible &= column - row <= q_offset[0] + i * self.tile.q + queries.start - j * self.tile.k - keys.start
        if self.segmented:
            visible &= row_to_column(kv_segments[:, keys]) == q_segments[:, queries]
        return visible


def until(x: jax.Array, end: int | jax.Array, least: int = 0, dim: int = 0, fill: float = 0) -> jax.Array:
    """x [N D] with `fill` from place `end` of a dim on; of dim 0 it is at least `least`."""
    whole = max(least, 0) // 16 * 16 if dim == 0 else 0  # rows that need no mask, in whole registers
    rest = x[whole:]
    rest = jnp.where(jax.lax.broadcasted_iota(jnp.int32, rest.shape, dim) < end - whole, rest, jnp.full_like(rest, fill))
    return jnp.concatenate([x[:whole], rest]) if whole else rest


def tile_of(n, size: int):
    """The n-th stretch of `size` of a chunk."""
    return pl.ds(pl.multiple_of(n * size, size), size)


def row_to_column(row: jax.Array) -> jax.Array:
    """[1 N] to [N 1]."""
    return jnp.broadcast_to(row, (128, row.shape[1])).T[:, :1]


def product(x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """Matrix product over dim contract[0] of x and contract[1] of y: in the operands' dtype, fp32 sums."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dims = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)
