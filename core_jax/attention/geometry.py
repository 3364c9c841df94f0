"""Which tiles of the scores a kernel visits, and which of their scores count: the same for every pass.

Scores lie keys first, [k q], in every kernel. The last tiles may reach past the end of their arrays, where anything may stand, also NaN:
it is masked out of the scores, and of what is multiplied by them it is zeroed. A tile is `skipped` if no query of it sees a key of it,
`interior` if every query of it sees every key, and a boundary tile otherwise. Only boundary tiles pay for a mask. Queries past their
length need none: the forward pass gives them up at its end, and the backward pass gets lse = +∞ for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl

from core_jax.attention.tiles import Tile


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What is known of a call when its kernels are built: its queries and keys, the tile, and which parts a mask has.

    `short_rows` says that some tile of queries may be past the last query, `short_columns` that some keys may be hidden by length,
    `skipping` that some tile may be skipped.
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
    def masked(self) -> bool:
        """Whether any tile needs a mask for what its queries see."""
        return self.segmented or self.causal or self.short_columns

    def tiles_seen(self, reach, b, i):
        """How many key tiles from the first on the queries of tile i may see."""
        lengths, kv_lengths, q_offset = reach
        keys = kv_lengths[b]
        if self.causal:
            keys = jnp.minimum(keys, jnp.maximum(q_offset[0] + (i + 1) * self.tile.q, 0))
        keys = jnp.where(i * self.tile.q < lengths[b], keys, 0) if self.short_rows else keys
        return pl.cdiv(keys, self.tile.k)

    def last_seen(self, reach) -> jax.Array | np.ndarray:
        """The last key tile that each query tile sees, 0 if it sees none, [B · query_tiles]: in SMEM a second dim takes 128 places. Where no
        tile is skipped nobody asks."""
        if not self.skipping:
            return np.zeros(1, np.int32)
        b, i = jnp.indices((len(reach[0]), self.query_tiles), dtype=jnp.int32)
        return jnp.maximum(self.tiles_seen(reach, b, i) - 1, 0).reshape(-1)

    def seen(self, reach, b, i, j):
        """Whether query tile i sees anything of key tile j."""
        return j < self.tiles_seen(reach, b, i) if self.skipping else True

    def interior(self, reach, b, i, j, ends: bool = False) -> bool | jax.Array:
        """Whether tile (i, j) needs no mask, where it is known beforehand as a bool; with `ends`, a tile past the last query needs one."""
        _, kv_lengths, q_offset = reach
        if self.segmented:
            return False
        end, interior = (j + 1) * self.tile.k, True
        if self.masked:
            interior = end <= kv_lengths[b]
        if self.causal:
            interior &= end <= q_offset[0] + i * self.tile.q + 1
        if ends and self.ragged_rows:
            interior &= i < self.query_tiles - 1
        return interior

    def query_tile(self, reach, b, i, j):
        """Query tile i, moved into the range of those that read key tile j."""
        lengths, _, q_offset = reach
        last = jnp.maximum(pl.cdiv(lengths[b], self.tile.q) - 1, 0)
        if self.causal:
            first = jnp.maximum(j * self.tile.k - q_offset[0], 0) // self.tile.q
            i = jnp.maximum(i, first)
        return jnp.minimum(i, last)

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


def visit(step: Callable[[bool], None], visited: bool | jax.Array, interior: bool | jax.Array) -> None:
    """Run step(masked) on a tile if it is visited."""
    if isinstance(interior, bool):
        return step(not interior) if visited is True else pl.when(visited)(lambda: step(not interior))
    pl.when(visited & interior)(lambda: step(False))
    pl.when(visited & jnp.logical_not(interior))(lambda: step(True))


def until(x: jax.Array, end: int | jax.Array, least: int) -> jax.Array:
    """x [N D], zeros from row `end` on, which is at least `least`."""
    whole = max(least, 0) // 16 * 16  # rows that need no mask, in whole registers
    rows = x[whole:]
    rows = jnp.where(jax.lax.broadcasted_iota(jnp.int32, rows.shape, 0) < end - whole, rows, jnp.zeros_like(rows))
    return jnp.concatenate([x[:whole], rows]) if whole else rows


def row_to_column(row: jax.Array) -> jax.Array:
    """[1 N] to [N 1]."""
    return jnp.broadcast_to(row, (128, row.shape[1])).T[:, :1]


def product(x: jax.Array, y: jax.Array, contract: tuple[int, int]) -> jax.Array:
    """Matrix product over dim contract[0] of x and contract[1] of y: in the operands' dtype, fp32 sums."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    dims = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)
