"""The backward kernels. With p = e^(scores − lse) and Δ = Σ_D do∘out − dlse (see blockwise.py for the equations):

    ds = p ∘ (do vᵀ − Δ)
    query_gradient   dq = scale · ds k           a tile of queries stays, keys and values stream
    key_gradient     dk = scale · dsᵀ q          a tile of keys stays, queries stream; scores are held transposed,
                     dv = pᵀ do                  so that lse and Δ broadcast as rows and no product needs a transpose
    bias_gradient    dbias = Σ_b ds              a tile of scores stays, the batch elements of its group stream

lse comes as +∞ for a query that sees no key, so that its p is 0.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from core_jax.attention.geometry import Geometry, product, row_to_column
from core_jax.attention.pallas_forward import LOG2_E


def query_gradient(operands, reach, geometry: Geometry, scale: float, vmem_limit: int):
    """dq, from operands (q, k, v, bias, q_segments, kv_segments, d_out, lse, delta); lse and delta are [B K 1 S]."""
    q, k = operands[:2]
    (batch, heads, _, dim), tile = q.shape, geometry.tile
    in_specs = _specs(operands, geometry, lambda b, h, i, j, reach: (b, h, i, geometry.key_tile(reach, b, i, j)))
    column = pltpu.VMEM((tile.q, 128), jnp.float32)
    return pl.pallas_call(
        functools.partial(_query_kernel, geometry, scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(batch, heads, geometry.query_tiles, geometry.key_tiles),
            in_specs=in_specs,
            out_specs=pl.BlockSpec((None, None, tile.q, dim), lambda b, h, i, j, *_: (b, h, i, 0)),
            scratch_shapes=[pltpu.VMEM((tile.q, dim), jnp.float32), column, column],
        ),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        compiler_params=_parameters(3, 1, vmem_limit),
        name="attention_dq",
    )(*reach, *operands)


def _query_kernel(
    geometry, scale, lengths, kv_lengths, q_offset, q, k, v, bias, q_segments, kv_segments, d_out, lse, delta,
    dq, acc, lse_column, delta_column,
):  # fmt: skip
    reach = lengths, kv_lengths, q_offset
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)

    @pl.when(j == 0)
    def start():
        acc[...] = jnp.zeros_like(acc)
        lse_column[...] = row_to_column(lse[...])
        delta_column[...] = row_to_column(delta[...])

    def step(masked: bool):
        visible = None
        keys = k[...]
        if masked:
            ids = (None, None) if q_segments is None else (row_to_column(q_segments[...])[:, :1], kv_segments[...])
            visible = geometry.visible(reach, b, i, j, *ids)
            keys = geometry.real_keys(reach, b, j, keys)
        scores = product(q[...], k[...], (1, 1)) * (scale * LOG2_E)
        tile_bias = None if bias is None else bias[...]
        d_weights = product(d_out[...], v[...], (1, 1))
        _, ds = _softmax_gradient(scores, tile_bias, lse_column[:, :1], d_weights, delta_column[:, :1], visible)
        acc[...] += product(ds.astype(keys.dtype), keys, (1, 0))

    geometry.visit(reach, b, i, j, step)

    @pl.when(j == geometry.key_tiles - 1)
    def finish():
        dq[...] = (acc[...] * scale).astype(dq.dtype)


def key_gradient(operands, reach, geometry: Geometry, scale: float, vmem_limit: int, dtype):
    """dk and dv in `dtype`, from the operands of query_gradient."""
    q, k = operands[:2]
    (batch, kv_heads, _, dim), tile = k.shape, geometry.tile
    repeats = q.shape[1] // kv_heads

    def index(b, h, j, r, i, reach):
        return b, h * repeats + r, geometry.query_tile(reach, b, i, j), j

    kv_spec = pl.BlockSpec((None, None, tile.k, dim), lambda b, h, j, r, i, *_: (b, h, j, 0))
    acc = pltpu.VMEM((tile.k, dim), jnp.float32)
    return pl.pallas_call(
        functools.partial(_key_kernel, geometry, scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(batch, kv_heads, geometry.key_tiles, repeats, geometry.query_tiles),
            in_specs=_specs(operands, geometry, index),
            out_specs=[kv_spec, kv_spec],
            scratch_shapes=[acc, acc],
        ),
        out_shape=[jax.ShapeDtypeStruct(k.shape, dtype)] * 2,
        compiler_params=_parameters(3, 2, vmem_limit),
        name="attention_dkv",
    )(*reach, *operands)


def _key_kernel(
    geometry, scale, lengths, kv_lengths, q_offset, q, k, v, bias, q_segments, kv_segments, d_out, lse, delta,
    dk, dv, dk_acc, dv_acc,
):  # fmt: skip
    reach = lengths, kv_lengths, q_offset
    b, j, r, i = pl.program_id(0), pl.program_id(2), pl.program_id(3), pl.program_id(4)

    @pl.when((r == 0) & (i == 0))
    def start():
        dk_acc[...] = jnp.zeros_like(dk_acc)
        dv_acc[...] = jnp.zeros_like(dv_acc)

    def step(masked: bool):
        visible = None
        queries, cotangents = q[...], d_out[...]
        if masked:
            ids = (None, None) if q_segments is None else (q_segments[...], row_to_column(kv_segments[...])[:, :1])
            visible = geometry.visible(reach, b, i, j, *ids, keys_first=True)
            queries, cotangents = (geometry.real_queries(reach, b, i, x) for x in (queries, cotangents))
        scores = product(k[...], queries, (1, 1)) * (scale * LOG2_E)
        tile_bias = None if bias is None else bias[...].T
        d_weights = product(v[...], cotangents, (1, 1))
        p, ds = _softmax_gradient(scores, tile_bias, lse[...], d_weights, delta[...], visible)
        dv_acc[...] += product(p.astype(cotangents.dtype), cotangents, (1, 0))
        dk_acc[...] += product(ds.astype(queries.dtype), queries, (1, 0))

    geometry.visit(reach, b, i, j, step)

    @pl.when((r == pl.num_programs(3) - 1) & (i == geometry.query_tiles - 1))
    def finish():
        dk[...] = (dk_acc[...] * scale).astype(dk.dtype)
        dv[...] = dv_acc[...].astype(dv.dtype)


def bias_gradient(operands, reach, geometry: Geometry, scale: float, vmem_limit: int):
    """dbias [G K S Skv] in fp32, from the operands of query_gradient."""
    q, k, _, bias = operands[:4]
    (groups, heads, _, _), tile = bias.shape, geometry.tile
    members = q.shape[0] // groups

    def index(g, h, i, j, n, reach):
        return g + n * groups, h, i, j

    return pl.pallas_call(
        functools.partial(_bias_kernel, geometry, scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(groups, heads, geometry.query_tiles, geometry.key_tiles, members),
            in_specs=_specs(operands, geometry, index),
            out_specs=pl.BlockSpec((None, None, tile.q, tile.k), lambda g, h, i, j, n, *_: (g, h, i, j)),
        ),
        out_shape=jax.ShapeDtypeStruct(bias.shape, jnp.float32),
        compiler_params=_parameters(4, 1, vmem_limit),
        name="attention_dbias",
    )(*reach, *operands)


def _bias_kernel(
    geometry, scale, lengths, kv_lengths, q_offset, q, k, v, bias, q_segments, kv_segments, d_out, lse, delta,
    dbias,
):  # fmt: skip
    reach = lengths, kv_lengths, q_offset
    i, j, n = pl.program_id(2), pl.program_id(3), pl.program_id(4)
    b = pl.program_id(0) + n * pl.num_programs(0)

    @pl.when(n == 0)
    def start():
        dbias[...] = jnp.zeros_like(dbias)

    def step(masked: bool):
        visible = None
        if masked:
            ids = (None, None) if q_segments is None else (row_to_column(q_segments[...])[:, :1], kv_segments[...])
            visible = geometry.visible(reach, b, i, j, *ids)
        scores = product(q[...], k[...], (1, 1)) * (scale * LOG2_E)
        d_weights = product(d_out[...], v[...], (1, 1))
        columns = row_to_column(lse[...])[:, :1], row_to_column(delta[...])[:, :1]
        dbias[...] += _softmax_gradient(scores, bias[...], columns[0], d_weights, columns[1], visible)[1]

    geometry.visit(reach, b, i, j, step)


def _softmax_gradient(scores, bias, lse, d_weights, delta, visible):
    """p and ds of one tile, from scores in base 2; lse and delta broadcast against it."""
    if bias is not None:
        scores += bias.astype(jnp.float32) * LOG2_E
    p = jnp.exp2(scores - lse * LOG2_E)
    ds = p * (d_weights - delta)
    if visible is not None:
        p, ds = jnp.where(visible, p, 0), jnp.where(visible, ds, 0)
    return p, ds


def _specs(operands, geometry: Geometry, index) -> list[pl.BlockSpec | None]:
    """Block specs of the operands; index maps the grid's indices to (batch element, head, query tile, key tile)."""
    q, k, _, bias, q_segments, *_ = operands
    dim, tile, repeats = q.shape[3], geometry.tile, q.shape[1] // k.shape[1]

    def spec(shape, pick):
        return pl.BlockSpec(shape, lambda *args: pick(*index(*args[:-3], args[-3:])))

    q_spec = spec((None, None, tile.q, dim), lambda b, h, i, j: (b, h, i, 0))
    kv_spec = spec((None, None, tile.k, dim), lambda b, h, i, j: (b, h // repeats, j, 0))
    row_spec = spec((None, None, 1, tile.q), lambda b, h, i, j: (b, h, 0, i))
    bias_spec = q_segment_spec = kv_segment_spec = None
    if bias is not None:
        bias_spec = spec((None, None, tile.q, tile.k), lambda b, h, i, j: (b % bias.shape[0], h, i, j))
    if q_segments is not None:
        q_segment_spec = spec((None, 1, tile.q), lambda b, h, i, j: (b, 0, i))
        kv_segment_spec = spec((None, 1, tile.k), lambda b, h, i, j: (b, 0, j))
    return [q_spec, kv_spec, kv_spec, bias_spec, q_segment_spec, kv_segment_spec, q_spec, row_spec, row_spec]


def _parameters(parallel: int, arbitrary: int, vmem_limit: int) -> pltpu.CompilerParams:
    semantics = ("parallel",) * parallel + ("arbitrary",) * arbitrary
    return pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=vmem_limit)
