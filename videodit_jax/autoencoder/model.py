"""Wan 2.1's video autoencoder (arXiv 2503.20314, section 4.1), causal in time: 1 + 4n frames of H × W pixels ↔ 1 + n latent frames of H/8 × W/8.
Wan 2.2's is the same on squares of 2 × 2 pixels, so that they are H/16 × W/16, and has a shortcut past each size of the picture (`Level`).

    μ, log σ² = encoder(video)        latents = (μ − mean) / std        video = decoder(mean + std · latents)

No layer looks ahead, so a video goes through piece by piece, four frames (one latent) at a time, and each layer that looks back keeps the last
frames of the piece before (`Past`). Their memory does not grow with the length. The first piece has the first frame as its last one,
behind three that count as the zeros which every layer pads with: so one program serves all pieces, and the TPU compiler takes long for one.
"""
import dataclasses
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float

from core_jax.attention import attention
from core_jax.layers import RMSNorm, precision
from core_jax.mesh import platform
from core_jax.rngs import Rngs
from videodit_jax.autoencoder import FRAMES, Latents

EPS = 1e-24


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Widths, and the statistics of the latents; the defaults are Wan 2.1's, 127M parameters, but for the statistics."""

    widths: tuple[int, int] = (96, 96)
    """channels of the encoder and of the decoder at full size"""
    multipliers: tuple[int, int, int, int] = (1, 2, 4, 4)
    """of them at full, half, a quarter and an eighth of the size"""
    blocks: int = 2
    """residual blocks at each size of the encoder; the decoder has one more"""
    halved: tuple[bool, bool, bool] = (False, True, True)
    """whether rows and columns are halved together with frames"""
    mean: tuple[float, ...] = (0.0,) * 16
    std: tuple[float, ...] = (1.0,) * 16
    shortcuts: bool = False
    """Wan 2.2's arrangement"""

    @property
    def square(self) -> int:
        """Rows, and columns, of the pixels that count as one."""
        return 2 if self.shortcuts else 1

    @property
    def latents(self) -> Latents:
        return Latents(len(self.mean), self.square * 2 ** len(self.halved))


WAN22 = AutoencoderConfig((160, 256), mean=(0.0,) * 48, std=(1.0,) * 48, shortcuts=True)
"""Wan 2.2's, 705M parameters, but for the statistics"""


class Past:
    """The frames before a piece, layer after layer in the order in which they ask, and in `after` what the next piece wants to know."""

    def __init__(self, before: Iterable[Array] | None = None, first: Bool[ArrayLike, ""] = True):
        """Args:
        before: zeros if not given.
        first: whether it is the first piece, of which the last frame alone counts.
        """
        self.before, self.after, self.first = before and iter(before), [], first

    def join(self, x: Float[Array, "B t h w C"], frames: int) -> Float[Array, "B frames+t h w C"]:
        """x, what does not count as zeros, behind so many frames before it."""
        before = next(self.before) if self.before else jnp.zeros_like(x, shape=(len(x), frames, *x.shape[2:]))
        joined = jnp.concatenate([before, self.counted(x)], 1)
        self.after.append(joined[:, -frames:])
        return joined

    def counted(self, x: Float[Array, "B t h w C"]) -> Float[Array, "B t h w C"]:
        """x, what does not count as zeros."""
        counts = ~jnp.asarray(self.first) | (jnp.arange(x.shape[1]) == x.shape[1] - 1)
        return jnp.where(counts[None, :, None, None, None], x, 0)

    def choose(self, first: Array, later: Array) -> Array:
        """By which piece it is."""
        return jnp.where(self.first, first, later)


