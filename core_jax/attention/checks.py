"""What is wrong with a call of attention, in one sentence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.attention.context import Context
from core_jax.attention.implementation import Implementation
from core_jax.attention.mask import Mask


def check_kinds(scale: object, implementation: object, context: object) -> None:
    """Raise ValueError where a name stands for a choice, or a traced number for the scale."""
    for name, kind, value in (("implementation", Implementation, implementation), ("context", Context, context)):
        if not isinstance(value, kind) and (value is not None or kind is Context):
            raise ValueError(f"{name} must be one of {', '.join(map(str, kind))}, got {value!r}")
    if isinstance(scale, jax.core.Tracer):
        raise ValueError("scale must be a number that is not traced: multiply q by one that is, and give scale=1")


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
    if bias is not None and not jnp.issubdtype(bias.dtype, jnp.floating):
        raise ValueError(f"bias is added to the scores and must be floating, got {bias.dtype}: what a query may see is said by lengths and segments")
    if bias is not None and (bias.ndim != 4 or 0 in bias.shape or batch % bias.shape[0] or bias.shape[1:] != (heads, rows, columns)):
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
