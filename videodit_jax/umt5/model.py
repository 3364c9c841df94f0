"""The encoder of UMT5: blocks of attention with relative positions, each of its own, and gated MLPs.

  x ← x + W_o·Attention(RMS(x)),   scores q·k (not divided by √D) + a bias for each head by how far apart query and key stand
  x ← x + W_down·(gelu(W_gate·RMS(x)) ∘ W_up·RMS(x))
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from core_jax.attention import attention
from core_jax.layers import Linear, RMSNorm
from core_jax.rngs import Rngs
from core_jax.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Umt5Config:
    """Sizes; the defaults are UMT5-XXL's."""

    vocabulary: int = 256_384
    """V"""
    width: int = 4096
    """E"""
    layers: int = 24
    """L"""
    heads: int = 64
    """K"""
    head_dim: int = 64
    """D"""
    mlp: int = 10_240
    """F"""
    buckets: int = 32
    """of distances: half for keys before the query, half for those behind it"""
    farthest: int = 128
    """tokens apart from which on the last bucket holds"""
    eps: float = 1e-6
    """of the RMS norms"""


def buckets(length: int, number: int, farthest: int) -> np.ndarray:
    """(S, S): the bucket of each key as each query sees it. Of a half's buckets the first half hold one distance each, the others wider and wider
    ranges, even in the logarithm."""
    far = np.arange(length)[None] - np.arange(length)[:, None]
    half, exact, distance = number // 2, number // 4, np.abs(far)
    ratio = np.log(np.maximum(distance, exact).astype(np.float32) / exact) / np.log(farthest / exact)
    wide = np.minimum(exact + (ratio * (half - exact)).astype(int), half - 1)
    return np.where(far > 0, half, 0) + np.where(distance < exact, distance, wide)


class Block(nnx.Module):
    """The two lines at the top of this file."""

    def __init__(self, c: Umt5Config, *, rngs: Rngs):
        per_head = (c.heads, c.head_dim)
        self.config = c
        self.attention_norm, self.mlp_norm = RMSNorm(c.width, c.eps), RMSNorm(c.width, c.eps)
        self.q, self.k, self.v = (Linear((c.width,), per_head, "E K D", bias=False, rngs=rngs) for _ in range(3))
        self.out = Linear(per_head, (c.width,), "K D E", bias=False, rngs=rngs)
        self.places = nnx.Param(jnp.zeros((c.buckets, c.heads)), dims="n K")
        self.gate, self.up = (Linear((c.width,), (c.mlp,), "E F", bias=False, rngs=rngs) for _ in range(2))
        self.down = Linear((c.mlp,), (c.width,), "F E", bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "B N E"], lengths: Int[Array, "B"]) -> Float[Array, "B N E"]:
        at = buckets(x.shape[1], self.config.buckets, self.config.farthest)
        bias = jnp.moveaxis(self.places[...].astype(jnp.float32)[at], -1, 0)[None]
        y = self.attention_norm(x)
        q, k, v = (constrain(project(y), "B N K D") for project in (self.q, self.k, self.v))
        x = x + self.out(attention(q, k, v, kv_lengths=lengths, bias=bias, scale=1.0))
        y = self.mlp_norm(x)
        return constrain(x + self.down(jax.nn.gelu(self.gate(y), approximate=True) * self.up(y)), "B N E")


class Umt5(nnx.Module):
    """Tokens to features."""

    def __init__(self, config: Umt5Config, *, rngs: Rngs):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (config.vocabulary, config.width)), dims="V E")
        keys = jax.random.split(rngs.params(), config.layers)
        self.blocks = jax.vmap(lambda key: Block(config, rngs=Rngs(key)))(keys)
        self.norm = RMSNorm(config.width, config.eps)

    def __call__(self, tokens: Int[Array, "B N"], lengths: Int[Array, "B"]) -> Float[Array, "B N E"]:
        """Features of the tokens, in the dtype of the weights; those at places ≥ lengths[b] mean nothing."""
        x = constrain(self.embedding[...][tokens], "B N E")
        return self.norm(jax.lax.scan(lambda x, block: (block(x, lengths), None), x, self.blocks)[0])
