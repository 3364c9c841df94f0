"""What two models share: linear maps, norms, an encoder's layer, frequency embeddings, 3-D rotary positions, patches.

Parameters are fp32 and carry their dims; every layer computes in the dtype of its input, norms and angles in fp32.
"""
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from core_jax.attention import attention
from core_jax.mesh import platform
from core_jax.rngs import Rngs
from core_jax.sharding import constrain


def precision(x: Float[Array, "..."]) -> jax.lax.Precision:
    """Of a product of x: asked for nothing, a TPU rounds numbers of fp32 to one bf16 each. HIGH takes two, which is right to 10⁻⁵; HIGHEST
    takes three, and gradients five times as long to compile."""
    return jax.lax.Precision.HIGH if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT


class Linear(nnx.Module):
    """y = x·w + b over the last dims of x, e.g. "E K D" maps (…, E) to (…, K, D) and "K D E" maps (…, K, D) to (…, E).

    Args:
      in_shape, out_shape: sizes of the dims that are contracted and made.
      dims: letters of the weight, inputs first; the bias takes the output's.
      scale: standard deviation of the weight times √fan_in; 0 starts the layer at zero.
    """

    def __init__(
        self, in_shape: tuple[int, ...], out_shape: tuple[int, ...], dims: str, *, bias: bool = True, scale: float = 1.0,
        rngs: Rngs,
    ):
        std = scale / math.sqrt(math.prod(in_shape))
        letters = dims.split()
        self.contracted = len(in_shape)
        self.w = nnx.Param(std * jax.random.truncated_normal(rngs.params(), -3, 3, in_shape + out_shape), dims=dims)
        self.b = nnx.Param(jnp.zeros(out_shape), dims=" ".join(letters[self.contracted :])) if bias else None

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self._map(x, self.w[...], None if self.b is None else self.b[...])

    def parts(self, x: Float[Array, "..."]) -> Sequence[Float[Array, "..."]]:
        """The result, cut along the first of the dims that are made. On a TPU by a product for each part, since parts of one are copied."""
        if platform() != "tpu":
            return jnp.unstack(self(x), axis=x.ndim - self.contracted)
        w = jnp.unstack(self.w[...], axis=self.contracted)
        return [self._map(x, *part) for part in zip(w, [None] * len(w) if self.b is None else self.b[...])]

    def _map(self, x: Float[Array, "..."], w: Float[Array, "..."], b: Float[Array, "..."] | None) -> Float[Array, "..."]:
        w, lead = w.astype(x.dtype), x.shape[: x.ndim - self.contracted]
        if platform() == "cpu":  # XLA copies the operands of the weight's gradient unless both are matrices
            x = x.reshape(math.prod(lead), -1)
            y = (x @ w.reshape(x.shape[1], -1)).reshape(*lead, *w.shape[self.contracted :])
        else:
            y = jnp.tensordot(x, w, self.contracted, precision=precision(x))
        return y if b is None else y + b.astype(x.dtype).reshape((1,) * len(lead) + b.shape)


def layer_norm(x: Float[Array, "... E"], eps: float = 1e-6) -> Float[Array, "... E"]:
    """Zero mean, unit variance over the last dim, without parameters, in fp32.

    The variance is E[x²] − E[x]², so that x is read once for both: half the reads, at the price of digits where the mean is many deviations (of
    10: right to 5·10⁻⁵, of 100: 4·10⁻³, of 1,000: 0.2). Less than 10⁻⁶ of E[x²] would be rounding, by which the result must not be blown up: so much it is at least.
    """
    y = x.astype(jnp.float32)
    mean, square = y.mean(-1, keepdims=True), (y * y).mean(-1, keepdims=True)
    variance = jnp.maximum(square - mean * mean, 1e-6 * square)
    return ((y - mean) * jax.lax.rsqrt(variance + eps)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """`layer_norm` with a learned scale and offset."""

    def __init__(self, width: int, eps: float = 1e-6):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width), dims="E")
        self.offset = nnx.Param(jnp.zeros(width), dims="E")

    def __call__(self, x: Float[Array, "B S E"]) -> Float[Array, "B S E"]:
        y = layer_norm(x, self.eps) * self.scale[...][None, None] + self.offset[...][None, None]
        return y.astype(x.dtype)


