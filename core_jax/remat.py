"""What the backward pass of a stack of layers keeps, and what it computes again."""
import enum
from collections.abc import Callable

import jax


class Remat(enum.Enum):
    """What the backward pass of a layer finds saved."""

    NONE = "none"
    """everything: fastest, most memory"""
    FULL = "full"
    """the layer's input alone; all else is computed again"""
    ATTENTION = "attention"
    """the input and attention's output and log-sum-exp: all but attention is computed again"""

    def wrap(self, layer: Callable) -> Callable:
        """The layer, whose backward pass finds no more than that."""
        if self is Remat.NONE:
            return layer
        saved = {Remat.FULL: (), Remat.ATTENTION: ("attention_out", "attention_lse")}[self]
        return jax.checkpoint(layer, policy=jax.checkpoint_policies.save_only_these_names(*saved))

    def again(self, attention: float, other: float) -> float:
        """Of the forward pass's FLOPs those that the backward pass spends once more."""
        return {Remat.NONE: 0.0, Remat.ATTENTION: other, Remat.FULL: attention + other}[self]
