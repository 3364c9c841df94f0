"""Softmax attention: the one function that every model of the workspace calls.

    scores = scale · q kᵀ + bias          masked: a query sees only some keys
    lse    = log Σ_keys exp(scores)       over the keys that it sees
    out    = Σ_keys exp(scores − lse) v

A query that sees no key has out = 0, lse = −inf and zero gradients. What a query may see is said by lengths, segment
ids and `causal`, never by an array of queries × keys.
"""

from __future__ import annotations

import functools
import logging

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from core_jax.attention.blockwise import blockwise_attention
from core_jax.attention.checks import check_call, check_kinds
from core_jax.attention.context import Context, Exchange
from core_jax.attention.implementation import Implementation, choose
from core_jax.attention.kernel import pallas_attention
from core_jax.attention.mask import Mask
from core_jax.attention.reference import reference_attention
from core_jax.attention.ring import LOCAL, ring_attention
from core_jax.attention.xla import xla_attention
from core_jax.mesh import platform

__all__ = ["Context", "Implementation", "attention"]

_log = logging.getLogger(__name__)

_FUNCTIONS = {
    Implementation.REFERENCE: reference_attention,
    Implementation.BLOCKWISE: blockwise_attention,
    Implementation.XLA: xla_attention,
    Implementation.PALLAS: pallas_attention,
}


def attention(
    q: Float[Array, "B S K D"],
    k: Float[Array, "B Skv Kkv D"],
    v: Float[Array, "B Skv Kkv D"],
    *,
    lengths: Int[Array, "B"] | None = None,
    kv_lengths: Int[Array, "B"] | None = None,
    segments: Int[Array, "B S"] | None = None,
    kv_segments: Int[Array, "B Skv"] | None = None,
    causal: bool = False,
    q_offset: Int[ArrayLike, ""] = 0,
    bias: Float[Array, "G K S Skv"] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    implementation: Implementation | None = None,
    context: Context = Context.AUTO,
) -> Float[Array, "B S K D"] | tuple[Float[Array, "B S K D"], Float[Array, "B K S"]]:
    """Softmax attention of queries over keys and values, differentiable in q, k, v and bias: in reverse mode by every implementation, forwards
    (jvp) and twice by REFERENCE.

    Args:
      q: queries. bf16 or fp32; other floating dtypes on a TPU not by the kernel. The softmax is fp32 in every implementation.
      k, v: keys and values of q's dtype; Kkv divides K, and query head h reads key-value head h // (K // Kkv).
      lengths: queries at positions ≥ lengths[b] see no key.
      kv_lengths: keys at positions ≥ kv_lengths[b] are seen by no query.
      segments, kv_segments: a query sees the keys of its own segment id. kv_segments defaults to segments.
      causal: query i sees the keys j ≤ i + q_offset.
      q_offset: position of query 0 relative to key 0, may be traced; read only where `causal`.
      bias: added to the scores. Batch element b uses group b mod G, so that G divides B: the windows of a Swin
        transformer are groups, the relative positions of T5 are one group.
      scale: a number that is not traced, 1/√D by default.
      return_lse: also return the log-sum-exp of the scores, fp32, which carries gradients too.
      implementation: forces one; by default it follows from platform and shape and is logged once.
      context: how queries meet keys of other devices where the mesh cuts tokens over its axis `context`. A method asked
        for by name runs on the TPU kernel or, elsewhere, on BLOCKWISE.

    Returns:
      out in q's dtype, or (out, lse).

    Under `jax.checkpoint`, the names "attention_out" and "attention_lse" mark what a policy must save for the
    backward pass not to run the forward pass again.

    Inside a `jax.shard_map` of the caller every device attends to what it holds; give that map check_vma=False, without which the kernel's results
    and those of custom gradients have no type. On a TPU a mesh's axes must be Auto, as those of `core_jax.mesh.build` are.

    Raises:
      ValueError: where the shapes, dtypes or arguments do not fit each other.
    """
    check_kinds(scale, implementation, context)
    lengths, kv_lengths, segments, kv_segments = (x if x is None else jnp.asarray(x) for x in (lengths, kv_lengths, segments, kv_segments))
    if segments is not None and kv_segments is None and k.shape[1] == q.shape[1]:
        kv_segments = segments
    mask = Mask(lengths, kv_lengths, segments, kv_segments, q_offset if causal else 0, causal)
    check_call(q, k, v, bias, mask)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    implementation, exchange = _plan(context, implementation, choose(q, k, bias, mask, return_lse), q, k, bias)
    _log_once(implementation, exchange, q.shape, k.shape, str(q.dtype))
    if exchange is None:
        out, lse = _FUNCTIONS[implementation](q, k, v, bias, mask, scale)
    else:
        out, lse = ring_attention(q, k, v, mask, scale, LOCAL[implementation], exchange)
    if not return_lse:
        return out
    if lse is None:
        raise ValueError(f"Implementation.{implementation.name} has no log-sum-exp; all others have")
    return out, lse


def _plan(context: Context, forced: Implementation | None, suited: Implementation, q, k, bias) -> tuple[Implementation, Exchange | None]:
    """Which implementation runs, and what devices exchange; without an exchange XLA or the kernel gathers the keys."""
    implementation = forced or suited
    exchange = context.exchange(q, k, bias is not None)
    if exchange is None or implementation in LOCAL:
        return implementation, exchange
    if context is Context.AUTO:
        return implementation, None
    if forced:
        raise ValueError(f"Context.{context.name} runs on {' and '.join(x.name for x in LOCAL)}, not on Implementation.{forced.name}")
    return Implementation.BLOCKWISE, exchange


@functools.lru_cache(maxsize=None)
def _log_once(implementation: Implementation, exchange: Exchange | None, q_shape: tuple, k_shape: tuple, dtype: str) -> None:
    how = f", {exchange}" if exchange else ""
    level = logging.DEBUG if platform() == "cpu" and not exchange else logging.INFO  # one CPU has no choice that is worth a line
    _log.log(level, "attention of q%s over k%s in %s: %s%s", list(q_shape), list(k_shape), dtype, implementation.name, how)
