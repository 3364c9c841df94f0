"""The forward kernel: a tile of queries stays, tiles of keys and values stream past it.

The online softmax of blockwise.py in base 2, p = 2^(s − m) and lse = (m + log₂ l) · ln 2, for queries that come multiplied by
scale · log₂e. Scores lie keys first, so that maxima and sums run down sublanes, m, l and lse are rows, and the values, which are
transposed, fill a matrix unit of 256 columns at any head dim.

A step makes the scores of one tile while it weighs the values of the one before. The two need each other nowhere, and the
compiler fills the matrix units with the one while the other takes exponentials. The scores wait in VMEM, each taken out before
a new one takes its place. Scores are worked off in parts, so that what is in flight stays near the number of registers: a part's scores
go to VMEM, its weights to the matrix units, before those of the next are made.

Rows of tiles follow each other in runs, one for each core of a device if they can share the rows evenly. The last tile of a row is
weighed beside the first scores of the next row, and only then is the row's result written. So a run has one row more in the grid, whose
first step ends it.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from core_jax.attention.geometry import Geometry, product, until, visit
from core_jax.attention.tiles import Tile, slices

LOG2_E = math.log2(math.e)
LOWEST = -1e30  # finite, so that a tile whose keys are all hidden from a query leaves 2^(−∞ − m) = 0
SUBLANES = 8


def forward(q, k, v, bias, q_segments, kv_segments, reach, geometry: Geometry, part: Tile, vmem_limit: int, cores: int):
    """out [B K S D] and lse [B K 1 S] of q [B K S D], k and v [B Kkv Skv D].

    bias [G K Skv S], q_segments [B 1 S] and kv_segments [B 1 Skv] may be None; `reach` as in Geometry; `part` of the scores at a time;
    `cores` of a device.
    """
    batch, heads, rows, dim = q.shape
    repeats, tile = heads // k.shape[1], geometry.tile
    runs = math.gcd(geometry.query_tiles, cores)
    run = geometry.query_tiles // runs

    def row(r, i):
        return r * run + jnp.minimum(i, run - 1)

    def row_before(r, i):
        return r * run + jnp.maximum(i - 1, 0)

    def last_tile(b, row, reach):
        return reach[-1][b * geometry.query_tiles + row] if geometry.skipping else geometry.key_tiles - 1

    def key_tile(b, r, i, j, reach):
        """Key tile j; a step that makes no scores asks for one that is needed before it or after it."""
        j = jnp.where(i < run, j, 0)
        return jnp.minimum(j, last_tile(b, row(r, i), reach)) if geometry.skipping else j

    def value_tile(b, h, r, i, j, *reach):
        """The key tile of the step before."""
        before = jnp.where((j > 0) & (i < run), key_tile(b, r, i, j - 1, reach), last_tile(b, row_before(r, i), reach))
        return b, h // repeats, before, 0

    def spec(shape, index):
        return pl.BlockSpec(shape, lambda b, h, r, i, j, *reach: index(b, h, row(r, i), key_tile(b, r, i, j, reach)))

    def out_spec(shape, index):
        return pl.BlockSpec(shape, lambda b, h, r, i, j, *_: index(b, h, row_before(r, i)))

    in_specs = [
        spec((None, None, tile.q, dim), lambda b, h, i, j: (b, h, i, 0)),
        spec((None, None, tile.k, dim), lambda b, h, i, j: (b, h // repeats, j, 0)),
        pl.BlockSpec((None, None, tile.k, dim), value_tile),
        None if bias is None else spec((None, None, tile.k, tile.q), lambda b, h, i, j: (b % bias.shape[0], h, j, i)),
        None if q_segments is None else spec((None, 1, tile.q), lambda b, h, i, j: (b, 0, i)),
        None if q_segments is None else spec((None, 1, tile.k), lambda b, h, i, j: (b, 0, j)),
    ]
    scratch = (1, tile.q), (1, tile.q), (1, tile.q), (SUBLANES, tile.q), (dim, tile.q), (tile.k, tile.q)
    return pl.pallas_call(
        functools.partial(_kernel, geometry, part, run),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(batch, heads, runs, run + 1, geometry.key_tiles),
            in_specs=in_specs,
            out_specs=[
                out_spec((None, None, tile.q, dim), lambda b, h, i: (b, h, i, 0)),
                out_spec((None, None, 1, tile.q), lambda b, h, i: (b, h, 0, i)),
            ],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, rows, dim), q.dtype),
            jax.ShapeDtypeStruct((batch, heads, 1, rows), jnp.float32),
        ],
        compiler_params=parameters(3, 2, vmem_limit),
        name="attention_forward",
    )(*reach, geometry.last_seen(reach), q, k, v, bias, q_segments, kv_segments)


def parameters(parallel: int, arbitrary: int, vmem_limit: int) -> pltpu.CompilerParams:
    """Of a kernel with so many parallel and then arbitrary dims in its grid. Checks of the bounds of its copies, which every step would
    make, are left to the interpreter."""
    semantics = ("parallel",) * parallel + ("arbitrary",) * arbitrary
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=vmem_limit, disable_bounds_checks=True)


def _kernel(
    geometry, part, run, lengths, kv_lengths, q_offset, last_seen, q, k, v, bias, q_segments, kv_segments, out, lse,
    m, m_before, shrink, l, acc, scores,
):  # fmt: skip
    reach = lengths, kv_lengths, q_offset
    b, in_run, j = pl.program_id(0), pl.program_id(3), pl.program_id(4)
    i = pl.program_id(2) * run + in_run
    last = last_seen[b * geometry.query_tiles + jnp.maximum(i - 1, 0)] if geometry.skipping else geometry.key_tiles - 1
    values_left = geometry.columns - jnp.where(j > 0, j - 1, last) * geometry.tile.k

    def score(queries: slice, keys: slice, masked: bool):
        """Scores over some of key tile j."""
        s = product(k[keys], q[queries], (1, 1))
        if bias is not None:
            s += bias[keys, queries].astype(jnp.float32) * LOG2_E
        if masked:
            s = jnp.where(geometry.visible(reach, b, i, j, q_segments, kv_segments, queries, keys), s, -jnp.inf)
        return s

    def values(keys: slice):
        """Some of the key tile of the step before. Only a part of the last tile may reach past the end."""
        least = geometry.columns % geometry.tile.k
        return until(v[keys], values_left - keys.start, least - keys.start) if 0 < least < keys.stop else v[keys]

    def by_sublane(x):
        """[k q] as [k/8 8 q]: what is folded along the first dim moves nothing between sublanes."""
        return x.reshape(-1, SUBLANES, x.shape[1])

    def step(masked: bool, scoring: bool = True, weighing: bool = True):
        """Makes the scores of tile (i, j), weighs the values of the tile before."""
        for queries in slices(geometry.tile.q, part.q):
            m_before[:, queries] = m_last = m[:, queries]
            m_start, decay = jnp.where(j == 0, LOWEST, m_last), shrink[:, queries]
            top = jnp.full((SUBLANES, m_last.shape[1]), LOWEST)
            if weighing:
                l[:, queries] *= decay
                acc[:, queries] *= decay
            for keys in slices(geometry.tile.k, part.k):
                before = scores[keys, queries]
                if scoring:
                    scores[keys, queries] = s = score(queries, keys, masked)
                    top = jnp.maximum(top, by_sublane(s).max(axis=0))
                if weighing:
                    p = jnp.exp2(before - m_last)
                    l[:, queries] += by_sublane(p).sum(axis=0)
                    acc[:, queries] += product(values(keys), p.astype(v.dtype), (0, 0))
            if scoring:
                m[:, queries] = m_next = jnp.maximum(m_start, top.max(axis=0, keepdims=True))
                shrink[:, queries] = jnp.exp2(m_start - m_next)

    begins, over = (in_run == 0) & (j == 0), in_run == run
    seen = j <= last_seen[b * geometry.query_tiles + jnp.where(over, 0, i)] if geometry.skipping else True

    @pl.when(begins)
    def begin():
        step(geometry.masked, weighing=False)

    visit(step, seen & jnp.logical_not(begins | over), geometry.interior(reach, b, i, j))

    @pl.when(over & (j == 0))
    def end():
        step(False, scoring=False)

    @pl.when(j == 0)
    def finish():
        """The row before. What the first row of a run writes here, the second one writes anew."""
        total = l[...].sum(axis=0, keepdims=True)
        blind = total == 0
        if geometry.short_rows:
            row = jax.lax.broadcasted_iota(jnp.int32, total.shape, 1)
            blind |= row >= lengths[b] - (i - 1) * geometry.tile.q
        total = jnp.where(blind, 1, total)
        out[...] = (acc[...] * jnp.where(blind, 0, 1 / total)).astype(out.dtype).T
        lse[...] = jnp.where(blind, -jnp.inf, (m_before[...] + jnp.log2(total)) / LOG2_E)
        l[...] = jnp.zeros_like(l)
        acc[...] = jnp.zeros_like(acc)
