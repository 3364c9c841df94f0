"""What both towers of the scorer are built of."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax.layers import Linear
from core_jax.rngs import Rngs


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x·Φ(x), by the error function: the one of jax.nn, by its complement, takes 2.7 times as long on a CPU."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def by_token(layer: Callable[[Array], Array], x: Float[Array, "B *n E"]) -> Float[Array, "B *n E"]:
    """layer(x) of a layer of tokens: a TPU makes a convolution as large as the picture of the gradients of more dims."""
    return layer(x.reshape(len(x), -1, x.shape[-1])).reshape(x.shape)


class Dense(nnx.Module):
    """Linear and GELU again and again, the last GELU too; where a key is given, dropout after all but the last."""

    def __init__(self, *widths: int, rngs: Rngs):
        self.layers = nnx.List(Linear((a,), (b,), "C E", rngs=rngs) for a, b in zip(widths, widths[1:]))

    def __call__(self, x: Float[Array, "B C"], key: PRNGKeyArray | None = None, rate: float = 0.1) -> Float[Array, "B E"]:
        for i, layer in enumerate(self.layers):
            x = gelu(layer(x))
            if i < len(self.layers) - 1:
                x = dropout(x, rate, fold(key, i))
        return x


def fold(key: PRNGKeyArray | None, number: int) -> PRNGKeyArray | None:
    """A key of one's own; no key, which means no randomness, stays none."""
    return None if key is None else jax.random.fold_in(key, number)


def dropout(x: Float[Array, "B ..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "B ..."]:
    """Each number to zero with probability `rate`, the others scaled to keep the mean."""
    if key is None or not rate:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def drop_path(branch: Float[Array, "B ..."], rate: float, key: PRNGKeyArray | None) -> Float[Array, "B ..."]:
    """Stochastic depth (Huang et al. 2016): the whole branch of an example to zero with probability `rate`."""
    if key is None or not rate:
        return branch
    keep = jax.random.bernoulli(key, 1 - rate, (branch.shape[0],) + (1,) * (branch.ndim - 1))
    return jnp.where(keep, branch / (1 - rate), 0)
