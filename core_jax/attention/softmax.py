"""What a softmax leaves for others: names for its results, how those of parts of the keys are merged, what gradients need of the whole."""

from __future__ import annotations

import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from core_jax.remat import FEW_KEYS

Part = tuple[Float[Array, "B S K D"], Float[Array, "B K S"]]
"""out and lse of attention over some of the keys."""


def named(out, lse, keys: int):
    """Both by the names that remat.py knows, out of so many keys or of few."""
    few = "few_" if keys <= FEW_KEYS else ""
    return checkpoint_name(out, f"{few}attention_out"), lse if lse is None else checkpoint_name(lse, f"{few}attention_lse")


def merge(one: Part, other: Part) -> Part:
    """Attention over the keys of both parts, in fp32: out = Σ e^(lse_i − lse) out_i with e^lse = Σ e^lse_i."""
    lse = jnp.logaddexp(one[1], other[1])
    blind = jnp.isneginf(lse)

    def share(part: Part):
        weight = jnp.where(blind, 0, jnp.exp(part[1] - lse))
        return weight.swapaxes(1, 2)[..., None] * part[0].astype(jnp.float32)

    return share(one) + share(other), lse


def gradient_offset(out, lse, d_out, d_lse) -> Float[Array, "B K S"]:
    """Δ = Σ_D do∘out − dlse, 0 for a query that sees no key: the gradient of a score is p ∘ (do vᵀ − Δ)."""
    delta = jnp.einsum("bskd,bskd->bks", d_out, out, precision="highest", preferred_element_type=jnp.float32)
    return jnp.where(jnp.isneginf(lse), 0, delta - d_lse)
