"""The dynamic tower: Swin3D with gated relative position biases, over videos spliced from fragments.

  x ← x + Attention(LN(x))     within windows, every second block shifted      (Video Swin, arXiv 2106.13230)
  x ← x + MLP(LN(x))
  bias = m · r + (1 − m) · f                                                    (FAST-VQA, arXiv 2207.02595)

r and f are the tables of relative positions and of positions within a fragment, m the distance of two tokens in fragments
(windows.py). Neighbours in one window may come from far parts of the picture, and m tells. The last stage has r alone.
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from core_jax.attention import attention
from core_jax.layers import MLP, LayerNorm, Linear, patchify
from core_jax.mesh import platform
from core_jax.rngs import Rngs
from core_jax.sharding import constrain
from koala_jax.tsa.layers import by_token, drop_path, fold, gelu
from koala_jax.tsa.windows import BASE_WINDOW, REGIONS, Size, Windows, adaptive_window, offsets

EPS = 1e-5
HIDDEN = -100.0
"""what the score of a pair of two regions loses"""
FRAGMENTS = max(BASE_WINDOW[1:])
"""along an axis, at most"""
TABLE = int(np.prod([2 * w - 1 for w in BASE_WINDOW]))


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Sizes of the dynamic tower; the defaults are Swin3D-T."""

    width: int = 96
    """E of the first stage; each further one doubles it"""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    patch: Size = (2, 4, 4)
    drop_path: float = 0.1
    """stochastic depth of the last block; it rises linearly from 0"""

    @property
    def out(self) -> int:
        """E of the last stage."""
        return self.width * 2 ** (len(self.depths) - 1)


class WindowAttention(nnx.Module):
    """Tokens of one window to each other."""

    def __init__(self, width: int, heads: int, *, fragments: bool, rngs: Rngs):
        self.qkv = Linear((width,), (3, heads, width // heads), "E n K D", rngs=rngs)
        self.out = Linear((heads, width // heads), (width,), "K D E", rngs=rngs)
        self.relative = nnx.Param(0.02 * jax.random.truncated_normal(rngs.params(), -2, 2, (TABLE, heads)), dims="n K")
        self.fragment = nnx.Param(jnp.zeros((TABLE, heads)), dims="n K") if fragments else None

    def __call__(self, x: Float[Array, "B*G S E"], windows: Windows) -> Float[Array, "B*G S E"]:
        """All windows at once; on a CPU one after the other, so that bias and scores stay in its cache."""
        tables = [None if table is None else _of_pairs(table[...], windows) for table in (self.relative, self.fragment)]

        def attend(x, fragments, regions):
            q, k, v = self.qkv.parts(x)
            return self.out(attention(q, k, v, bias=_bias(*tables, fragments, regions)))

        places = jax.tree.map(_runtime, (windows.fragments, windows.regions))
        if platform() != "cpu":
            return attend(x, *places)
        x = rearrange(x, "(B G) S E -> G B S E", G=windows.number)
        y = jax.lax.map(lambda window: attend(*window), (x, *jax.tree.map(lambda place: place[:, None], places)))
        return rearrange(y, "G B S E -> (B G) S E")


def _of_pairs(table: Float[Array, "n K"], windows: Windows) -> Float[Array, "1 K S S"]:
    """Its row of the table for every query and key.

    A TPU would read one after the other (392² of them for a full window). There a product makes the pairs of one frame, for every distance in
    time, of which each frame of queries takes those to the frames of keys.
    """
    if platform() != "tpu":
        return jnp.moveaxis(table[windows.index], -1, 0)[None]
    T, base = windows.window[0], BASE_WINDOW[0]
    pairs = jax.nn.one_hot(jnp.asarray(place := offsets(windows.window[1:], BASE_WINDOW[1:])), len(table) // (2 * base - 1), dtype=table.dtype)
    planes = jnp.einsum("stn,dnk->ksdt", pairs, table.reshape(2 * base - 1, -1, table.shape[-1])[::-1], precision="highest")
    planes = rearrange(planes, "K s d t -> 1 K s (d t)")
    return jnp.concatenate([planes[..., (base - 1 - t) * len(place) :][..., : T * len(place)] for t in range(T)], 2)


def _bias(
    bias: Float[Array, "1 K S S"], inside: Float[Array, "1 K S S"] | None, fragments: Int[Array, "G S 2"], regions: Int[Array, "G S 3"] | None
) -> Float[Array, "G K S S"]:
    """The last line at the top, of every window, or of one that stands for all."""
    if inside is not None:
        number = np.arange(FRAGMENTS)
        m = _pairs(jnp.asarray(np.abs(number[:, None] - number), bias.dtype), fragments)
        bias = inside + m * (bias - inside)
    if regions is not None:
        shared = _pairs(jnp.eye(REGIONS, dtype=bias.dtype), regions)
        bias = bias + jnp.where(shared < regions.shape[-1], HIDDEN, 0.0)
    return bias


def _pairs(table: Float[Array, "n n"], places: Int[Array, "G S axes"]) -> Float[Array, "G 1 S S"]:
    """Σ_axes table[place of query, place of key], by products of matrices: on a CPU a loop over the pairs takes four times as long."""
    at = jax.nn.one_hot(places, len(table), dtype=table.dtype)
    return jnp.einsum("gsam,mn,gtan->gst", at, table, at, precision="highest")[:, None]


def _runtime(constant: np.ndarray) -> Int[Array, "..."]:
    """Keeps the compiler from working out arrays of G·S·S numbers while it compiles."""
    return jax.lax.optimization_barrier(jnp.asarray(constant, jnp.int32))


class Block(nnx.Module):
    """The two lines at the top."""

    def __init__(self, width: int, heads: int, *, fragments: bool, drop_path: float, rngs: Rngs):
        self.rate = drop_path
        self.norm1, self.norm2 = LayerNorm(width, EPS), LayerNorm(width, EPS)
        self.attention = WindowAttention(width, heads, fragments=fragments, rngs=rngs)
        self.mlp = MLP(width, 4 * width, gelu, rngs=rngs)

    def __call__(self, x: Float[Array, "B T H W E"], windows: Windows, key: PRNGKeyArray | None) -> Float[Array, "B T H W E"]:
        y = self.attention(windows.cut(by_token(self.norm1, x)), windows)
        x = x + drop_path(windows.join(y), self.rate, fold(key, 0))
        x = x + drop_path(by_token(self.mlp, by_token(self.norm2, x)), self.rate, fold(key, 1))
        return constrain(x, "B T H W E")


class PatchMerging(nnx.Module):
    """Halves rows and columns (padded to even), doubles the width. The four tokens come column by column."""

    def __init__(self, width: int, *, rngs: Rngs):
        self.norm = LayerNorm(4 * width, EPS)
        self.reduction = Linear((4 * width,), (2 * width,), "E E", bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "B T H W E"]) -> Float[Array, "B T H/2 W/2 2*E"]:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, x.shape[3] % 2), (0, 0)))
        x = jnp.concatenate([x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)], -1)
        return self.reduction(by_token(self.norm, x))


