"""What the backward pass of a stack of layers keeps, and what it computes again."""
import enum
from collections.abc import Callable

import jax
from jax.extend.core import Primitive


class Remat(enum.Enum):
    """What the backward pass of a layer finds saved."""

    NONE = "none"
    """everything: fastest, most memory"""
    FULL = "full"
    """the layer's input alone; all else is computed again"""
    ATTENTION = "attention"
    """the input and attention's output and log-sum-exp: all but attention is computed again, and attention over few keys, a caption's"""
    PRODUCTS = "products"
    """what attention and the products with weights made: norms, activations and the like are computed again; for GPUs (docs/gpu.md)"""

    def wrap(self, layer: Callable) -> Callable:
        """The layer, whose backward pass finds no more than that."""
        return layer if self is Remat.NONE else jax.checkpoint(layer, policy=_SAVED[self])

    def again(self, attention: float, other: float) -> float:
        """Of the forward pass's FLOPs those that the backward pass spends once more."""
        return {Remat.NONE: 0.0, Remat.PRODUCTS: 0.0, Remat.ATTENTION: other, Remat.FULL: attention + other}[self]


FEW_KEYS = 512
"""Attention over so few costs a TPU about as much to compute again as to write and read: 4·keys·D FLOPs a query and head, or 4·D bytes."""


def keeps_attention(primitive: Primitive, *operands, **settings) -> bool:
    """Output and log-sum-exp: by their names, or where cuDNN makes them, which gives its log-sum-exp no name."""
    if primitive.name.startswith("dot_product_attention_fwd"):
        return operands[1].shape[1] > FEW_KEYS
    return jax.checkpoint_policies.save_only_these_names("attention_out", "attention_lse")(primitive, *operands, **settings)


def keeps_products(primitive: Primitive, *operands, **settings) -> bool:
    """What attention and products with weights made."""
    either = jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.save_only_these_names(*(few + name for few in ("", "few_") for name in ("attention_out", "attention_lse"))),
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    )
    return primitive.name.startswith("dot_product_attention_fwd") or either(primitive, *operands, **settings)


_SAVED = {Remat.FULL: jax.checkpoint_policies.nothing_saveable, Remat.ATTENTION: keeps_attention, Remat.PRODUCTS: keeps_products}
"""What is kept of a layer, as `jax.checkpoint` asks for it; its input always is."""
