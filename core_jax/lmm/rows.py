"""Linear maps as a CPU computes them fastest where tokens come one by one."""
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from core_jax.cores import cores
from core_jax.layers import Linear


class RowsLinear(nnx.Module):
    """A `Linear` whose weight W has its outputs first, and of these as many pieces as there are cores, or a divisor of that. One row is
    multiplied with all pieces at once, as a batch of products, which XLA's CPU backend gives to all cores; a single one it leaves to little
    more than one. For more rows W is whole."""

    def __init__(self, base: Linear):
        w = base.w[...]
        self.contracted, self.out_shape = base.contracted, w.shape[base.contracted :]
        inputs, outputs = math.prod(w.shape[: base.contracted]), math.prod(self.out_shape)
        self.w = nnx.Param(w.reshape(inputs, outputs).T.reshape(math.gcd(cores(), outputs), -1, inputs))
        self.b = base.b

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        w, lead = self.w[...].astype(x.dtype), x.shape[: x.ndim - self.contracted]
        x = x.reshape(math.prod(lead), -1)
        if len(x) == 1:
            y = jax.lax.dot_general(w, jnp.broadcast_to(x, (len(w), *x.shape)), (((2,), (2,)), ((0,), (0,))))
        else:
            y = jax.lax.dot_general(x, w.reshape(-1, w.shape[2]), (((1,), (1,)), ((), ())))
        y = y.reshape(*lead, *self.out_shape)
        return y if self.b is None else y + self.b[...].astype(x.dtype).reshape((1,) * len(lead) + self.out_shape)


def by_rows(tree: PyTree) -> PyTree:
    """Modules with each `Linear` in them a `RowsLinear`."""
    is_linear = lambda node: isinstance(node, Linear)
    return jax.tree.map(lambda node: RowsLinear(node) if is_linear(node) else node, tree, is_leaf=is_linear)
