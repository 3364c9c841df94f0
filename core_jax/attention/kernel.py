"""The TPU kernel as one differentiable function."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from core_jax.attention import pallas_backward, pallas_forward
from core_jax.attention.geometry import Geometry
from core_jax.attention.mask import Mask
from core_jax.attention.pallas_forward import LOG2_E
from core_jax.attention.sharded import Split, add_over, current_split, map_over_mesh
from core_jax.attention.softmax import gradient_offset, named
from core_jax.attention.tiles import LANES, PART, Tile, Tiles, even_chunk, plan, query_block


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def pallas_attention(
    q: Float[Array, "B S K D"],
    k: Float[Array, "B Skv Kkv D"],
    v: Float[Array, "B Skv Kkv D"],
    bias: Float[Array, "G K S Skv"] | None,
    mask: Mask,
    scale: float,
    tiles: Tiles | None = None,
) -> tuple[Float[Array, "B S K D"], Float[Array, "B K S"]]:
    """Attention by the TPU kernel, with tiles planned for the current chip unless they are given."""
    return _forward(q, k, v, bias, mask, scale, tiles)[0]


def _forward(q, k, v, bias, mask, scale, tiles):
    split = _split(q, k, bias)

    def local(q, k, v, bias, mask):
        mask = split.local_mask(mask, q.shape[1])
        return run_forward(q, k, v, bias, mask, scale, tiles)

    in_specs = split.by_query, split.by_key, split.by_key, split.bias, split.mask(mask)
    out, lse = map_over_mesh(split, local, in_specs, (split.by_query, split.lse))(q, k, v, bias, mask)
    out, lse = named(out, lse, k.shape[1])
    return (out, lse), (q, k, v, bias, mask, out, lse)


def _backward(scale, tiles, residuals, cotangents):
    q, k, v, bias, mask, *_ = residuals
    split = _split(q, k, bias)

    def local(q, k, v, bias, mask, out, lse, d_out, d_lse):
        mask = split.local_mask(mask, q.shape[1])
        delta = gradient_offset(out, lse, d_out, d_lse)
        sum_dtype = jnp.float32 if split.queries else k.dtype
        dq, dk, dv, dbias = run_backward(q, k, v, bias, mask, lse, delta, d_out, scale, sum_dtype, tiles)
        dk, dv = (add_over(split.queries, x).astype(k.dtype) for x in (dk, dv))
        return dq.astype(q.dtype), dk, dv, None if bias is None else add_over(split.batch, dbias).astype(bias.dtype)

    out_specs = split.by_query, split.by_key, split.by_key, split.bias
    in_specs = *out_specs, split.mask(mask), split.by_query, split.lse, split.by_query, split.lse
    return *map_over_mesh(split, local, in_specs, out_specs)(*residuals, *cotangents), None


pallas_attention.defvjp(_forward, _backward)


def _split(q, k, bias) -> Split:
    return current_split(*q.shape[:3], k.shape[2], 1 if bias is None else bias.shape[0])


@jax.enable_x64(False)
def run_forward(q, k, v, bias, mask: Mask, scale: float, tiles: Tiles | None = None):
    """out and lse of one device's part of the call."""
    tiles = tiles or planned(q, k, bias)
    tile = tiles.forward
    geometry, reach, segments = _describe(q, k, mask, tile)
    q, k, v, bias = _scaled(q, scale), k.swapaxes(1, 2), v.swapaxes(1, 2), _keys_first(bias)
    chunk = even_chunk(geometry.key_tiles, tiles.key_chunk)
    out, lse = pallas_forward.forward(q, k, v, bias, *segments, reach, geometry, tiles.part, chunk, _vmem(), _cores())
    return out.swapaxes(1, 2), lse[:, :, 0]