class Stage(nnx.Module):
    """Blocks of one resolution, then patches are merged for the next."""

    def __init__(self, width: int, heads: int, rates: list[float], *, last: bool, rngs: Rngs):
        self.blocks = nnx.List(Block(width, heads, fragments=not last, drop_path=rate, rngs=rngs) for rate in rates)
        self.merge = None if last else PatchMerging(width, rngs=rngs)

    def __call__(self, x: Float[Array, "B T H W E"], window: Size, key: PRNGKeyArray | None) -> Float[Array, "B T h w F"]:
        for i, block in enumerate(self.blocks):
            x = block(x, Windows.of(x.shape[1:4], window, shifted=i % 2 == 1), fold(key, i))
        return x if self.merge is None else self.merge(x)


class Swin3D(nnx.Module):
    """Features of a clip, one vector a token of the last stage."""

    def __init__(self, config: SwinConfig, *, rngs: Rngs):
        self.patch = config.patch
        self.embed = Linear((3 * int(np.prod(config.patch)),), (config.width,), "P E", rngs=rngs)
        self.embed_norm = LayerNorm(config.width, EPS)
        rates = np.linspace(0, config.drop_path, sum(config.depths))
        rates = np.split(rates, np.cumsum(config.depths)[:-1])
        self.stages = nnx.List(
            Stage(config.width * 2**i, heads, rates[i].tolist(), last=i == len(config.depths) - 1, rngs=rngs)
            for i, heads in enumerate(config.heads)
        )
        self.norm = LayerNorm(config.out, EPS)

    def __call__(self, clip: Float[Array, "B T H W 3"], key: PRNGKeyArray | None = None) -> Float[Array, "B t h w E"]:
        """A normalised clip (fragments.normalised); a key switches stochastic depth on.

        Raises:
          ValueError: the clip is too small, or larger than 35 frames of 255×255.
        """
        window = adaptive_window(clip.shape[1:4])
        clip = jnp.pad(clip, ((0, 0), *((0, -n % p) for n, p in zip(clip.shape[1:4], self.patch)), (0, 0)))
        grid = [n // p for n, p in zip(clip.shape[1:4], self.patch)]
        x = self.embed_norm(self.embed(patchify(clip, self.patch)))
        x = x.reshape(x.shape[0], *grid, -1)
        for i, stage in enumerate(self.stages):
            x = stage(x, window, fold(key, i))
        return by_token(self.norm, x)
