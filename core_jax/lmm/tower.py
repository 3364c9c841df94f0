"""The SigLIP vision tower and LLaVA-OneVision's projector: tiles of pixels to features as wide as the decoder."""
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from core_jax.layers import EncoderLayer, Linear, gelu
from core_jax.lmm.config import TowerConfig
from core_jax.remat import Remat
from core_jax.rngs import Rngs
from core_jax.sharding import constrain


class Tower(nnx.Module):
    """SigLIP up to its last layer; the norm behind it is left out, as LLaVA-OneVision does."""

    def __init__(self, config: TowerConfig, *, rngs: Rngs):
        self.config = config
        self.patches = Linear((3 * config.patch**2,), (config.width,), "P E", rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.grid**2, config.width)), dims="n E")
        layer = lambda key: EncoderLayer(config.width, config.heads, config.mlp, config.eps, rngs=Rngs(key))
        self.layers = jax.vmap(layer)(jax.random.split(rngs.params(), config.layers))

    def __call__(self, tiles: Float[Array, "N H W C"], remat: Remat = Remat.NONE) -> Float[Array, "N S E"]:
        """Features of the patches of each tile, row by row; pixels lie in −1 … 1."""
        side, patch = self.config.grid * self.config.patch, self.config.patch
        x = rearrange(tiles[:, :side, :side], "N (H h) (W w) C -> N (H W) (C h w)", h=patch, w=patch)
        x = constrain(self.patches(x) + self.positions[...][None].astype(x.dtype), "B n E")
        return jax.lax.scan(remat.wrap(lambda x, layer: (layer(x), None)), x, self.layers)[0]


class Vision(nnx.Module):
    """Tower, then a linear map, GELU and another linear map; beside them the learned token that ends a row of an image, or a video."""

    def __init__(self, config: TowerConfig, width: int, *, rngs: Rngs):
        self.tower = Tower(config, rngs=rngs)
        self.up = Linear((config.width,), (width,), "C E", rngs=rngs)
        self.down = Linear((width,), (width,), "E E", rngs=rngs)
        self.newline = nnx.Param(jax.random.normal(rngs.params(), (width,)) / jnp.sqrt(width), dims="E")

    def __call__(self, tiles: Float[Array, "N H W C"], remat: Remat = Remat.NONE) -> Float[Array, "N S E"]:
        return self.down(gelu(self.up(self.tower(tiles, remat))))