class Conv(nnx.Module):
    """A convolution, causal in time: zeros around rows and columns, the frames before in front."""

    def __init__(
        self, inputs: int, outputs: int, size: tuple[int, int, int] = (3, 3, 3), *, stride: tuple[int, int, int] = (1, 1, 1),
        pad: tuple[int, int] = (1, 1), rngs: Rngs,
    ):
        self.size, self.stride, self.pad = size, stride, pad
        std = 1 / math.sqrt(math.prod(size) * inputs)
        self.w = nnx.Param(std * jax.random.truncated_normal(rngs.params(), -3, 3, (*size, inputs, outputs)), dims="n n n n n")
        self.b = nnx.Param(jnp.zeros(outputs), dims="n")

    def __call__(self, x: Float[Array, "B t h w C"], past: Past | None = None) -> Float[Array, "B t h w C"]:
        """`past` only where frames are convolved."""
        x = past.join(x, self.size[0] - self.stride[0]) if past else x
        w = self.w[...].astype(x.dtype)
        if platform() == "cpu":  # XLA takes three times as long there for three dims at once
            frames = range(0, x.shape[1] - self.size[0] + 1, self.stride[0])
            y = sum(self._rows(x[:, i : i + frames[-1] + 1 : self.stride[0]], w[i]) for i in range(self.size[0]))
        else:
            pads = ((0, 0), self.pad, self.pad)
            y = jax.lax.conv_general_dilated(
                x, w, self.stride, pads, dimension_numbers=("NTHWC", "THWIO", "NTHWC"), precision=precision(x)
            )
        return y + self.b[...].astype(x.dtype)[None, None, None, None]

    def _rows(self, x: Float[Array, "B t h w C"], w: Float[Array, "n n C F"]) -> Float[Array, "B t h w F"]:
        """Of each frame by itself."""
        frames, pads = rearrange(x, "B t h w C -> (B t) h w C"), (self.pad, self.pad)
        y = jax.lax.conv_general_dilated(frames, w, self.stride[1:], pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return rearrange(y, "(B t) h w C -> B t h w C", B=len(x))


def _mix(inputs: int, outputs: int, rngs: Rngs) -> Conv:
    """Of each pixel's channels alone."""
    return Conv(inputs, outputs, (1, 1, 1), pad=(0, 0), rngs=rngs)


class ResidualBlock(nnx.Module):
    """Twice norm, SiLU, convolution; beside it the input, mixed where channels change."""

    def __init__(self, inputs: int, outputs: int, *, rngs: Rngs):
        self.norm1, self.conv1 = RMSNorm(inputs, EPS), Conv(inputs, outputs, rngs=rngs)
        self.norm2, self.conv2 = RMSNorm(outputs, EPS), Conv(outputs, outputs, rngs=rngs)
        self.shortcut = _mix(inputs, outputs, rngs) if inputs != outputs else None

    def __call__(self, x: Float[Array, "B t h w C"], past: Past) -> Float[Array, "B t h w C"]:
        y = self.conv1(jax.nn.silu(self.norm1(x)), past)
        y = self.conv2(jax.nn.silu(self.norm2(y)), past)
        return y + (x if self.shortcut is None else self.shortcut(x))


class FrameAttention(nnx.Module):
    """All pixels of a frame to all, one head."""

    def __init__(self, channels: int, *, rngs: Rngs):
        self.norm = RMSNorm(channels, EPS)
        self.qkv, self.out = _mix(channels, 3 * channels, rngs), _mix(channels, channels, rngs)

    def __call__(self, x: Float[Array, "B t h w C"]) -> Float[Array, "B t h w C"]:
        q, k, v = (rearrange(y, "B t h w C -> (B t) (h w) 1 C") for y in jnp.split(self.qkv(self.norm(x)), 3, -1))
        return x + self.out(attention(q, k, v).reshape(x.shape))


class Middle(nnx.Module):
    """Between encoder's and decoder's sizes: two residual blocks, attention between them."""

    def __init__(self, channels: int, *, rngs: Rngs):
        self.block1, self.block2 = (ResidualBlock(channels, channels, rngs=rngs) for _ in range(2))
        self.attention = FrameAttention(channels, rngs=rngs)

    def __call__(self, x: Float[Array, "B t h w C"], past: Past) -> Float[Array, "B t h w C"]:
        return self.block2(self.attention(self.block1(x, past)), past)


class Halve(nnx.Module):
    """Half the rows and columns and, if `time`, half the frames; a first frame stays one."""

    def __init__(self, channels: int, time: bool, *, rngs: Rngs):
        self.space = Conv(channels, channels, (1, 3, 3), stride=(1, 2, 2), pad=(0, 1), rngs=rngs)
        self.time = Conv(channels, channels, (3, 1, 1), stride=(2, 1, 1), pad=(0, 0), rngs=rngs) if time else None

    def __call__(self, x: Float[Array, "B t h w C"], past: Past) -> Float[Array, "B t h w C"]:
        x = self.space(x)
        return x if self.time is None else past.choose(x[:, 1::2], self.time(x, past))

    def plain(self, x: Float[Array, "B t h w C"], channels: int, past: Past) -> Float[Array, "B t h w C"]:
        """Without weights: the numbers of each block of pixels, as many in a row as make `channels` of them by their mean."""
        x = rearrange(past.counted(x), "B (t a) (h b) (w c) C -> B t h w (C a b c)", a=1 if self.time is None else 2, b=2, c=2)
        return reduce(x, "B t h w (C n) -> B t h w C", "mean", C=channels)


class Double(nnx.Module):
    """Twice the rows and columns and, if `time`, twice the frames; a first frame stays one, and later ones do not see it."""

    def __init__(self, inputs: int, outputs: int, time: bool, *, rngs: Rngs):
        self.time = Conv(inputs, 2 * inputs, (3, 1, 1), pad=(0, 0), rngs=rngs) if time else None
        self.space = Conv(inputs, outputs, (1, 3, 3), rngs=rngs)

    def __call__(self, x: Float[Array, "B t h w C"], past: Past) -> Float[Array, "B t h w C"]:
        if self.time is not None:
            later = self.time(past.choose(jnp.zeros_like(x), x), past)
            x = past.choose(x.repeat(2, 1), rearrange(later, "B t h w (n C) -> B (t n) h w C", n=2))
        return self.space(x.repeat(2, 2).repeat(2, 3))

    def plain(self, x: Float[Array, "B t h w C"], channels: int, past: Past) -> Float[Array, "B t h w C"]:
        """Without weights: each number over so many places of a block of pixels as leave `channels` of them."""
        a = 1 if self.time is None else 2
        x = x.repeat(channels * a * 4 // x.shape[-1], -1)
        return rearrange(x, "B t h w (C a b c) -> B (t a) (h b) (w c) C", a=a, b=2, c=2)


class Level(nnx.Module):
    """Residual blocks at one size, then the way to the next. With `shortcut` its input, brought there without weights, is added."""

    def __init__(self, inputs: int, outputs: int, blocks: int, resize: Halve | Double | None, shortcut: bool, *, rngs: Rngs):
        self.blocks = nnx.List([ResidualBlock(outputs if j else inputs, outputs, rngs=rngs) for j in range(blocks)])
        self.resize, self.shortcut = resize, shortcut

    def __call__(self, x: Float[Array, "B t h w C"], past: Past) -> Float[Array, "B t h w C"]:
        y = x
        for block in self.blocks:
            y = block(y, past)
        y = y if self.resize is None else self.resize(y, past)
        if not self.shortcut:
            return y
        return y + (x if self.resize is None else self.resize.plain(x, y.shape[-1], past))


class Encoder(nnx.Module):
    """Pixels in −1 … 1 to μ and log σ², not yet mixed."""

    def __init__(self, config: AutoencoderConfig, *, rngs: Rngs):
        widths = [config.widths[0] * m for m in (1, *config.multipliers)]
        halves = [*(Halve(width, time, rngs=rngs) for width, time in zip(widths[1:], config.halved)), None]
        self.start = Conv(3 * config.square**2, widths[0], rngs=rngs)
        self.levels = nnx.List([Level(*both, config.blocks, half, config.shortcuts, rngs=rngs) for *both, half in zip(widths, widths[1:], halves)])
        self.middle = Middle(widths[-1], rngs=rngs)
        self.norm, self.end = RMSNorm(widths[-1], EPS), Conv(widths[-1], 2 * len(config.mean), rngs=rngs)

    def __call__(self, x: Float[Array, "B t H W C"], past: Past) -> Float[Array, "B t h w C"]:
        x = self.start(x, past)
        for level in self.levels:
            x = level(x, past)
        return self.end(jax.nn.silu(self.norm(self.middle(x, past))), past)


class Decoder(nnx.Module):
    """The encoder's way back; pixels are not yet cut to −1 … 1."""

    def __init__(self, config: AutoencoderConfig, *, rngs: Rngs):
        widths, part = [config.widths[1] * m for m in config.multipliers[::-1]], 1 if config.shortcuts else 2  # what doubling leaves of the channels
        doubles = [*(Double(width, width // part, time, rngs=rngs) for width, time in zip(widths, config.halved[::-1])), None]
        inputs = [widths[0], *(width // part for width in widths[:-1])]
        self.start = Conv(len(config.mean), widths[0], rngs=rngs)
        self.middle = Middle(widths[0], rngs=rngs)
        shortcuts = [config.shortcuts] * len(config.halved) + [False]
        levels = zip(inputs, widths, [config.blocks + 1] * len(widths), doubles, shortcuts)
        self.levels = nnx.List([Level(*level, rngs=rngs) for level in levels])
        self.norm, self.end = RMSNorm(widths[-1], EPS), Conv(widths[-1], 3 * config.square**2, rngs=rngs)

    def __call__(self, x: Float[Array, "B t h w C"], past: Past) -> Float[Array, "B t H W C"]:
        x = self.middle(self.start(x, past), past)
        for level in self.levels:
            x = level(x, past)
        return self.end(jax.nn.silu(self.norm(x)), past)


class Autoencoder(nnx.Module):
    """The two equations at the top of this file."""

    def __init__(self, config: AutoencoderConfig, *, rngs: Rngs):
        self.config, channels = config, len(config.mean)
        self.encoder, self.decoder = Encoder(config, rngs=rngs), Decoder(config, rngs=rngs)
        self.moments, self.latents = _mix(2 * channels, 2 * channels, rngs), _mix(channels, channels, rngs)

    def encode(self, video: Float[Array, "B 4n+1 H W 3"]) -> Float[Array, "B n+1 h w C"]:
        """Latents, in fp32, of pixels in −1 … 1, whose dtype is that of the computation."""
        mean, std = self._statistics()
        squares = rearrange(video, "B T (h b) (w c) C -> B T h w (C c b)", b=self.config.square, c=self.config.square)
        moments = self.moments(_piecewise(self.encoder, squares, FRAMES))
        return (jnp.split(moments, 2, -1)[0].astype(jnp.float32) - mean) / std

    def decode(self, latents: Float[Array, "B n+1 h w C"]) -> Float[Array, "B 4n+1 H W 3"]:
        """Pixels, cut to −1 … 1, in the dtype of the latents, which is that of the computation."""
        mean, std = self._statistics()
        means = (mean + std * latents.astype(jnp.float32)).astype(latents.dtype)
        squares = jnp.clip(_piecewise(self.decoder, self.latents(means), 1), -1, 1)
        return rearrange(squares, "B T h w (C c b) -> B T (h b) (w c) C", b=self.config.square, c=self.config.square)

    def _statistics(self) -> list[Float[Array, "1 1 1 1 C"]]:
        return [jnp.asarray(x, jnp.float32)[None, None, None, None] for x in (self.config.mean, self.config.std)]


def _piecewise(layers: Callable[[Array, Past], Array], x: Float[Array, "B T h w C"], frames: int) -> Array:
    """`layers` of x, so many frames at a time."""
    pieces = rearrange(jnp.pad(x, ((0, 0), (frames - 1, 0), *[(0, 0)] * 3)), "B (n t) h w C -> n B t h w C", t=frames)

    def step(before: list[Array] | None, piece: tuple[Array, Array]) -> tuple[list[Array], Array]:
        past = Past(before, piece[1])
        out = layers(piece[0], past)
        return past.after, out

    known = jax.eval_shape(lambda piece: step(None, (piece, True))[0], pieces[0])
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), known)
    _, out = jax.lax.scan(step, zeros, (pieces, jnp.arange(len(pieces)) == 0))
    return rearrange(out, "n B t h w C -> B (n t) h w C")[:, out.shape[2] - 1 :]
