"""jax.nn.dot_product_attention, for the calls that it can express: cuDNN's fused kernel on a GPU where it applies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from core_jax.attention.mask import Mask


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
    both = mask.lengths is not None or mask.kv_lengths is not None
    whole = jnp.full(q.shape[:1], max(q.shape[1], k.shape[1]), jnp.int32)
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        bias=bias,
        scale=scale,
        is_causal=mask.causal,
        query_seq_lengths=(whole if mask.lengths is None else mask.lengths) if both else None,
        key_value_seq_lengths=(whole if mask.kv_lengths is None else mask.kv_lengths) if both else None,
        implementation="cudnn" if fits_cudnn(q, bias) else "xla",
    )
    if mask.kv_lengths is not None:  # it returns the mean of all values to a query that sees no key
        out = jnp.where(mask.kv_lengths[:, None, None, None] > 0, out, 0)
    return checkpoint_name(out, "attention_out"), None
