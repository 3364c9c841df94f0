"""The causal decoder: pre-norm blocks, rotary positions, grouped key-value heads, SwiGLU.

  x ← x + Attention(norm(x))        x ← x + MLP(norm(x)),   MLP(x) = down(silu(gate(x)) ∘ up(x))

Layers are stacked, weights and cache alike, and scanned: a compiler sees one, however many there are. For tokens that come one by one
on a CPU `ready` takes them apart again.
"""
import copy
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from core_jax.attention import Context, attention
from core_jax.layers import Linear, RMSNorm, layer_norm, precision, rotate
from core_jax.lmm.cache import Cache, place
from core_jax.lmm.config import DecoderConfig
from core_jax.lmm.rows import by_rows
from core_jax.mesh import platform
from core_jax.remat import Remat
from core_jax.rngs import Rngs
from core_jax.sharding import constrain


class HeadLayerNorm(nnx.Module):
    """Zero mean, unit variance within each head, a scale and an offset for each head (Chameleon's QK-norm)."""

    def __init__(self, heads: int, head_dim: int):
        self.scale = nnx.Param(jnp.ones((heads, head_dim)), dims="K D")
        self.offset = nnx.Param(jnp.zeros((heads, head_dim)), dims="K D")

    def __call__(self, x: Float[Array, "B S K D"]) -> Float[Array, "B S K D"]:
        y = layer_norm(x.astype(jnp.float32), 1e-5) * self.scale[...][None, None] + self.offset[...][None, None]
        return y.astype(x.dtype)


def _rows(cache: Cache | None, last: Int[Array, "B"] | None = None) -> str:
    """Dims of features: whole sequences are cut over the mesh axis `context`, the few tokens that extend a cache are not."""
    return "B S" if cache is None and last is None else "B n"


def _only(x: Float[Array, "b S ..."], last: Int[Array, "B"] | None) -> Float[Array, "B S ..."]:
    """Of each example the token at place `last` alone, or all. What is the same for all examples may be there once."""
    return x if last is None else jnp.take_along_axis(x, last.reshape(-1, 1, *[1] * (x.ndim - 2)), 1)


def rotary(config: DecoderConfig, positions: Int[Array, "B S"]) -> tuple[Float[Array, "B S 1 D/2"], Float[Array, "B S 1 D/2"]]:
    """Cosine and sine of the angle by which a token at each position is turned; of a negative position, turned back."""
    pairs = config.head_dim // 2
    frequencies = (config.rope_base ** (-np.arange(pairs) / pairs)).astype(np.float32)
    angles = positions[..., None, None].astype(np.float32) * frequencies[None, None, None]
    return (np.cos(angles), np.sin(angles)) if isinstance(positions, np.ndarray) else (jnp.cos(angles), jnp.sin(angles))


def see_later(
    out: Float[Array, "B S K D"], lse: Float[Array, "B K S"], q: Float[Array, "B S K D"], k: Float[Array, "B S Kkv D"],
    v: Float[Array, "B S Kkv D"], blocks: Int[Array, "B n Q"],
) -> Float[Array, "B S K D"]:
    """Causal attention (out, lse) after the tokens of each block have seen those behind them in the block too.

    Back to front, what lies behind lies before: in that order it is causal attention without the diagonal. Two attentions over
    different keys add up by their log-sum-exps.
    """
    B, n, Q = blocks.shape
    rows = jnp.arange(B)[:, None, None]
    back = lambda x: x[rows, blocks[..., ::-1]].reshape(B * n, Q, *x.shape[2:])
    later, later_lse = attention(back(q), back(k), back(v), causal=True, q_offset=-1, return_lse=True)
    later = later.reshape(B, n, Q, *later.shape[2:])[:, :, ::-1]
    later_lse = later_lse.reshape(B, n, -1, Q).swapaxes(2, 3)[:, :, ::-1]
    lse = lse.swapaxes(1, 2)[rows, blocks]
    part = jnp.exp(later_lse - jnp.logaddexp(lse, later_lse))[..., None].astype(out.dtype)
    return out.at[rows, blocks].set((1 - part) * out[rows, blocks] + part * later)