@jax.enable_x64(False)
def run_backward(q, k, v, bias, mask: Mask, lse, delta, d_out, scale: float, sum_dtype, tiles: Tiles | None = None):
    """dq, dk, dv in sum_dtype and dbias in fp32 (None without a bias) of one device's part."""
    tiles = tiles or planned(q, k, bias)
    tile = tiles.backward
    geometry, reach, segments = _describe(q, k, mask, tile)
    (_, rows, heads, dim), kv_heads = q.shape, k.shape[2]
    lse = jnp.where(jnp.isneginf(lse), jnp.inf, lse * LOG2_E)
    q, bias = _scaled(q, scale), _keys_first(bias)
    k, v, d_out = (x.swapaxes(1, 2) for x in (k, v, d_out))
    operands = q, k, v, bias, *segments, d_out, lse[:, :, None], delta[:, :, None]

    chunk, bias_bytes = even_chunk(geometry.query_tiles, tiles.query_chunk), 0 if bias is None else bias.dtype.itemsize
    block = query_block(geometry.query_tiles, heads // kv_heads, dim, q.dtype, tile, chunk, _vmem(), bias_bytes)

    def visit(sums, first):
        dq, *sums = pallas_backward.gradients(operands, sums, first, reach, scale, geometry, block, chunk, tiles.turned, sum_dtype, _vmem())
        return sums, dq

    if block >= geometry.query_tiles:
        (dk, dv), dq = visit((None, None), jnp.zeros(1, jnp.int32))
    else:
        firsts = jnp.arange(0, geometry.query_tiles, block, dtype=jnp.int32)[:, None]
        nothing = jnp.zeros((*k.shape[:2], geometry.key_tiles * tile.k, dim), jnp.float32)
        (dk, dv), dq = jax.lax.scan(visit, [nothing] * 2, firsts)
        dq = jnp.moveaxis(dq, 0, 2).reshape(*dq.shape[1:3], -1, dim)[:, :, :rows]  # the blocks one after the other
        dk, dv = (x[:, :, : k.shape[2]].astype(sum_dtype) for x in (dk, dv))
    dq, dk, dv = (x.swapaxes(1, 2) for x in (dq, dk, dv))
    if bias is None:
        return dq, dk, dv, None
    dbias = pallas_backward.bias_gradient(operands, reach, geometry, _vmem())
    return dq, dk, dv, dbias.swapaxes(2, 3)


def _describe(q, k, mask: Mask, tile: Tile) -> tuple[Geometry, tuple, tuple]:
    """What the kernels need to know of a call: its geometry, the scalars in SMEM, and segment ids as rows."""
    (batch, rows, *_), columns = q.shape, k.shape[1]
    geometry = Geometry(
        rows,
        columns,
        tile,
        causal=mask.causal,
        segmented=mask.segments is not None,
        short_rows=mask.lengths is not None,
        short_columns=mask.kv_lengths is not None,
        skipping=mask.causal or mask.lengths is not None or mask.kv_lengths is not None,
    )
    lengths = jnp.full(batch, rows) if mask.lengths is None else jnp.clip(mask.lengths, 0, rows)
    kv_lengths = jnp.full(batch, columns) if mask.kv_lengths is None else jnp.clip(mask.kv_lengths, 0, columns)
    reach = tuple(jnp.asarray(x, jnp.int32) for x in (lengths, kv_lengths, jnp.reshape(mask.q_offset, 1)))
    if mask.segments is None:
        return geometry, reach, (None, None)
    return geometry, reach, tuple(ids[:, None].astype(jnp.int32) for ids in (mask.segments, mask.kv_segments))


def _scaled(q, scale: float):
    """Queries by head, [B K S D], times scale · log₂e: the kernels' exponentials are powers of two."""
    return (q.astype(jnp.float32) * (scale * LOG2_E)).astype(q.dtype).swapaxes(1, 2)


def _keys_first(bias):
    return None if bias is None else bias.swapaxes(2, 3)


def planned(q, k, bias=None) -> Tiles:
    """The tiles of a call on the chip of the current mesh."""
    return plan(q.shape[1], k.shape[1], q.shape[3], q.dtype, _vmem(), _mxu(), 0 if bias is None else bias.dtype.itemsize, _part())


def _mxu() -> int:
    """Columns of a matrix unit."""
    return pltpu.get_tpu_info().mxu_column_size if pltpu.is_tpu_device() else LANES


def _part() -> Tile:
    """The scores that the forward pass does well to work off at a time, as compiled schedules say."""
    generation = pltpu.get_tpu_info().generation if pltpu.is_tpu_device() else 5
    return {6: Tile(256, 256), 7: Tile(512, 512)}.get(generation, PART)


def _cores() -> int:
    """TensorCores of a device, which share out a kernel's parallel dims."""
    return pltpu.get_tpu_info().num_cores if pltpu.is_tpu_device() else 1


def _vmem() -> int:
    """The vector memory that a kernel may use: three quarters of the chip's, for XLA keeps some across the call.

    Interpret mode has no chip and takes the figure of the smallest one in service.
    """
    chip = pltpu.get_tpu_info().vmem_capacity_bytes if pltpu.is_tpu_device() else 64 * 2**20
    return chip // 4 * 3
