"""The vision-language model: a causal decoder, and one of two ways for frames to enter its sequence."""
import copy

import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Bool, Float, Int

from core_jax.lmm.codes import CodesEncoder
from core_jax.lmm.config import LMMConfig
from core_jax.lmm.decoder import Decoder
from core_jax.lmm.tower import Vision
from core_jax.remat import Remat
from core_jax.rngs import Rngs


@struct.dataclass
class Inputs:
    """A batch of sequences (`sequence.stack` makes it). Without images the last three are None, and so they are with codes, which
    are tokens."""

    tokens: Int[Array, "B S"]
    valid: Bool[Array, "B S"]
    """False on padding, which stands at the end"""
    tiles: Float[Array, "B N H W C"] | None = None
    sources: Int[Array, "B S 4"] | None = None
    """features of the example's own tiles (`packing.py`)"""
    weights: Float[Array, "B S 4"] | None = None
    """all 0 where the token is a text's"""


class LMM(nnx.Module):
    """Text, images and video in, logits of the next token out."""

    def __init__(self, config: LMMConfig, *, rngs: Rngs):
        self.config = config
        self.decoder = Decoder(config.decoder, rngs=rngs)
        self.vision = Vision(config.tower, config.decoder.width, rngs=rngs) if config.tower else None
        self.codes = CodesEncoder(config.codes, rngs=rngs) if config.codes else None

    def ready(self) -> "LMM":
        """The model for many answers: `generate` does as much for each call (`Decoder.ready`)."""
        made = copy.copy(self)
        made.decoder = self.decoder.ready()
        return made

    def embed(self, inputs: Inputs, dtype: jnp.dtype = jnp.float32, remat: Remat = Remat.NONE) -> Float[Array, "B S E"]:
        """What enters the decoder: embeddings of tokens, and visual features in the places of their tokens."""
        x = self.decoder.embed(inputs.tokens, dtype)
        if inputs.tiles is None:
            return x
        B, N = inputs.tiles.shape[:2]
        features = self.vision(inputs.tiles.reshape(B * N, *inputs.tiles.shape[2:]).astype(dtype), remat).reshape(B, -1, x.shape[-1])
        newline = jnp.broadcast_to(self.vision.newline[...].astype(dtype), (B, 1, x.shape[-1]))
        features = jnp.concatenate([features, newline], 1)  # NEWLINE is −1, the last one
        rows, weights = jnp.arange(B)[:, None], inputs.weights.astype(dtype)
        visual = sum(features[rows, inputs.sources[..., i]] * weights[..., i, None] for i in range(4))
        return jnp.where((inputs.weights.sum(-1) > 0)[..., None], visual, x)

    def features(self, inputs: Inputs, dtype: jnp.dtype = jnp.float32, remat: Remat = Remat.NONE) -> Float[Array, "B S E"]:
        """The decoder's, of whole sequences; `remat` is what a layer's backward pass computes again."""
        return self.decoder(self.embed(inputs, dtype, remat), remat=remat)

    def __call__(self, inputs: Inputs, dtype: jnp.dtype = jnp.float32, remat: Remat = Remat.NONE) -> Float[Array, "B S V"]:
        """Logits of the token after each, in fp32."""
        return self.decoder.logits(self.features(inputs, dtype, remat))