class SelfAttention(nnx.Module):
    """Each token to itself and those before it; the tokens of a block to all of the block."""

    def __init__(self, config: DecoderConfig, *, rngs: Rngs):
        E, K, G, D = config.width, config.heads, config.kv_heads, config.head_dim
        self.q = Linear((E,), (K, D), "E K D", bias=config.qkv_bias, rngs=rngs)
        self.k = Linear((E,), (G, D), "E K D", bias=config.qkv_bias, rngs=rngs)
        self.v = Linear((E,), (G, D), "E K D", bias=config.qkv_bias, rngs=rngs)
        self.q_norm = HeadLayerNorm(K, D) if config.qk_norm else None
        self.k_norm = HeadLayerNorm(G, D) if config.qk_norm else None
        self.out = Linear((K, D), (E,), "K D E", bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B S E"], rotary: tuple[Array, Array], layer: Int[ArrayLike, ""], cache: Cache | None,
        blocks: Int[Array, "B n Q"] | None, last: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B S E"], Cache | tuple[Float[Array, "B K S D"], Float[Array, "B K S D"]]]:
        """The output, and the cache with the keys and values of these tokens in it; without a cache those alone. With `last` the output of
        each example's token at that place alone, behind which stands padding."""
        q, k, v = self.q(_only(x, last)), self.k(x), self.v(x)
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q = rotate(q, *(_only(y, last) for y in rotary))
        q, k, v = (constrain(y, f"{_rows(cache, last)} K D") for y in (q, rotate(k, *rotary), v))
        if last is not None:
            out = attention(q, k, v, kv_lengths=last + 1, context=Context.GATHER)
            kept = k.swapaxes(1, 2), v.swapaxes(1, 2)
        elif cache is None:
            out, lse = self._attend(q, k, v, blocks)
            kept = k.swapaxes(1, 2), v.swapaxes(1, 2)
        else:
            kept = cache.written(layer, k, v)
            seen = dict(q_offset=cache.used, segments=jnp.ones(q.shape[:2], jnp.int32), kv_segments=cache.valid, context=Context.GATHER)
            out, lse = self._attend(q, *kept.read(layer), blocks, **seen)
        if blocks is not None:
            out = see_later(out, lse, q, k, v, blocks)
        return self.out(out), kept

    def _attend(self, q, k, v, blocks, **seen) -> tuple[Array, Array | None]:
        """Causal attention; the log-sum-exp only where blocks need it, as the fastest implementation on a GPU has none."""
        if blocks is None:
            return attention(q, k, v, causal=True, **seen), None
        return attention(q, k, v, causal=True, return_lse=True, **seen)


class GatedMLP(nnx.Module):
    """down(silu(gate(x)) ∘ up(x)), without biases."""

    def __init__(self, width: int, hidden: int, *, rngs: Rngs):
        self.gate = Linear((width,), (hidden,), "E F", bias=False, rngs=rngs)
        self.up = Linear((width,), (hidden,), "E F", bias=False, rngs=rngs)
        self.down = Linear((hidden,), (width,), "F E", bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "B S E"]) -> Float[Array, "B S E"]:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """The line at the top of this file."""

    def __init__(self, config: DecoderConfig, *, rngs: Rngs):
        self.norm_outputs = config.norm_outputs
        self.attention_norm, self.mlp_norm = RMSNorm(config.width, config.eps), RMSNorm(config.width, config.eps)
        self.attention = SelfAttention(config, rngs=rngs)
        self.mlp = GatedMLP(config.width, config.mlp, rngs=rngs)

    def __call__(self, x: Float[Array, "B S E"], rotary, layer, cache, blocks, last=None):
        """As `SelfAttention`."""
        if self.norm_outputs:
            y, kept = self.attention(x, rotary, layer, cache, blocks, last)
            x = _only(x, last) + self.attention_norm(y)
            x = x + self.mlp_norm(self.mlp(x))
        else:
            y, kept = self.attention(self.attention_norm(x), rotary, layer, cache, blocks, last)
            x = _only(x, last) + y
            x = x + self.mlp(self.mlp_norm(x))
        return constrain(x, f"{_rows(cache, last)} E"), kept


