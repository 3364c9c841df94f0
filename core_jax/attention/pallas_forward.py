"""The forward kernel: a tile of queries stays, tiles of keys and values stream past it.

The online softmax of blockwise.py in base 2: with c = scale · log₂e, p = 2^(c·s − m), and lse = (m + log₂ l) · ln 2.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from core_jax.attention.geometry import Geometry, column_to_row, product, row_to_column

LOG2_E = math.log2(math.e)
LOWEST = -1e30  # finite, so that a tile whose keys are all hidden from a query leaves 2^(−∞ − m) = 0


def forward(q, k, v, bias, q_segments, kv_segments, reach, geometry: Geometry, scale: float, vmem_limit: int):
    """out [B K S D] and lse [B K 1 S] of q [B K S D] and k, v [B Kkv Skv D].

    bias [G K S Skv], q_segments [B 1 S] and kv_segments [B 1 Skv] may be None; `reach` as in Geometry.
    """
    batch, heads, rows, dim = q.shape
    repeats, tile = heads // k.shape[1], geometry.tile

    def keys(b, h, i, j, *reach):
        return b, h // repeats, geometry.key_tile(reach, b, i, j), 0

    def bias_tile(b, h, i, j, *reach):
        return b % bias.shape[0], h, i, geometry.key_tile(reach, b, i, j)

    def key_segments(b, h, i, j, *reach):
        return b, 0, geometry.key_tile(reach, b, i, j)

    q_spec = pl.BlockSpec((None, None, tile.q, dim), lambda b, h, i, j, *_: (b, h, i, 0))
    kv_spec = pl.BlockSpec((None, None, tile.k, dim), keys)
    in_specs = [
        q_spec, kv_spec, kv_spec,
        None if bias is None else pl.BlockSpec((None, None, tile.q, tile.k), bias_tile),
        None if q_segments is None else pl.BlockSpec((None, 1, tile.q), lambda b, h, i, j, *_: (b, 0, i)),
        None if q_segments is None else pl.BlockSpec((None, 1, tile.k), key_segments),
    ]  # fmt: skip
    column = pltpu.VMEM((tile.q, 128), jnp.float32)
    return pl.pallas_call(
        functools.partial(_kernel, geometry, scale),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(batch, heads, geometry.query_tiles, geometry.key_tiles),
            in_specs=in_specs,
            out_specs=[q_spec, pl.BlockSpec((None, None, 1, tile.q), lambda b, h, i, j, *_: (b, h, 0, i))],
            scratch_shapes=[column, column, pltpu.VMEM((tile.q, dim), jnp.float32)],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((batch, heads, 1, rows), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"), vmem_limit_bytes=vmem_limit
        ),
        name="attention_forward",
    )(*reach, q, k, v, bias, q_segments, kv_segments)


def _kernel(
    geometry, scale, lengths, kv_lengths, q_offset, q, k, v, bias, q_segments, kv_segments, out, lse, m, l, acc
):
    reach = lengths, kv_lengths, q_offset
    b, i, j = pl.program_id(0), pl.program_id(2), pl.program_id(3)

    @pl.when(j == 0)
    def start():
        m[...] = jnp.full_like(m, LOWEST)
        l[...] = jnp.zeros_like(l)
        acc[...] = jnp.zeros_like(acc)

    def step(masked: bool):
        scores = product(q[...], k[...], (1, 1)) * (scale * LOG2_E)
        if bias is not None:
            scores += bias[...].astype(jnp.float32) * LOG2_E
        values = v[...]
        if masked:
            ids = (None, None) if q_segments is None else (row_to_column(q_segments[...])[:, :1], kv_segments[...])
            scores = jnp.where(geometry.visible(reach, b, i, j, *ids), scores, -jnp.inf)
            values = geometry.real_keys(reach, b, j, values)
        m_next = jnp.maximum(m[...], scores.max(axis=1, keepdims=True))
        p, shrink = jnp.exp2(scores - m_next[:, :1]), jnp.exp2(m[...] - m_next)
        m[...] = m_next
        l[...] = l[...] * shrink + p.sum(axis=1, keepdims=True)
        acc[...] = acc[...] * shrink[:, :1] + product(p.astype(values.dtype), values, (1, 0))

    geometry.visit(reach, b, i, j, step)

    @pl.when(j == geometry.key_tiles - 1)
    def finish():
        total = l[...]
        blind = total == 0
        inverse = jnp.where(blind, 0, 1 / jnp.where(blind, 1, total))
        out[...] = (acc[...] * inverse[:, :1]).astype(out.dtype)
        logs = (m[...] + jnp.log2(jnp.where(blind, 1, total))) / LOG2_E
        lse[...] = column_to_row(jnp.where(blind, -jnp.inf, logs))
