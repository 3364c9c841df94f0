"""The static tower: ConvNeXt (Liu et al. 2022, arXiv 2201.03545) with its classifier, over one frame.

  x ← x + γ · MLP(LN(depthwise 7×7 (x)))
"""
import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from core_jax.layers import MLP, LayerNorm, Linear, patchify, precision
from core_jax.rngs import Rngs
from koala_jax.tsa.layers import by_token, gelu


@dataclasses.dataclass(frozen=True)
class ConvNeXtConfig:
    """Sizes of the static tower; the defaults are ConvNeXt-T."""

    width: int = 96
    """E of the first stage; each further one doubles it"""
    depths: tuple[int, ...] = (3, 3, 9, 3)
    classes: int = 1000


class Block(nnx.Module):
    """The line at the top."""

    def __init__(self, width: int, *, rngs: Rngs):
        self.depthwise = nnx.Param(jax.random.truncated_normal(rngs.params(), -2, 2, (7, 7, 1, width)) / 7, dims="h w n E")
        self.depthwise_bias = nnx.Param(jnp.zeros(width), dims="E")
        self.norm = LayerNorm(width)
        self.mlp = MLP(width, 4 * width, gelu, rngs=rngs)
        self.gamma = nnx.Param(jnp.full(width, 1e-6), dims="E")

    def __call__(self, x: Float[Array, "B H W E"]) -> Float[Array, "B H W E"]:
        y = jax.lax.conv_general_dilated(
            x, self.depthwise[...].astype(x.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
            precision=precision(x),
        )
        y = y + self.depthwise_bias[...][None, None, None].astype(x.dtype)
        y = by_token(self.mlp, by_token(self.norm, y))
        return x + self.gamma[...][None, None, None].astype(x.dtype) * y


class Stage(nnx.Module):
    """Patches of the stage before become tokens of this one, then blocks. The first normalises after, the others before."""

    def __init__(self, channels: int, width: int, patch: int, depth: int, *, rngs: Rngs):
        self.patch, self.first = (1, patch, patch), channels == 3
        self.norm = LayerNorm(width if self.first else channels)
        self.down = Linear((channels * patch**2,), (width,), "P E", rngs=rngs)
        self.blocks = nnx.List(Block(width, rngs=rngs) for _ in range(depth))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w E"]:
        B, H, W, _ = x.shape
        _, p, _ = self.patch
        x = x if self.first else by_token(self.norm, x)
        x = x[:, : H // p * p, : W // p * p]  # as a strided convolution leaves the rest out
        x = self.down(patchify(x[:, None], self.patch)).reshape(B, H // p, W // p, -1)
        x = by_token(self.norm, x) if self.first else x
        for block in self.blocks:
            x = block(x)
        return x


class ConvNeXt(nnx.Module):
    """Class scores of one picture."""

    def __init__(self, config: ConvNeXtConfig, *, rngs: Rngs):
        widths = [config.width * 2**i for i in range(len(config.depths))]
        self.stages = nnx.List(
            Stage(channels, width, 2 if i else 4, depth, rngs=rngs)
            for i, (channels, width, depth) in enumerate(zip([3, *widths], widths, config.depths))
        )
        self.norm = LayerNorm(widths[-1])
        self.classifier = Linear((widths[-1],), (config.classes,), "E V", rngs=rngs)

    def __call__(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B V"]:
        """Scores before the softmax, of a normalised picture of at least 32×32."""
        x = image
        for stage in self.stages:
            x = stage(x)
        return self.classifier(self.norm(x.mean((1, 2))[:, None])[:, 0])
