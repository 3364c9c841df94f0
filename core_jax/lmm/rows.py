"""Linear maps as a CPU computes them fastest for few rows of features."""
import math

import jax
from flax import nnx
from jaxtyping import Array, Float, PyTree

from core_jax.layers import Linear


class RowsLinear(nnx.Module):
    """A `Linear` computed as (W·xᵀ)ᵀ, with W's outputs first and both contracted over their last dim: so XLA's CPU backend takes 0.6 to
    0.8 of the time of x·W for one row, 0.7 (large maps) to 1.4 (small ones) for 8, and no longer for many."""

    def __init__(self, base: Linear):
        w = base.w[...]
        self.contracted, self.out_shape = base.contracted, w.shape[base.contracted :]
        self.w = nnx.Param(w.reshape(-1, math.prod(self.out_shape)).T)
        self.b = base.b

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        w, lead = self.w[...].astype(x.dtype), x.shape[: x.ndim - self.contracted]
        y = jax.lax.dot_general(w, x.reshape(-1, w.shape[1]), (((1,), (1,)), ((), ()))).T.reshape(*lead, *self.out_shape)
        return y if self.b is None else y + self.b[...].astype(x.dtype).reshape((1,) * len(lead) + self.out_shape)


def by_rows(tree: PyTree) -> PyTree:
    """Modules with each `Linear` in them a `RowsLinear`."""
    is_linear = lambda node: isinstance(node, Linear)
    return jax.tree.map(lambda node: RowsLinear(node) if is_linear(node) else node, tree, is_leaf=is_linear)
