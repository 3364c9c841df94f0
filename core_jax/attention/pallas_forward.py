"""The forward kernel: a tile of queries stays, tiles of keys and values stream past it.

The online softmax of blockwise.py in base 2, p = 2^(s − m) and lse = (m + log₂ l) · ln 2, for queries that come multiplied by
scale · log₂e. Scores lie keys first, so that maxima and sums run down sublanes, m, l and lse are rows, and the values, which are
transposed, fill a matrix unit of 256 columns at any head dim.

The scores of one tile are made while the values of the one before are weighed. The two need each other nowhere, and the
compiler fills the matrix units with the one while the other takes exponentials. Scores and values wait in VMEM, each score taken out before
a new one takes its place. Scores are worked off in parts, so that what is in flight stays near the number of registers: a part's scores
go to VMEM, its weights to the matrix units, before those of the next are made.

Tiles of keys come by the chunk, since to begin a step of the grid costs as much as a fiftieth of a tile. Rows of tiles follow each other in
runs, one for each core of a device if they can share the rows evenly. The last tile of a row is weighed beside the first scores of the next
row, and only then is the row's result written. So a run has one row more in the grid, whose first step ends it.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from core_jax.attention.geometry import Geometry, product, tile_of, until
from core_jax.attention.tiles import Tile, round_up, slices

LOG2_E = math.log2(math.e)
LOWEST = -1e30  # finite, so that a tile whose keys are all hidden from a query leaves 2^(−∞ − m) = 0
SUBLANES = 8
ROWS = 16  # of bf16 in a register


def forward(q, k, v, bias, q_segments, kv_segments, reach, geometry: Geometry, part: Tile, chunk: int, vmem_limit: int, cores: int):
    """out [B K S D] and lse [B K 1 S] of q [B K S D], k and v [B Kkv Skv D].

    bias [G K Skv S], q_segments [B 1 S] and kv_segments [B 1 Skv] may be None; `reach` as in Geometry; `part` of the scores at a time;
    `chunk` tiles of keys in a step; `cores` of a device.
    """
    batch, heads, rows, dim = q.shape
    repeats, tile = heads // k.shape[1], geometry.tile
    runs = math.gcd(geometry.query_tiles, cores)
    run = geometry.query_tiles // runs
    chunks = -(-geometry.key_tiles // chunk)

    def row(r, i):
        return r * run + jnp.minimum(i, run - 1)

    def row_before(r, i):
        return r * run + jnp.maximum(i - 1, 0)

    def key_chunk(b, r, i, c, reach):
        """Chunk c of the keys; a step that has nothing to do asks for what is needed before it or after it."""
        c = jnp.where(i < run, c, 0)
        return jnp.minimum(c, reach[-1][b * geometry.query_tiles + row(r, i)] // chunk) if geometry.skipping else c

    def spec(shape, index):
        return pl.BlockSpec(shape, lambda b, h, r, i, c, *reach: index(b, h, row(r, i), key_chunk(b, r, i, c, reach)))

    def out_spec(shape, index):
        return pl.BlockSpec(shape, lambda b, h, r, i, c, *_: index(b, h, row_before(r, i)))

    keys = chunk * tile.k
    in_specs = [
        spec((None, None, tile.q, dim), lambda b, h, i, c: (b, h, i, 0)),
        spec((None, None, keys, dim), lambda b, h, i, c: (b, h // repeats, c, 0)),
        spec((None, None, keys, dim), lambda b, h, i, c: (b, h // repeats, c, 0)),
        None if bias is None else spec((None, None, keys, tile.q), lambda b, h, i, c: (b % bias.shape[0], h, c, i)),
        None if q_segments is None else spec((None, 1, tile.q), lambda b, h, i, c: (b, 0, i)),
        None if q_segments is None else spec((None, 1, keys), lambda b, h, i, c: (b, 0, c)),
    ]
    scratch = (1, tile.q), (1, tile.q), (1, tile.q), (SUBLANES, tile.q), (dim, tile.q), (tile.k, tile.q)
    return pl.pallas_call(
        functools.partial(_kernel, geometry, part, run, chunk),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(batch, heads, runs, run + 1, chunks),
            in_specs=in_specs,
            out_specs=[
                out_spec((None, None, tile.q, dim), lambda b, h, i: (b, h, i, 0)),
                out_spec((None, None, 1, tile.q), lambda b, h, i: (b, h, 0, i)),
            ],
            scratch_shapes=[*(pltpu.VMEM(shape, jnp.float32) for shape in scratch), pltpu.VMEM((tile.k, dim), v.dtype)],
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
    geometry, part, run, chunk, lengths, kv_lengths, q_offset, last_seen, q, k, v, bias, q_segments, kv_segments, out, lse,
    m, m_before, shrink, l, acc, scores, values,
):  # fmt: skip
    reach = lengths, kv_lengths, q_offset
    b, in_run, c = pl.program_id(0), pl.program_id(3), pl.program_id(4)
    i = pl.program_id(2) * run + in_run
    begins, over = (in_run == 0) & (c == 0), in_run == run

    def by_sublane(x):
        """[k q] as [k/8 8 q]: what is folded along the first dim moves nothing between sublanes."""
        return x.reshape(-1, SUBLANES, x.shape[1])

    def step(j, masked: bool, scoring: bool = True, weighing: bool = True):
        """Makes the scores of tile (i, j), weighs the values of the tile before, and keeps those of this one."""
        here = tile_of(j - c * chunk, geometry.tile.k)
        k_tile, v_tile = k.at[here], v.at[here]
        bias_tile = None if bias is None else bias.at[here]
        segments = None if kv_segments is None else kv_segments.at[:, here]

        most = geometry.tile.k  # keys to score: where nothing but the end of the array hides any, a masked tile is the last
        if masked and not geometry.hiding:
            most = min(most, round_up(geometry.last_columns, ROWS))

        def score(queries: slice, keys: slice):
            s = product(k_tile[keys], q[queries], (1, 1))
            if bias is not None:
                s += bias_tile[keys, queries].astype(jnp.float32) * LOG2_E
            if masked and (geometry.hiding or keys.stop > geometry.last_columns):
                s = jnp.where(geometry.visible(reach, b, i, j, q_segments, segments, queries, keys), s, -jnp.inf)
            return s

        for queries in slices(geometry.tile.q, part.q):
            m_before[:, queries] = m_last = m[:, queries]
            m_start, decay = jnp.where(j == 0, LOWEST, m_last), shrink[:, queries]
            top = jnp.full((SUBLANES, m_last.shape[1]), LOWEST)
            if weighing:
                l[:, queries] *= decay
                acc[:, queries] *= decay
            for keys in slices(geometry.tile.k, part.k):
                before = scores[keys, queries]
                there = slice(keys.start, min(keys.stop, most))
                if scoring and there.start < there.stop:
                    scores[there, queries] = s = score(queries, there)
                    top = jnp.maximum(top, by_sublane(s).max(axis=0))
                if weighing:
                    p = jnp.exp2(before - m_last)
                    l[:, queries] += by_sublane(p).sum(axis=0)
                    acc[:, queries] += product(values[keys], p.astype(v.dtype), (0, 0))
            if scoring:
                if most < geometry.tile.k:
                    scores[most:, queries] = jnp.full((geometry.tile.k - most, m_last.shape[1]), -jnp.inf)
                m[:, queries] = m_next = jnp.maximum(m_start, top.max(axis=0, keepdims=True))
                shrink[:, queries] = jnp.exp2(m_start - m_next)
        if scoring:
            end, least = geometry.columns - j * geometry.tile.k, geometry.columns % geometry.tile.k
            values[...] = until(v_tile[...], end, least) if masked and least else v_tile[...]

    def start_row():
        l[...] = jnp.zeros_like(l)
        acc[...] = jnp.zeros_like(acc)

    def finish_row():
        """The row before."""
        total = l[...].sum(axis=0, keepdims=True)
        blind = total == 0
        if geometry.short_rows:
            row = jax.lax.broadcasted_iota(jnp.int32, total.shape, 1)
            blind |= row >= lengths[b] - (i - 1) * geometry.tile.q
        total = jnp.where(blind, 1, total)
        out[...] = (acc[...] * jnp.where(blind, 0, 1 / total)).astype(out.dtype).T
        lse[...] = jnp.where(blind, -jnp.inf, (m_before[...] + jnp.log2(total)) / LOG2_E)
        start_row()

    @pl.when(begins)
    def begin():
        step(0, geometry.hiding or geometry.ragged_columns and geometry.key_tiles == 1, weighing=False)
        start_row()

    start = c * chunk + begins.astype(jnp.int32)
    stop = jnp.minimum((c + 1) * chunk, geometry.key_tiles)
    if geometry.skipping:
        stop = jnp.minimum(stop, last_seen[b * geometry.query_tiles + jnp.where(over, 0, i)] + 1)
    stop = jnp.where(over, 0, stop)
    interior = jnp.clip(geometry.keys_interior(reach, b, i), start, stop)

    def visit(masked: bool, start, stop):
        @pl.loop(start, stop)
        def _(j):
            step(j, masked)
            pl.when(j == 0)(finish_row)

    visit(False, start, interior)
    if geometry.masked:
        visit(True, interior, stop)

    @pl.when(over & (c == 0))
    def end():
        step(0, False, scoring=False)
        finish_row()