class Decoder(nnx.Module):
    """Token ids to features, features to features, features to logits."""

    def __init__(self, config: DecoderConfig, *, rngs: Rngs):
        self.config = config
        self.embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.vocabulary, config.width)), dims="V E")
        self.layers = jax.vmap(lambda key: Layer(config, rngs=Rngs(key)))(jax.random.split(rngs.params(), config.layers))
        self.norm = RMSNorm(config.width, config.eps)
        self.head = None if config.tied else Linear((config.width,), (config.vocabulary,), "E V", bias=False, rngs=rngs)

    def embed(self, tokens: Int[Array, "B S"], dtype: jnp.dtype = jnp.float32) -> Float[Array, "B S E"]:
        """The features that enter."""
        return constrain(self.embedding[...][tokens].astype(dtype), "B n E")

    def logits(self, x: Float[Array, "... E"]) -> Float[Array, "... V"]:
        """Of the next token, in fp32."""
        y = jnp.matmul(x, self.embedding[...].T.astype(x.dtype), precision=precision(x)) if self.head is None else self.head(x)
        return y.astype(jnp.float32)

    @property
    def is_apart(self) -> bool:
        """Whether the layers are a list instead of one stack."""
        return not isinstance(self.layers, Layer)

    def ready(self) -> "Decoder":
        """The decoder as a loop over single tokens wants it. On a CPU such a step does little but read each weight once, and a scan
        would copy it out of the stack first, each time: there the layers are taken apart, which copies them once, and their
        weights laid out for one row (`rows`)."""
        if platform() != "cpu" or self.is_apart:
            return self
        apart = copy.copy(self)
        apart.layers = nnx.List([by_rows(jax.tree.map(lambda weight: weight[i], self.layers)) for i in range(self.config.layers)])
        apart.head = by_rows(self.head)
        return apart

    def _scan(self, step: Callable, carry: PyTree) -> tuple[PyTree, PyTree]:
        """`jax.lax.scan` over (number, layer), also where the layers are taken apart."""
        if not self.is_apart:
            return jax.lax.scan(step, carry, (jnp.arange(self.config.layers), self.layers))
        kept = []
        for numbered in enumerate(self.layers):
            carry, one = step(carry, numbered)
            kept.append(one)
        return carry, jax.tree.map(lambda *each: jnp.stack(each), *kept)

    def __call__(
        self, x: Float[Array, "B S E"], blocks: Int[Array, "B n Q"] | None = None, remat: Remat = Remat.NONE
    ) -> Float[Array, "B S E"]:
        """All tokens at once; padding stands at the end of an example, where no token sees it.

        Args:
          blocks: places of tokens that see all of their block.
          remat: what the backward pass computes again.
        """
        angles = rotary(self.config, _positions(x))
        step = remat.wrap(lambda x, numbered: (numbered[1](x, angles, numbered[0], None, blocks)[0], None))
        return self.norm(self._scan(step, x)[0])

    def prefill(self, x: Float[Array, "B S E"], valid: Bool[Array, "B S"], slots: int) -> tuple[Float[Array, "B 1 E"], Cache]:
        """Features of each example's last token, and a cache of `slots` ≥ S slots that holds all; padding (valid False, at the end)
        becomes holes. Where the layers are taken apart, the last one computes no more of the other tokens than their keys and values."""
        angles, last = rotary(self.config, _positions(x)), valid.sum(-1) - 1
        ends = lambda number: self.is_apart and number == self.config.layers - 1
        x, kept = self._scan(lambda x, n: n[1](x, angles, n[0], None, None, last if ends(n[0]) else None), x)
        x = x if self.is_apart else _only(x, last)
        free = slots - valid.shape[1]
        keys, values = (place(jnp.pad(y, ((0, 0), (0, 0), (0, 0), (0, free), (0, 0)))) for y in kept)
        used = jnp.asarray(valid.shape[1], jnp.int32)
        return self.norm(x), Cache(keys, values, jnp.pad(valid.astype(jnp.int32), ((0, 0), (0, free))), used)

    def extend(
        self, x: Float[Array, "B S E"], valid: Bool[Array, "B S"], cache: Cache, blocks: Int[Array, "B n Q"] | None = None
    ) -> tuple[Float[Array, "B S E"], Cache]:
        """Features of S further tokens that see the cache, and the cache with them in it; there must be S free slots. `blocks` as above,
        among the new tokens."""
        valid = valid.astype(jnp.int32)
        positions = cache.lengths[:, None] + jnp.cumsum(valid, axis=1) - 1
        filled = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid, cache.used, axis=1)
        cache = cache.replace(valid=filled)
        # Those of all slots are constants; of the new tokens alone XLA would compute them in every layer anew, for every head.
        angles = tuple(jnp.asarray(each[0])[positions] for each in rotary(self.config, np.arange(filled.shape[1])[None]))
        step = lambda carry, numbered: (numbered[1](carry[0], angles, numbered[0], carry[1], blocks), None)
        (x, cache), _ = self._scan(step, (x, cache))
        return self.norm(x), cache.replace(used=cache.used + x.shape[1])


def _positions(x: Float[Array, "B S E"]) -> Int[np.ndarray, "1 S"]:
    """Of tokens before which there are none."""
    return np.arange(x.shape[1])[None]
