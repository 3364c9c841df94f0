"""Attention whose tokens stay cut over the context axis: heads traded inside groups of neighbours, keys in a ring of groups.

Group g begins with its own block of keys and at hop h works on block g − h, whose successor is on its way meanwhile:

    forward    out, lse = merge of (out_h, lse_h) over the hops, fp32
    backward   each hop is the local backward pass under the lse and Δ of the whole; dq is summed at home, dk and dv follow
               their block one hop behind, in fp32, and a last hop brings them home

Under `causal` the later groups have more to do, and the others wait for them: videos attend both ways, so blocks are not
dealt out in turns.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.attention import blockwise, kernel
from core_jax.attention.context import Exchange
from core_jax.attention.implementation import Implementation
from core_jax.attention.mask import Mask
from core_jax.attention.sharded import Split, current_split, map_over_mesh
from core_jax.attention.softmax import gradient_offset, merge, named


@dataclasses.dataclass(frozen=True)
class Local:
    """Attention of one device over one block of keys, and its gradients under the lse and Δ of all blocks."""

    forward: Callable
    """(q, k, v, bias, mask, scale) → (out, lse)"""
    backward: Callable
    """(q, k, v, bias, mask, lse, Δ, d_out, scale, dtype of dk and dv) → (dq, dk, dv, dbias)"""


LOCAL = {
    Implementation.PALLAS: Local(kernel.run_forward, kernel.run_backward),
    Implementation.BLOCKWISE: Local(blockwise.run_forward, blockwise.run_backward),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def ring_attention(
    q: Float[Array, "B S K D"],
    k: Float[Array, "B Skv Kkv D"],
    v: Float[Array, "B Skv Kkv D"],
    mask: Mask,
    scale: float,
    local: Local,
    exchange: Exchange,
) -> tuple[Float[Array, "B S K D"], Float[Array, "B K S"]]:
    """out and lse as `attention` defines them, without a bias, on the current mesh."""
    return _forward(q, k, v, mask, scale, local, exchange)[0]


def _forward(q, k, v, mask, scale, local, exchange):
    split = _split(q, k)

    def shard(q, k, v, mask):
        ring = _Ring(exchange, mask)
        q, k, v = (ring.by_head(x) for x in (q, k, v))

        def attend(block, hop):
            return local.forward(q, *block, None, ring.mask(hop, q, k), scale)

        def step(carry, hop):
            block, total = carry
            return (ring.next(block), merge(total, attend(block, hop))), None

        nothing = jnp.zeros(q.shape, jnp.float32), jnp.full((q.shape[0], q.shape[2], q.shape[1]), -jnp.inf)
        (block, total), _ = jax.lax.scan(step, ((k, v), nothing), jnp.arange(exchange.hops - 1))
        part = attend(block, exchange.hops - 1)
        out, lse = part if exchange.hops == 1 else merge(total, part)
        return ring.by_token(out.astype(q.dtype)), ring.by_token(lse, heads=1, tokens=2)

    out, lse = map_over_mesh(split, shard, _in_specs(split, mask), (split.by_query, split.lse))(q, k, v, mask)
    out, lse = named(out, lse, k.shape[1])
    return (out, lse), (q, k, v, mask, out, lse)


def _backward(scale, local, exchange, residuals, cotangents):
    q, k, v, mask, *_ = residuals
    split = _split(q, k)

    def shard(q, k, v, mask, out, lse, d_out, d_lse):
        ring = _Ring(exchange, mask)
        delta = gradient_offset(out, lse, d_out, d_lse)
        q, k, v, d_out = (ring.by_head(x) for x in (q, k, v, d_out))
        lse, delta = (ring.by_head(x, heads=1, tokens=2) for x in (lse, delta))
        sum_dtype = k.dtype if exchange.hops == 1 else jnp.float32

        def differentiate(block, hop):
            dq, dk, dv, _ = local.backward(q, *block, None, ring.mask(hop, q, k), lse, delta, d_out, scale, sum_dtype)
            return dq.astype(sum_dtype), (dk, dv)

        def step(carry, hop):
            block, dq, d_block = carry
            arriving = ring.next(d_block)
            dq_part, d_part = differentiate(block, hop)
            return (ring.next(block), dq + dq_part, jax.tree.map(jnp.add, arriving, d_part)), None

        # the loop's last (k, v) go round for nothing: to stop them, the kernels would have to stand in the program a third time
        first = ring.next((k, v)), *differentiate((k, v), 0)
        (_, dq, d_block), _ = jax.lax.scan(step, first, jnp.arange(1, exchange.hops))
        dk, dv = ring.next(tuple(x.astype(k.dtype) for x in d_block))
        return tuple(ring.by_token(x) for x in (dq.astype(q.dtype), dk, dv))

    in_specs = *_in_specs(split, mask), split.by_query, split.lse, split.by_query, split.lse
    return *map_over_mesh(split, shard, in_specs, (split.by_query,) * 3)(*residuals, *cotangents), None


ring_attention.defvjp(_forward, _backward)


def _split(q, k) -> Split:
    return current_split(*q.shape[:3], k.shape[2], 1)


def _in_specs(split: Split, mask: Mask) -> tuple:
    """Of q, k, v and the mask, whose segment ids every device holds whole: they are small, and each hop reads others."""
    return *(split.by_query,) * 3, dataclasses.replace(split, queries=()).mask(mask)


@dataclasses.dataclass(frozen=True)
class _Ring:
    """What one device does in an exchange; `whole` is the mask of all tokens."""

    exchange: Exchange
    whole: Mask

    def by_head(self, x, heads: int = 2, tokens: int = 1):
        """From a device's tokens of all its heads to its group's tokens of some of them."""
        return self._trade(x, heads, tokens)

    def by_token(self, x, heads: int = 2, tokens: int = 1):
        """The inverse of `by_head`."""
        return self._trade(x, tokens, heads)

    def _trade(self, x, split: int, concat: int):
        group, hops = self.exchange.group, self.exchange.hops
        if group == 1:
            return x
        groups = [[g * group + i for i in range(group)] for g in range(hops)]
        return jax.lax.all_to_all(x, self.exchange.axis, split, concat, axis_index_groups=groups, tiled=True)

    def next(self, block: tuple):
        """The block of the group before."""
        group, hops = self.exchange.group, self.exchange.hops
        places = [(i, (i + group) % (group * hops)) for i in range(group * hops)]
        return block if hops == 1 else jax.lax.ppermute(block, self.exchange.axis, places)

    def mask(self, hop: int, q, k) -> Mask:
        """The mask as the queries and the block of keys see it that meet in this group at this hop."""
        here = jax.lax.axis_index(self.exchange.axis) // self.exchange.group
        there = (here - hop) % self.exchange.hops
        return self.whole.part(here * q.shape[1], q.shape[1], there * k.shape[1], k.shape[1])
