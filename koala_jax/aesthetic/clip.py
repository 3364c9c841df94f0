"""The image tower of CLIP (Radford et al. 2021, arXiv 2103.00020): one vector a picture.

    x ← LN([class; patches] + positions)
    x ← x + Attention(LN(x)),   x ← x + W₂ q(W₁ LN(x)),   q(x) = x·σ(1.702 x)          L times, `core_jax.layers.EncoderLayer`; others have GELU as q
    embedding = W LN(x_class)
"""
import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from core_jax.layers import EncoderLayer, LayerNorm, Linear, gelu, patchify
from core_jax.rngs import Rngs

EPS = 1e-5
MEAN = (122.7709383, 116.7460125, 104.0937362)
STD = (68.5005327, 66.6321579, 70.3231630)
"""of the pixels that CLIP was trained on, RGB, 0 to 255"""


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Sizes; the defaults are ViT-L/14."""

    size: int = 224
    """rows and columns of a picture"""
    patch: int = 14
    width: int = 1024
    """E"""
    layers: int = 24
    """L"""
    heads: int = 16
    """K"""
    mlp: int = 4096
    """F"""
    out: int = 768
    """numbers of an embedding; 0: the tokens as they are after the layers, in its place"""
    quick: bool = True
    """q as above, else GELU"""


NAMES = {
    r"^first$": "vision_model.embeddings.class_embedding",
    r"^patches\.w$": "vision_model.embeddings.patch_embedding.weight",
    r"^positions$": "vision_model.embeddings.position_embedding.weight",
    r"^norm_in\.": "vision_model.pre_layrnorm.",  # so spelt
    r"^norm_out\.": "vision_model.post_layernorm.",
    r"^projection\.": "visual_projection.",
    r"^blocks\.": "vision_model.encoder.layers.{}.",
    r"\.attention\.(q|k|v|out)\.": r".self_attn.\1_proj.",
    r"\.attention_norm\.": ".layer_norm1.",
    r"\.mlp_norm\.": ".layer_norm2.",
    r"\.mlp\.up\.": ".mlp.fc1.",
    r"\.mlp\.down\.": ".mlp.fc2.",
    r"\.(w|scale)$": ".weight",
    r"\.(b|offset)$": ".bias",
}
"""our names in Hugging Face's, one after the other; {} is the layer"""


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """q of the second line at the top."""
    return x * jax.nn.sigmoid(1.702 * x)


class CLIPImage(nnx.Module):
    """The tower."""

    def __init__(self, config: CLIPConfig, *, rngs: Rngs):
        E, tokens = config.width, (config.size // config.patch) ** 2 + 1
        self.patch = (1, config.patch, config.patch)
        self.patches = Linear((3 * config.patch**2,), (E,), "P E", bias=False, rngs=rngs)
        self.first = nnx.Param(0.02 * jax.random.normal(rngs.params(), (E,)), dims="E")
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (tokens, E)), dims="n E")
        self.norm_in, self.norm_out = LayerNorm(E, EPS), LayerNorm(E, EPS) if config.out else None
        block = lambda key: EncoderLayer(E, config.heads, config.mlp, EPS, quick_gelu if config.quick else gelu, rngs=Rngs(key))
        self.blocks = jax.vmap(block)(jax.random.split(rngs.params(), config.layers))
        self.projection = Linear((E,), (config.out,), "E C", bias=False, rngs=rngs) if config.out else None

    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B C"] | Float[Array, "B S E"]:
        """Embeddings, not normalised, of pictures that are; or the tokens."""
        patches = self.patches(patchify(image[:, None], self.patch))
        first = jnp.broadcast_to(self.first[...].astype(patches.dtype), (patches.shape[0], 1, patches.shape[2]))
        x = self.norm_in(jnp.concatenate([first, patches], 1) + self.positions[...][None].astype(patches.dtype))
        x, _ = jax.lax.scan(lambda x, block: (block(x), None), x, self.blocks)
        return x if self.projection is None else self.projection(self.norm_out(x[:, :1]))[:, 0]
