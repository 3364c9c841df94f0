"""The ways to compute attention, and which one a call takes when it names none."""

from __future__ import annotations

import enum

import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.attention.mask import Mask
from core_jax.attention.xla import expressible, fits_cudnn
from core_jax.mesh import platform

DENSE_KEYS = 2048
"""Up to this many keys, the scores of a call may be written out where there is no TPU."""


class Implementation(enum.Enum):
    """How attention is computed. All agree; they differ in speed, memory and where they run."""

    REFERENCE = enum.auto()
    """Plain jnp in fp32, the twin of the others."""
    BLOCKWISE = enum.auto()
    """Blocks of keys scanned with an online softmax, forward and backward: memory linear in the keys, any platform."""
    XLA = enum.auto()
    """jax.nn.dot_product_attention: cuDNN on a GPU where it applies. No segment ids, no log-sum-exp."""
    PALLAS = enum.auto()
    """The TPU kernel of this package, in bf16 and fp32."""


def choose(
    q: Float[Array, "B S K D"],
    k: Float[Array, "B Skv Kkv D"],
    bias: Float[Array, "G K S Skv"] | None,
    mask: Mask,
    return_lse: bool,
) -> Implementation:
    """The implementation that suits a call, from the platform and the call's shapes alone."""
    where = platform()
    if where == "tpu" and q.dtype in (jnp.bfloat16, jnp.float32):
        return Implementation.PALLAS
    by_xla = where == "gpu" and not return_lse and expressible(bias, mask)
    if by_xla and (k.shape[1] <= DENSE_KEYS or fits_cudnn(q, bias)):
        return Implementation.XLA
    return Implementation.REFERENCE if k.shape[1] <= DENSE_KEYS else Implementation.BLOCKWISE
