"""A Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) as DINO (arXiv 2104.14294) and DINOv2 (arXiv 2304.07193) have it.

    x ← [class; W patches + b] + positions,   positions of another grid: bicubic (a = −¾) of the trained ones
    x ← x + λ₁ Attention(LN(x)),   x ← x + λ₂ W₂ gelu(W₁ LN(x))         L times, `core_jax.layers.EncoderLayer`; λ = 1 in DINO, learned in DINOv2
    embedding = LN(x_class)
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from core_jax.layers import EncoderLayer, LayerNorm, Linear, gelu, patchify
from core_jax.rngs import Rngs

NAMES = {
    r"^first$": "embeddings.cls_token",
    r"^patches\.": "embeddings.patch_embeddings.projection.",
    r"^positions$": "embeddings.position_embeddings",
    r"^norm_out\.": "layernorm.",
    r"^blocks\.": "encoder.layer.{}.",
    r"\.attention\.q\.": ".attention.attention.query.",
    r"\.attention\.k\.": ".attention.attention.key.",
    r"\.attention\.v\.": ".attention.attention.value.",
    r"\.attention\.out\.": ".attention.output.dense.",
    r"\.(w|scale)$": ".weight",
    r"\.(b|offset)$": ".bias",
}
DINO = NAMES | {
    r"\.attention_norm\.": ".layernorm_before.",
    r"\.mlp_norm\.": ".layernorm_after.",
    r"\.mlp\.up\.": ".intermediate.dense.",
    r"\.mlp\.down\.": ".output.dense.",
}
DINOV2 = NAMES | {
    r"\.attention_norm\.": ".norm1.",
    r"\.mlp_norm\.": ".norm2.",
    r"\.mlp\.up\.": ".mlp.fc1.",
    r"\.mlp\.down\.": ".mlp.fc2.",
    r"\.attention_scale$": ".layer_scale1.lambda1",
    r"\.mlp_scale$": ".layer_scale2.lambda1",
}
"""our names in those of transformers' ViTModel and Dinov2Model, as koala_jax's `load_tower` takes them"""


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Sizes; the defaults are ViT-B/16."""

    size: int = 224
    """rows and columns of a picture in training"""
    patch: int = 16
    width: int = 768
    """E"""
    layers: int = 12
    """L"""
    heads: int = 12
    """K"""
    mlp: int = 3072
    """F"""
    eps: float = 1e-12
    scaled: bool = False
    """whether λ is learned"""


class ViT(nnx.Module):
    """The tower."""

    def __init__(self, config: ViTConfig, *, rngs: Rngs):
        E, self.grid = config.width, config.size // config.patch
        self.patch = (1, config.patch, config.patch)
        self.patches = Linear((3 * config.patch**2,), (E,), "P E", rngs=rngs)
        self.first = nnx.Param(0.02 * jax.random.normal(rngs.params(), (E,)), dims="E")
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (self.grid**2 + 1, E)), dims="n E")
        block = lambda key: EncoderLayer(E, config.heads, config.mlp, config.eps, gelu, scaled=config.scaled, rngs=Rngs(key))
        self.blocks = jax.vmap(block)(jax.random.split(rngs.params(), config.layers))
        self.norm_out = LayerNorm(E, config.eps)

    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B E"]:
        """Embeddings, not normalised, of pictures that are; rows and columns that fill no patch are left out."""
        h, w = (n // self.patch[1] for n in image.shape[1:3])
        patches = self.patches(patchify(image[:, None, : h * self.patch[1], : w * self.patch[1]], self.patch))
        first = jnp.broadcast_to(self.first[...].astype(patches.dtype), (patches.shape[0], 1, patches.shape[2]))
        x = jnp.concatenate([first, patches], 1) + self._positions(h, w)[None].astype(patches.dtype)
        x, _ = jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)
        return self.norm_out(x[:, :1])[:, 0]

    def _positions(self, h: int, w: int) -> Float[Array, "S E"]:
        trained = self.positions[...]
        grid = trained[1:].reshape(self.grid, self.grid, -1)
        grid = jnp.einsum("hi,wj,ije->hwe", bicubic(self.grid, h), bicubic(self.grid, w), grid, precision="highest")
        return jnp.concatenate([trained[:1], grid.reshape(h * w, -1)])


def bicubic(size: int, new: int) -> Float[np.ndarray, "new size"]:
    """The weights of a cubic convolution (Keys 1981) that resamples `size` points to `new`, between whose edges both are spread."""
    weights, a = np.zeros((new, size), np.float32), -0.75
    at = (np.arange(new) + 0.5) * size / new - 0.5
    for k in range(-1, 3):
        point = np.floor(at).astype(int) + k
        d = np.abs(at - point)
        near, far = ((a + 2) * d - (a + 3)) * d**2 + 1, a * (((d - 5) * d + 8) * d - 4)
        np.add.at(weights, (np.arange(new), np.clip(point, 0, size - 1)), np.where(d <= 1, near, far))
    return weights
