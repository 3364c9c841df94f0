"""FLOPs of the vision-language model's matrix products and attention, 2 a multiply-add."""
import dataclasses

from core_jax.lmm.config import DecoderConfig, TowerConfig
from core_jax.remat import Remat


@dataclasses.dataclass(frozen=True)
class Flops:
    """Of one forward pass of one example."""

    attention: float
    """scores and their product with the values"""
    products: float
    """all other matrix products"""

    @property
    def forward(self) -> float:
        return self.attention + self.products

    def again(self, remat: Remat) -> float:
        """Of these, what a backward pass computes again."""
        return remat.again(self.attention, self.products)

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.attention + other.attention, self.products + other.products)


def decoder_flops(config: DecoderConfig, tokens: int, *, seen: int = 0, logits: int = 0) -> Flops:
    """Of tokens that see themselves and those before them.

    Args:
      seen: tokens of the cache, which all of them see too.
      logits: of so many places.
    """
    E, K, G, D, F, L = config.width, config.heads, config.kv_heads, config.head_dim, config.mlp, config.layers
    pairs = tokens * seen + tokens * (tokens + 1) / 2
    layer = E * (2 * K + 2 * G) * D + 3 * E * F
    return Flops(4.0 * L * K * D * pairs, 2.0 * (L * tokens * layer + logits * E * config.vocabulary))


def vision_flops(config: TowerConfig, width: int, tiles: int) -> Flops:
    """Of tower and projector to features of this width."""
    E, F, L, n = config.width, config.mlp, config.layers, config.grid**2
    layer = 4 * E * E + 2 * E * F
    ends = 3 * config.patch**2 * E + E * width + width * width
    return Flops(4.0 * tiles * L * n * n * E, 2.0 * tiles * n * (L * layer + ends))