class RMSNorm(nnx.Module):
    """Unit root mean square over the last dims together, learned scale, in fp32."""

    def __init__(self, width: int | tuple[int, ...], eps: float = 1e-6, dims: str = "E"):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width), dims=dims)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        y, scale = x.astype(jnp.float32), self.scale[...]
        y = y * jax.lax.rsqrt((y * y).mean(tuple(range(-scale.ndim, 0)), keepdims=True) + self.eps)
        return (y * scale.reshape((1,) * (x.ndim - scale.ndim) + scale.shape)).astype(x.dtype)


def modulate(x: Float[Array, "B S E"], shift: Float[Array, "B 1 E"], scale: Float[Array, "B 1 E"]) -> Float[Array, "B S E"]:
    """x·(1 + scale) + shift (adaLN, Peebles & Xie 2022)."""
    return (x * (1 + scale) + shift).astype(x.dtype)


gelu = functools.partial(jax.nn.gelu, approximate=False)
"""GELU itself, which torch has by default; jax's default is the approximation by tanh"""


class MLP(nnx.Module):
    """Linear, an activation, by default the tanh-GELU, Linear."""

    def __init__(self, width: int, hidden: int, activation: Callable[[Array], Array] = jax.nn.gelu, *, rngs: Rngs):
        self.activation = activation
        self.up = Linear((width,), (hidden,), "E F", rngs=rngs)
        self.down = Linear((hidden,), (width,), "F E", rngs=rngs)

    def __call__(self, x: Float[Array, "B S E"]) -> Float[Array, "B S E"]:
        return self.down(self.activation(self.up(x)))


