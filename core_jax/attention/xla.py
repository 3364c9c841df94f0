"""jax.nn.dot_product_attention, for the calls that it can express: cuDNN's fused kernel on a GPU where it applies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.attention.mask import Mask
from core_jax.attention.softmax import named


def expressible(bias: Float[Array, "G K S Skv"] | None, mask: Mask) -> bool:
    """Whether jax.nn.dot_product_attention has the call without a dense mask (log-sum-exp apart)."""
    static_offset = isinstance(mask.q_offset, int) and mask.q_offset == 0
    return mask.segments is None and static_offset and (bias is None or bias.shape[0] == 1)


def fits_cudnn(q: Float[Array, "B S K D"], bias: Float[Array, "G K S Skv"] | None) -> bool:
    """Whether cuDNN's flash attention takes the call: 16 bit, head dim a multiple of 8 up to 128 (Ampere) or 256 (Hopper)."""
    generation = float(getattr(jax.devices()[0], "compute_capability", 0))
    widest = 256 if generation >= 9 else 128 if generation >= 8 else 0
    return q.shape[-1] % 8 == 0 and q.shape[-1] <= widest and bias is None and q.dtype in (jnp.bfloat16, jnp.float16)


def xla_attention(
    q: Float[Array, "B S K D"],
    k: Float[Array, "B Skv Kkv D"],
    v: Float[Array, "B Skv Kkv D"],
    bias: Float[Array, "G K S Skv"] | None,
    mask: Mask,
    scale: float,
) -> tuple[Float[Array, "B S K D"], None]:
    """Attention by jax.nn.dot_product_attention. It has no differentiable log-sum-exp: the second result is None.

    Raises:
      ValueError: with segment ids, a query offset or more than one bias group.
    """
    if not expressible(bias, mask):
        raise ValueError("Implementation.XLA takes no segment ids, no query offset and at most one bias group")
    B, S, Skv = *q.shape[:2], k.shape[1]
    lengths = kv_lengths = blind = None
    if mask.lengths is not None or mask.kv_lengths is not None or S % 2 or Skv % 2:
        lengths, kv_lengths = (jnp.full(B, n) if x is None else jnp.clip(x, 0, n) for x, n in ((mask.lengths, S), (mask.kv_lengths, Skv)))
        blind = (lengths == 0) | (kv_lengths == 0)
        lengths, kv_lengths = (jnp.maximum(x, 1).astype(jnp.int32) for x in (lengths, kv_lengths))  # cuDNN's gradients of nothing are NaN
    q, k, v = _even(q, 1), _even(k, 1), _even(v, 1)
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        bias=None if bias is None else _even(_even(bias, 2), 3),
        scale=scale,
        is_causal=mask.causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=kv_lengths,
        implementation="cudnn" if fits_cudnn(q, bias) else "xla",
    )[:, :S]
    if blind is not None:
        out = jnp.where(blind[:, None, None, None], 0, out)
    return named(out, None, k.shape[1])


def _even(x: Array, dim: int) -> Array:
    """Filled up to an even size, without which cuDNN has no backward pass; lengths hide what is added."""
    return jnp.pad(x, [(0, x.shape[i] % 2 if i == dim else 0) for i in range(x.ndim)]) if x.shape[dim] % 2 else x
