"""The latent state: queries in the language model's sequence, the connector to the film model, and what aligns both."""
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from core_jax.layers import EncoderLayer, LayerNorm, Linear
from core_jax.rngs import Rngs
from owl_jax.config import Alignment, OwlConfig, Queries


class StateQueries(nnx.Module):
    """Q learned inputs of the language model."""

    def __init__(self, config: OwlConfig, width: int, *, rngs: Rngs):
        self.inputs = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.queries, width)), dims="Q E")
        numbers = config.numbers if config.sharing is Queries.NUMBERED else 0
        self.offsets = nnx.Param(jnp.zeros((numbers, width)), dims="n E") if numbers else None

    def __call__(self, number: Int[Array, "..."], dtype: jnp.dtype) -> Float[Array, "... Q E"]:
        """Of the states with these places in their film, counted from 0."""
        x = jnp.broadcast_to(self.inputs[...], (*number.shape, *self.inputs[...].shape))
        if self.offsets is not None:
            x = x + self.offsets[...].at[number].get(mode="clip")[..., None, :]
        return x.astype(dtype)


class Connector(nnx.Module):
    """From the language model's outputs at the queries to what the film model's cross-attention reads."""

    def __init__(self, config: OwlConfig, width: int, text_width: int, *, rngs: Rngs):
        self.norm = LayerNorm(width)
        self.up = Linear((width,), (config.width,), "E C", rngs=rngs)
        self.layers = nnx.List([EncoderLayer(config.width, config.heads, 4 * config.width, rngs=rngs) for _ in range(config.layers)])
        self.down = Linear((config.width,), (text_width,), "E C", rngs=rngs)

    def __call__(self, x: Float[Array, "B Q E"]) -> Float[Array, "B Q C"]:
        x = self.up(self.norm(x))
        for layer in self.layers:
            x = layer(x)
        return self.down(x)


def _pooled(state: Float[Array, "B Q C"], text: Float[Array, "B N C"], lengths: Int[Array, "B"]) -> Float[Array, "B"]:
    known = (jnp.arange(text.shape[1])[None] < lengths[:, None])[..., None]
    mean = (text * known).sum(1) / jnp.maximum(lengths, 1)[:, None]
    return jnp.square(state.mean(1) - mean).mean(-1)


def _resampled(state: Float[Array, "B Q C"], text: Float[Array, "B N C"], lengths: Int[Array, "B"]) -> Float[Array, "B"]:
    place = jnp.linspace(0, 1, state.shape[1])[None] * jnp.maximum(lengths - 1, 0)[:, None]
    low = jnp.floor(place).astype(jnp.int32)
    high, part = jnp.minimum(low + 1, jnp.maximum(lengths - 1, 0)[:, None]), (place - low)[..., None]
    at = lambda index: jnp.take_along_axis(text, index[..., None], axis=1)
    return jnp.square(state - (1 - part) * at(low) - part * at(high)).mean((1, 2))


_DISTANCES = {Alignment.POOLED: _pooled, Alignment.RESAMPLED: _resampled}


def alignment(how: Alignment, state: Float[Array, "B Q C"], text: Float[Array, "B N C"], lengths: Int[Array, "B"]) -> Float[Array, "B"]:
    """MSE(s_t, T(t)) of (7), for each state; a text without words counts as its first feature."""
    return _DISTANCES[how](state.astype(jnp.float32), text.astype(jnp.float32), lengths)
