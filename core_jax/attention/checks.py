"""What is wrong with a call of attention, in one sentence."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.attention.mask import Mask


def check_call(
    q: Float[Array, "B S K D"],
    k: Float[Array, "B Skv Kkv D"],
    v: Float[Array, "B Skv Kkv D"],
    bias: Float[Array, "G K S Skv"] | None,
    mask: Mask,
) -> None:
    """Raise ValueError unless shapes and dtypes fit each other."""
    if q.ndim != 4 or k.ndim != 4:
        raise ValueError(f"attention takes q [B S K D] and k, v [B Skv Kkv D], got q {q.shape} and k {k.shape}")
    batch, rows, heads, dim = q.shape
    _, columns, kv_heads, _ = k.shape
    if k.shape != v.shape or k.shape[0] != batch or k.shape[3] != dim:
        raise ValueError(f"k and v must both be [{batch} Skv Kkv {dim}] for q {q.shape}, got {k.shape} and {v.shape}")
    if 0 in (*q.shape, *k.shape):
        raise ValueError(f"attention needs every dim ≥ 1, got q {q.shape} and k {k.shape}")
    if heads % kv_heads:
        raise ValueError(f"the {kv_heads} key-value heads must divide the {heads} query heads")
    if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise ValueError(f"q, k and v must share one floating dtype, got {q.dtype}, {k.dtype} and {v.dtype}")
    if bias is not None and (bias.ndim != 4 or batch % bias.shape[0] or bias.shape[1:] != (heads, rows, columns)):
        raise ValueError(
            f"bias must be [G {heads} {rows} {columns}] with G dividing the batch {batch}, got {bias.shape}"
        )
    wanted = {
        "lengths": (batch,), "kv_lengths": (batch,), "segments": (batch, rows), "kv_segments": (batch, columns),
    }  # fmt: skip
    for name, shape in wanted.items():
        array = getattr(mask, name)
        if array is None:
            continue
        if array.shape != shape or not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(f"{name} must be integers of shape {shape}, got {array.dtype} of shape {array.shape}")
    if (mask.segments is None) != (mask.kv_segments is None):
        raise ValueError("segments and kv_segments go together, unless queries and keys are equally many")
