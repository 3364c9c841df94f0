"""The backward kernels. With p = e^(scores − lse) and Δ = Σ_D do∘out − dlse (see blockwise.py for the equations):

    ds = p ∘ (do vᵀ − Δ)
    gradients        dv = pᵀ do                  a tile of keys stays, queries stream past it by the chunk; dq waits in VMEM for a whole
                     dk = scale · dsᵀ q          block of queries until all keys have passed. Five products and one softmax a tile.
                     dq = scale · ds k
    bias_gradient    dbias = Σ_b ds              a tile of scores stays, the batch elements of its group stream

Scores lie keys first, so that lse and Δ broadcast as rows. The gradients come transposed, dqᵀ = kᵀ dsᵀ, dkᵀ = qᵀ ds and dvᵀ = doᵀ p:
the matrix units then hold tiles of scores, which fill 256 columns at any head dim; they are turned as they are written. For dk and dv a unit
turns the scores that it takes in. Where that takes longer than the head's rows to pass through (`turned`), they are turned on their way to VMEM.
Queries come multiplied by scale · log₂e, lse by log₂e, with +∞ for a query that sees no key, so that its p is 0.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from core_jax.attention.geometry import Geometry, product, tile_of, until
from core_jax.attention.pallas_forward import LOG2_E, parameters


def gradients(operands, sums, first, reach, scale: float, geometry: Geometry, block: int, chunk: int, turned: bool, dtype, vmem_limit: int):
    """Of one block of queries: dq [B K block·tile.q D] (or [B K S D]) in `dtype`, and what dk and dv [B Kkv Skv D] have become, as `sums`
    or, where this block is the only one, in `dtype`.

    The operands are (q, k, v, bias, q_segments, kv_segments, d_out, lse, delta); lse and delta are [B K 1 S], bias
    [G K Skv S]. `sums` are dk and dv over the blocks before, whole tiles of fp32, (None, None) for the only one. The block starts at query
    tile `first` [1] and has `block` tiles, of which a step takes a `chunk`; both are whole chunks.
    """
    q, k = operands[:2]
    (batch, heads, rows, dim), kv_heads, tile = q.shape, k.shape[1], geometry.tile
    repeats, last = heads // kv_heads, geometry.key_tiles - 1

    def index(b, h, j, r, c, first, *reach):
        """A step that has nothing to do asks for the chunk that is needed before it or after it."""
        start, stop = geometry.queries_seeing(reach, b, j)
        return b, h * repeats + r, jnp.clip(first[0] + c * chunk, start, jnp.maximum(stop - 1, 0)) // chunk, j

    def query_chunk(b, h, j, r, c, *_):
        """Where a chunk of dq goes: nowhere until the last tile of keys."""
        return b, h * repeats + jnp.where(j == last, r, 0), jnp.where(j == last, c, 0), 0

    kv_spec = pl.BlockSpec((None, None, tile.k, dim), lambda b, h, j, r, c, *_: (b, h, j, 0))
    sum_specs = [None if x is None else kv_spec for x in sums]
    shapes = (repeats * block, dim, tile.q), (dim, tile.k), (dim, tile.k)
    turned_shapes = [pltpu.VMEM((tile.q, tile.k), x.dtype) for x in (operands[6], q)] if turned else []
    kv_length, kv_dtype = (geometry.columns, dtype) if sums[0] is None else (sums[0].shape[2], jnp.float32)
    kv_shape = jax.ShapeDtypeStruct((batch, kv_heads, kv_length, dim), kv_dtype)
    inputs = first, *reach, *operands
    sum_places = range(n := sum(x is not None for x in inputs), n + sum(x is not None for x in sums))
    return pl.pallas_call(
        functools.partial(_kernel, geometry, block, chunk, scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=4,
            grid=(batch, kv_heads, geometry.key_tiles, repeats, block // chunk),
            in_specs=[*_specs(operands, geometry, index, chunk), *sum_specs],
            out_specs=[pl.BlockSpec((None, None, chunk * tile.q, dim), query_chunk), kv_spec, kv_spec],
            scratch_shapes=[pltpu.VMEM((dim, tile.k), k.dtype), *(pltpu.VMEM(shape, jnp.float32) for shape in shapes), *turned_shapes],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((batch, heads, min(block * tile.q, rows), dim), dtype),
            kv_shape,
            kv_shape,
        ],
        input_output_aliases=dict(zip(sum_places, (1, 2))),  # the sums grow in place
        compiler_params=parameters(2, 3, vmem_limit),
        name="attention_backward",
    )(*inputs, *sums)


def _kernel(
    geometry, block, chunk, scale, first, lengths, kv_lengths, q_offset, q, k, v, bias, q_segments, kv_segments, d_out, lse, delta,
    dk_sum, dv_sum, dq, dk, dv, k_transposed, dq_acc, dk_acc, dv_acc, *turned,
):  # fmt: skip
    reach = lengths, kv_lengths, q_offset
    b, j, r, c = pl.program_id(0), pl.program_id(2), pl.program_id(3), pl.program_id(4)
    start = first[0] + c * chunk  # the first tile of this chunk
    place = r * block + c * chunk

    def keys(x, ragged: bool):
        """k or v without what lies past the end."""
        end, least = geometry.columns - j * geometry.tile.k, geometry.columns % geometry.tile.k
        return until(x[...], end, least) if ragged else x[...]

    @pl.when((r == 0) & (c == 0))
    def start_keys():
        dk_acc[...] = jnp.zeros_like(dk_acc)
        dv_acc[...] = jnp.zeros_like(dv_acc)
        k_transposed[...] = keys(k, geometry.ragged_columns).T

    @pl.when(j == 0)
    def start_queries():
        dq_acc[pl.ds(place, chunk)] = jnp.zeros((chunk, *dq_acc.shape[1:]), jnp.float32)

    def step(i, masked: bool):
        here, ragged = tile_of(i - start, geometry.tile.q), masked and geometry.ragged_rows
        end, least = geometry.rows - i * geometry.tile.q, geometry.rows % geometry.tile.q

        def queries(x):
            """q or d_out. What two products read is read twice: registers are scarcer than reads."""
            return until(x[here], end, least) if ragged else x[here]

        def row(x, fill):
            return until(x[:, here], end, dim=1, fill=fill) if ragged else x[:, here]

        def weigh(x, scores, turned=None):
            """xᵀ scoresᵀ, of q or d_out."""
            if turned is None:
                return product(queries(x).T, scores, (1, 1))
            turned[...] = scores.T
            return product(queries(x).T, turned[...], (1, 0))

        bias_tile, q_ids = (None if x is None else x.at[:, here] for x in (bias, q_segments))
        visible = geometry.visible(reach, b, i, j, q_ids, kv_segments, ends=True) if masked else None
        values = keys(v, masked and geometry.ragged_columns)
        p, ds = _softmax_gradient(queries(q), k[...], values, bias_tile, queries(d_out), row(lse, jnp.inf), row(delta, 0), visible)
        p, ds = p.astype(d_out.dtype), ds.astype(q.dtype)
        dv_acc[...] += weigh(d_out, p, *turned[:1])
        dk_acc[...] += weigh(q, ds, *turned[1:])
        dq_acc[place + i - start] += product(k_transposed[...], ds, (1, 0))

    seen = [jnp.clip(i, start, start + chunk) for i in geometry.queries_seeing(reach, b, j)]
    interior = [jnp.clip(i, *seen) for i in geometry.queries_interior(reach, b, j)]
    before, inside = interior[0] - seen[0], jnp.maximum(interior[1] - interior[0], 0)
    pl.loop(0, inside)(lambda n: step(interior[0] + n, False))
    if geometry.masked or geometry.ragged_rows:
        boundary = jnp.maximum(seen[1] - seen[0], 0) - inside
        pl.loop(0, boundary)(lambda n: step(seen[0] + n + jnp.where(n < before, 0, inside), True))

    @pl.when(j == geometry.key_tiles - 1)
    def finish_queries():
        for n in range(chunk):
            dq[pl.ds(n * geometry.tile.q, geometry.tile.q)] = (dq_acc[place + n] * scale).astype(dq.dtype).T

    @pl.when((r == pl.num_programs(3) - 1) & (c == pl.num_programs(4) - 1))
    def finish_keys():
        for total, acc, before in (dk, dk_acc[...] / LOG2_E, dk_sum), (dv, dv_acc[...], dv_sum):
            mine = acc.astype(total.dtype).T
            total[...] = mine if before is None else before[...] + mine


def bias_gradient(operands, reach, geometry: Geometry, vmem_limit: int):
    """dbias [G K Skv S] in fp32, from the operands of `gradients`."""
    q, k, _, bias = operands[:4]
    (groups, heads, _, _), tile = bias.shape, geometry.tile
    members = q.shape[0] // groups

    def index(g, h, i, j, n, *reach):
        return g + n * groups, h, i, j

    return pl.pallas_call(
        functools.partial(_bias_kernel, geometry),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(groups, heads, geometry.query_tiles, geometry.key_tiles, members),
            in_specs=_specs(operands, geometry, index),
            out_specs=pl.BlockSpec((None, None, tile.k, tile.q), lambda g, h, i, j, n, *_: (g, h, j, i)),
        ),
        out_shape=jax.ShapeDtypeStruct(bias.shape, jnp.float32),
        compiler_params=parameters(4, 1, vmem_limit),
        name="attention_dbias",
    )(*reach, *operands)


def _bias_kernel(
    geometry, lengths, kv_lengths, q_offset, q, k, v, bias, q_segments, kv_segments, d_out, lse, delta, dbias,
):  # fmt: skip
    reach = lengths, kv_lengths, q_offset
    i, j, n = pl.program_id(2), pl.program_id(3), pl.program_id(4)
    b = pl.program_id(0) + n * pl.num_programs(0)

    @pl.when(n == 0)
    def start():
        dbias[...] = jnp.zeros_like(dbias)

    def step(masked: bool):
        visible = geometry.visible(reach, b, i, j, q_segments, kv_segments) if masked else None
        dbias[...] += _softmax_gradient(q[...], k[...], v[...], bias, d_out[...], lse[...], delta[...], visible)[1]

    seen, interior = j < geometry.keys_seen(reach, b, i), j < geometry.keys_interior(reach, b, i)
    pl.when(seen & interior)(lambda: step(False))
    if geometry.masked:
        pl.when(seen & jnp.logical_not(interior))(lambda: step(True))


def _softmax_gradient(q, k, v, bias, d_out, lse, delta, visible):
    """p and ds of one tile, keys first."""
    scores = product(k, q, (1, 1))
    if bias is not None:
        scores += bias[...].astype(jnp.float32) * LOG2_E
    if visible is not None:
        scores = jnp.where(visible, scores, -jnp.inf)
    p = jnp.exp2(scores - lse)
    return p, p * (product(v, d_out, (1, 1)) - delta)


def _specs(operands, geometry: Geometry, index, chunk: int = 1) -> list[pl.BlockSpec | None]:
    """Block specs of the operands; index maps the grid's indices to (batch element, head, chunk of query
    tiles, key tile)."""
    q, k, _, bias, q_segments, *_ = operands
    dim, tile, repeats = q.shape[3], geometry.tile, q.shape[1] // k.shape[1]

    queries = chunk * tile.q

    def spec(shape, pick):
        return pl.BlockSpec(shape, lambda *args: pick(*index(*args)))

    q_spec = spec((None, None, queries, dim), lambda b, h, i, j: (b, h, i, 0))
    kv_spec = spec((None, None, tile.k, dim), lambda b, h, i, j: (b, h // repeats, j, 0))
    row_spec = spec((None, None, 1, queries), lambda b, h, i, j: (b, h, 0, i))
    bias_spec = q_segment_spec = kv_segment_spec = None
    if bias is not None:
        bias_spec = spec((None, None, tile.k, queries), lambda b, h, i, j: (b % bias.shape[0], h, j, i))
    if q_segments is not None:
        q_segment_spec = spec((None, 1, queries), lambda b, h, i, j: (b, 0, i))
        kv_segment_spec = spec((None, 1, tile.k), lambda b, h, i, j: (b, 0, j))
    return [q_spec, kv_spec, kv_spec, bias_spec, q_segment_spec, kv_segment_spec, q_spec, row_spec, row_spec]