class EncoderAttention(nnx.Module):
    """All tokens to all."""

    def __init__(self, width: int, heads: int, *, rngs: Rngs):
        per_head = (heads, width // heads)
        self.q, self.k, self.v = (Linear((width,), per_head, "E K D", rngs=rngs) for _ in range(3))
        self.out = Linear(per_head, (width,), "K D E", rngs=rngs)

    def __call__(self, x: Float[Array, "B S E"]) -> Float[Array, "B S E"]:
        return self.out(attention(*(constrain(y, "B n K D") for y in (self.q(x), self.k(x), self.v(x)))))


class EncoderLayer(nnx.Module):
    """x ← x + λ₁ Attention(LN(x)),   x ← x + λ₂ MLP(LN(x));   λ is learned if `scaled`, else 1."""

    def __init__(
        self, width: int, heads: int, mlp: int, eps: float = 1e-6, activation: Callable[[Array], Array] = jax.nn.gelu, *, scaled: bool = False,
        rngs: Rngs,
    ):
        self.attention_norm, self.mlp_norm = LayerNorm(width, eps), LayerNorm(width, eps)
        self.attention = EncoderAttention(width, heads, rngs=rngs)
        self.mlp = MLP(width, mlp, activation, rngs=rngs)
        self.attention_scale, self.mlp_scale = (nnx.Param(jnp.ones(width), dims="E") if scaled else None for _ in range(2))

    def __call__(self, x: Float[Array, "B S E"]) -> Float[Array, "B S E"]:
        times = lambda scale, y: y if scale is None else y * scale[...][None, None].astype(y.dtype)
        x = x + times(self.attention_scale, self.attention(self.attention_norm(x)))
        return constrain(x + times(self.mlp_scale, self.mlp(self.mlp_norm(x))), "B n E")


def frequency_embedding(x: Float[Array, "..."], width: int, max_period: float = 10_000.0) -> Float[Array, "... C"]:
    """[cos(x·f), sin(x·f)] with f geometric from 1 down to 1/max_period (width even), in fp32."""
    half = width // 2
    f = jnp.asarray(max_period ** (-np.arange(half) / half), jnp.float32)
    angle = x.astype(jnp.float32)[..., None] * f.reshape((1,) * x.ndim + (half,))
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


def absolute_positions(grid: tuple[int, int, int], width: int) -> np.ndarray:
    """Sines of absolute positions, (S, E), for tokens of a (T, H, W) grid in row-major order: a third of the width for each."""
    third = width // 6 * 2
    axes = np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")
    frequencies = 10_000.0 ** (-np.arange(third // 2) / (third // 2))
    angles = [axis.reshape(-1, 1) * frequencies for axis in axes]
    waves = np.concatenate([wave(angle) for angle in angles for wave in (np.cos, np.sin)], -1)
    return np.pad(waves, ((0, 0), (0, width - waves.shape[1]))).astype(np.float32)


def rotary_angles(grid: tuple[int, int, int], head_dim: int) -> np.ndarray:
    """Angles of 3-D rotary positions, (S, D/2), for tokens of a (T, H, W) grid in row-major order.

    Of the D/2 pairs ⌊D/6⌋ turn with the row, ⌊D/6⌋ with the column and the rest with the frame (Wan 2.1's split).
    """
    pairs = head_dim // 2
    space = pairs // 3
    sections = [pairs - 2 * space, space, space]
    axes = np.meshgrid(*(np.arange(n) for n in grid), indexing="ij")
    angles = [p.reshape(-1, 1) * 10_000.0 ** (-np.arange(n) / n) for p, n in zip(axes, sections) if n]
    return np.concatenate(angles, -1).astype(np.float32)


def rotate(x: Float[Array, "B S K D"], cos: Float[Array, "1 S 1 D/2"], sin: Float[Array, "1 S 1 D/2"]) -> Float[Array, "B S K D"]:
    """Turns pair i, which is (x[i], x[i + D/2]), by its angle: halves, not neighbours, since they need no strided reads.

    A TPU would store the halves, half empty, and put them together again; its matrix units turn by a quarter, (−b, a), in no time.
    """
    y, half = x.astype(jnp.float32), x.shape[-1] // 2
    if platform() != "tpu":
        a, b = jnp.split(y, 2, -1)
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)
    quarter = jnp.asarray(np.kron([[0, 1], [-1, 0]], np.eye(half)), x.dtype)
    turned = jnp.matmul(x, quarter, precision=precision(x), preferred_element_type=jnp.float32)
    cos, sin = (jnp.concatenate([wave, wave], -1) for wave in (cos, sin))
    return (y * cos + turned * sin).astype(x.dtype)


def patchify(video: Float[Array, "B T H W C"], patch: tuple[int, int, int]) -> Float[Array, "B S P"]:
    """Cuts a video into tokens of patch pixels, row-major in (T, H, W); inside a token the order is (C, t, h, w) as in a Conv3d."""
    t, h, w = patch
    return rearrange(video, "B (T t) (H h) (W w) C -> B (T H W) (C t h w)", t=t, h=h, w=w)


def unpatchify(tokens: Float[Array, "B S P"], patch: tuple[int, int, int], grid: tuple[int, int, int]) -> Float[Array, "B T H W C"]:
    """The inverse of `patchify` for a (T, H, W) grid of tokens."""
    (T, H, W), (t, h, w) = grid, patch
    return rearrange(tokens, "B (T H W) (C t h w) -> B (T t) (H h) (W w) C", T=T, H=H, W=W, t=t, h=h, w=w)


def cosine_waves(shape: tuple[int, ...]) -> np.ndarray:
    """The orthonormal cosine waves (DCT-II along every dim) of arrays of this shape, flattened: column i of (P, P) is wave i."""
    waves = np.ones((1, 1))
    for n in shape:
        at, i = np.arange(n)[:, None] + 0.5, np.arange(n)
        waves = np.kron(waves, np.sqrt((2 - (i == 0)) / n) * np.cos(np.pi / n * at * i))
    return waves.astype(np.float32)
