"""Chameleon's image tokenizer: the encoder of a VQGAN, then the nearest code of a codebook (van den Oord et al. 2017, Esser et al. 2021).

  z = encoder(image)        code[i, j] = argmin_k ‖z[i, j] − e_k‖
"""
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from core_jax.attention import attention
from core_jax.layers import precision
from core_jax.lmm.config import CodesConfig
from core_jax.pictures import cover
from core_jax.rngs import Rngs

GROUPS = 32
SCALE = 0.0078
"""of the values 0 … 255 of a pixel: Chameleon's own, not quite 2 / 255"""


class Conv(nnx.Module):
    """A convolution over rows and columns; padding as torch writes it, ((top, bottom), (left, right))."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, *, stride: int = 1, pad: tuple[int, int] = (1, 1), rngs: Rngs):
        self.stride, self.pad = stride, pad
        std = 1 / np.sqrt(size * size * inputs)
        self.w = nnx.Param(std * jax.random.truncated_normal(rngs.params(), -3, 3, (size, size, inputs, outputs)), dims="n n n n")
        self.b = nnx.Param(jnp.zeros(outputs), dims="n")

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        y = jax.lax.conv_general_dilated(
            x, self.w[...].astype(x.dtype), (self.stride, self.stride), (self.pad, self.pad), dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision(x),
        )  # fmt: skip
        return y + self.b[...].astype(x.dtype)[None, None, None]


class GroupNorm(nnx.Module):
    """Zero mean, unit variance over the pixels of each of 32 groups of channels; a scale and an offset for each channel."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels), dims="n")
        self.offset = nnx.Param(jnp.zeros(channels), dims="n")

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        y = x.astype(jnp.float32).reshape(*x.shape[:3], GROUPS, -1)
        y = y - y.mean((1, 2, 4), keepdims=True)
        y = (y * jax.lax.rsqrt((y * y).mean((1, 2, 4), keepdims=True) + 1e-6)).reshape(x.shape)
        return (y * self.scale[...][None, None, None] + self.offset[...][None, None, None]).astype(x.dtype)


class ResidualBlock(nnx.Module):
    """Twice norm, SiLU, convolution; beside it the input, through a 1×1 convolution where channels change."""

    def __init__(self, inputs: int, outputs: int, *, rngs: Rngs):
        self.norm1, self.conv1 = GroupNorm(inputs), Conv(inputs, outputs, rngs=rngs)
        self.norm2, self.conv2 = GroupNorm(outputs), Conv(outputs, outputs, rngs=rngs)
        self.shortcut = Conv(inputs, outputs, 1, pad=(0, 0), rngs=rngs) if inputs != outputs else None

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class PixelAttention(nnx.Module):
    """All pixels to all, one head."""

    def __init__(self, channels: int, *, rngs: Rngs):
        self.norm = GroupNorm(channels)
        self.q, self.k, self.v, self.out = (Conv(channels, channels, 1, pad=(0, 0), rngs=rngs) for _ in range(4))

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        y = self.norm(x)
        q, k, v = (f(y).reshape(len(x), -1, 1, x.shape[-1]) for f in (self.q, self.k, self.v))
        return x + self.out(attention(q, k, v).reshape(x.shape))


class Level(nnx.Module):
    """Residual blocks at one size, then, but for the last level, half the size."""

    def __init__(self, inputs: int, outputs: int, blocks: int, halve: bool, *, rngs: Rngs):
        self.blocks = nnx.List([ResidualBlock(inputs if i == 0 else outputs, outputs, rngs=rngs) for i in range(blocks)])
        self.halve = Conv(outputs, outputs, stride=2, pad=(0, 1), rngs=rngs) if halve else None

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N H W C"]:
        for block in self.blocks:
            x = block(x)
        return x if self.halve is None else self.halve(x)


class CodesEncoder(nnx.Module):
    """Images to the token ids of their codes."""

    def __init__(self, config: CodesConfig, *, rngs: Rngs):
        self.config = config
        widths = [config.channels * m for m in (1, *config.multipliers)]
        last = len(config.multipliers) - 1
        self.start = Conv(3, config.channels, rngs=rngs)
        self.levels = nnx.List([Level(*widths[i : i + 2], config.blocks, i < last, rngs=rngs) for i in range(last + 1)])
        self.block1, self.block2 = (ResidualBlock(widths[-1], widths[-1], rngs=rngs) for _ in range(2))
        self.attention = PixelAttention(widths[-1], rngs=rngs)
        self.norm = GroupNorm(widths[-1])
        self.end = Conv(widths[-1], config.latent, rngs=rngs)
        self.latent = Conv(config.latent, config.code_width, 1, pad=(0, 0), rngs=rngs)
        self.codebook = nnx.Param(jax.random.normal(rngs.params(), (len(config.vocabulary), config.code_width)), dims="n n")

    def encode(self, images: Float[Array, "N H W C"]) -> Float[Array, "N h w Z"]:
        """z of the equation above; pixels lie in −1 … 1."""
        x = self.start(images)
        for level in self.levels:
            x = level(x)
        x = self.block2(self.attention(self.block1(x)))
        return self.latent(self.end(jax.nn.silu(self.norm(x))))

    def __call__(self, images: Float[Array, "N H W C"]) -> Int[Array, "N S"]:
        """Token ids of the codes, row by row."""
        z, e = self.encode(images).astype(jnp.float32), self.codebook[...]
        distance = (e * e).sum(-1)[None, None, None] - 2 * jnp.einsum("nhwz,kz->nhwk", z, e, precision="highest")
        code = distance.argmin(-1).reshape(len(images), -1)
        return jnp.asarray(self.config.vocabulary, jnp.int32)[code]


def pixels(image: UInt8[np.ndarray, "H W 3"], config: CodesConfig) -> Float[np.ndarray, "H W 3"]:
    """An image as Chameleon's encoder was trained to take it: its shorter side resized, the middle cut out, 0.0078 x − 1 of each value x, which is
    −1 … 0.989. A wide image loses its sides."""
    side, size = config.resolution, image.shape[:2]
    resized = tuple(side * n // min(size) for n in size)  # the longer side without its fraction, where `cover` would round it
    return (cover(image, side, side, Image.Resampling.LANCZOS, shown=resized) * SCALE - 1).astype(np.float32)
