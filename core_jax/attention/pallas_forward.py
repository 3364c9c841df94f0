"""The forward kernel: a tile of queries stays, tiles of keys and values stream past it.

The online softmax of blockwise.py in base 2, p = 2^(s − m) and lse = (m + log₂ l) · ln 2, for queries that come multiplied by
scale · log₂e. Scores lie keys first, so that maxima and sums run down sublanes, m, l and lse are rows, and the values, which come
transposed, fill a matrix unit of 256 columns at any head dim.

A step makes the scores of key tile j while it weighs the values of tile j − 1. The two need each other nowhere, and the
compiler fills the matrix units with the one while the other takes exponentials. The scores wait in VMEM, each taken out before
a new one takes its place. A tile of queries therefore takes one step more than there are tiles of keys. Scores are worked off in
parts, so that what is in flight stays near the number of registers: a part's scores go to VMEM, its weights to the matrix units,
before those of the next are made.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from core_jax.attention.geometry import Geometry, product
from core_jax.attention.tiles import Tile, slices

LOG2_E = math.log2(math.e)
LOWEST = -1e30  # finite, so that a tile whose keys are all hidden from a query leaves 2^(−∞ − m) = 0
SUBLANES = 8


def forward(q, k, v, bias, q_segments, kv_segments, reach, geometry: Geometry, part: Tile, vmem_limit: int):
    """out [B K D S] and lse [B K 1 S] of q [B K S D], k [B Kkv Skv D] and v [B Kkv D Skv], S and Skv whole tiles.

    bias [G K Skv S], q_segments [B 1 S] and kv_segments [B 1 Skv] may be None; `reach` as in Geometry; `part` of the scores at a time.
    """
    batch, heads, rows, dim = q.shape
    repeats, tile, tiles = heads // k.shape[1], geometry.tile, geometry.key_tiles

    def spec(shape, index):
        return pl.BlockSpec(shape, lambda b, h, i, j, *reach: index(b, h, i, geometry.key_tile(reach, b, i, j)))

    def value_tile(b, h, i, j, *reach):
        return b, h // repeats, geometry.key_tile(reach, b, i, j - 1), 0

    in_specs = [
        spec((None, None, tile.q, dim), lambda b, h, i, j: (b, h, i, 0)),
        spec((None, None, tile.k, dim), lambda b, h, i, j: (b, h // repeats, j, 0)),
        pl.BlockSpec((None, None, tile.k, dim), value_tile),
        None if bias is None else spec((None, None, tile.k, tile.q), lambda b, h, i, j: (b % bias.shape[0], h, j, i)),
        None if q_segments is None else spec((None, 1, tile.q), lambda b, h, i, j: (b, 0, i)),
        None if q_segments is None else spec((None, 1, tile.k), lambda b, h, i, j: (b, 0, j)),
    ]
    scratch = (1, tile.q), (1, tile.q), (SUBLANES, tile.q), (dim, tile.q), (tile.k, tile.q)
    return pl.pallas_call(
        functools.partial(_kernel, geometry, part),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(batch, heads, geometry.query_tiles, tiles + 1),
            in_specs=in_specs,
            out_specs=[
                spec((None, None, tile.q, dim), lambda b, h, i, j: (b, h, i, 0)),
                spec((None, None, 1, tile.q), lambda b, h, i, j: (b, h, 0, i)),
            ],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, rows, dim), q.dtype),
            jax.ShapeDtypeStruct((batch, heads, 1, rows), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"), vmem_limit_bytes=vmem_limit
        ),
        name="attention_forward",
    )(*reach, q, k, v, bias, q_segments, kv_segments)


def _kernel(
    geometry, part, lengths, kv_lengths, q_offset, q, k, v, bias, q_segments, kv_segments, out, lse,
    m, shrink, l, acc, scores,
):  # fmt: skip
    reach = lengths, kv_lengths, q_offset
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)
    seen = geometry.tiles_seen(reach, b, i)

    def score(queries: slice, keys: slice, masked: bool):
        """Scores over some of key tile j."""
        s = product(k[keys], q[queries], (1, 1))
        if bias is not None:
            s += bias[keys, queries].astype(jnp.float32) * LOG2_E
        if masked:
            s = jnp.where(geometry.visible(reach, b, i, j, q_segments, kv_segments, queries, keys), s, -jnp.inf)
        return s

    def by_sublane(x):
        """[k q] as [k/8 8 q]: what is folded along the first dim moves nothing between sublanes."""
        return x.reshape(-1, SUBLANES, x.shape[1])

    def step(masked: bool, scoring: bool = True, weighing: bool = True):
        """Makes the scores of key tile j, weighs the values of tile j − 1."""
        for queries in slices(geometry.tile.q, part.q):
            top, m_before, decay = jnp.full((SUBLANES, queries.stop - queries.start), LOWEST), m[:, queries], shrink[:, queries]
            if weighing:
                l[:, queries] *= decay
                acc[:, queries] *= decay
            for keys in slices(geometry.tile.k, part.k):
                before = scores[keys, queries]
                if scoring:
                    scores[keys, queries] = s = score(queries, keys, masked)
                    top = jnp.maximum(top, by_sublane(s).max(axis=0))
                if weighing:
                    p = jnp.exp2(before - m_before)
                    l[:, queries] += by_sublane(p).sum(axis=0)
                    acc[:, queries] += product(v[keys], p.astype(v.dtype), (0, 0))
            if scoring:
                m[:, queries] = m_next = jnp.maximum(m_before, top.max(axis=0, keepdims=True))
                shrink[:, queries] = jnp.exp2(m_before - m_next)

    @pl.when(j == 0)
    def start():
        m[...] = jnp.full_like(m, LOWEST)
        l[...] = jnp.zeros_like(l)
        acc[...] = jnp.zeros_like(acc)
        step(geometry.masked, weighing=False)

    geometry.visit(reach, b, i, j, step, (j > 0) & (j < geometry.key_tiles))

    @pl.when((j == seen) & (j > 0))
    def drain():
        step(False, scoring=False)

    @pl.when(j == geometry.key_tiles)
    def finish():
        total = l[...].sum(axis=0, keepdims=True)
        blind = total == 0
        if geometry.short_rows:
            row = jax.lax.broadcasted_iota(jnp.int32, total.shape, 1)
            blind |= row >= lengths[b] - i * geometry.tile.q
        total = jnp.where(blind, 1, total)
        out[...] = (acc[...] * jnp.where(blind, 0, 1 / total)).astype(out.dtype).T
        lse[...] = jnp.where(blind, -jnp.inf, (m[...] + jnp.log2(total)) / LOG2_E)
