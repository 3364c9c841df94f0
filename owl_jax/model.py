"""The world model: language model, state queries, connector, film model."""
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from core_jax.lmm.model import LMM, Inputs
from core_jax.remat import Remat
from core_jax.rngs import Rngs
from owl_jax.config import OwlConfig, StateAttention
from owl_jax.state import Connector, StateQueries
from videodit_jax.model import VideoDiT


class Owl(nnx.Module):
    """Its parts are called by the loop (`world`) and by the losses (`objective`)."""

    def __init__(self, config: OwlConfig, lmm: LMM, film: VideoDiT, *, rngs: Rngs):
        width, text = lmm.config.decoder.width, film.config.text.width
        self.config, self.lmm, self.film = config, lmm, film
        self.queries = StateQueries(config, width, rngs=rngs)
        self.connector = Connector(config, width, text, rngs=rngs)
        self.null = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.queries, text)), dims="Q C")

    def read(self, inputs: Inputs, places: Int[Array, "B n Q"], dtype: jnp.dtype, remat: Remat = Remat.NONE) -> Float[Array, "B S E"]:
        """The language model's outputs for whole sequences, the queries in their places."""
        x = self.lmm.embed(inputs, dtype, remat)
        B, n, Q = places.shape
        queries = jnp.broadcast_to(self.queries(jnp.arange(n), dtype)[None], (B, n, Q, x.shape[-1]))
        x = x.at[jnp.arange(B)[:, None, None], places].set(queries)
        return self.lmm.decoder(x, places if self.both_ways else None, remat)

    @property
    def both_ways(self) -> bool:
        return self.config.attention is StateAttention.BIDIRECTIONAL

    def states(self, outputs: Float[Array, "B S E"], places: Int[Array, "B n Q"]) -> Float[Array, "B n Q C"]:
        """s_t, as the film model reads it."""
        B, n, Q = places.shape
        rows = jnp.take_along_axis(outputs, places.reshape(B, n * Q, 1), axis=1)
        return self.connector(rows.reshape(B * n, Q, -1)).reshape(B, n, Q, -1)

    def context(self, state: Float[Array, "B Q C"]) -> tuple[Float[Array, "B Q C"], Int[Array, "B"]]:
        """A state in the place of the film model's text."""
        return state, jnp.full(state.shape[:1], state.shape[1], jnp.int32)

    def nothing(self, batch: int) -> Float[Array, "B Q C"]:
        """The learned null state, which guidance moves away from."""
        return jnp.broadcast_to(self.null[...], (batch, *self.null[...].shape))
