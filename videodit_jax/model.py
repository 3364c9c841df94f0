"""The Video DiT: patches of video, full spatio-temporal attention, cross-attention to text, adaLN from time and scores.

The arrangement is Wan 2.1's: one modulation of the condition c shared by all blocks, plus a learned table per block,

  (β₁, γ₁, α₁, β₂, γ₂, α₂) = W·silu(c) + table
  x ← x + α₁ · SelfAttention(LN(x)·(1 + γ₁) + β₁)
  x ← x + CrossAttention(LN(x), text)
  x ← x + α₂ · MLP(LN(x)·(1 + γ₂) + β₂)

A given picture may be read beside the text: CrossAttention then adds a second softmax, over the picture's own keys and values.

W and every table start at zero, so every gate α does, and the output layer too: an untrained model returns zero.
"""
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped

from core_jax.attention import Context, attention
from core_jax.layers import (
    MLP, LayerNorm, Linear, RMSNorm, absolute_positions, cosine_waves, frequency_embedding, gelu, layer_norm, modulate, patchify,
    precision, rotary_angles, rotate, unpatchify,
)
from core_jax.numbers import COUNT, refuse
from core_jax.remat import FEW_KEYS, Remat
from core_jax.rngs import Rngs
from core_jax.sharding import constrain
from core_jax.words import counted
from videodit_jax.conditioning import SCORES, ScoreEmbedding
from videodit_jax.text import Reads, TextConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of a Video DiT."""

    width: int = 128
    """E, model width"""
    layers: int = 4
    """L, number of layers"""
    heads: int = 4
    """K, attention heads; width / heads is the head dim"""
    mlp: int = 512
    """F, MLP width"""
    patch: tuple[int, int, int] = (2, 4, 4)
    """frames, rows and columns of one token"""
    channels: int = 3
    """C, channels of the video: 3 for pixels, the autoencoder's for latents"""
    given: bool = False
    """first frames may be given, as further channels of the input: image-to-video and continuation, beside text-to-video"""
    in_place: bool = False
    """given frames take the noisy ones' place, at time 0, without further channels (Wan 2.2's TI2V-5B)"""
    gray: bool = False
    """given frames are read as the latents of a video that is gray after them (Wan's image-to-video)"""
    picture: tuple[int, int] = (0, 0)
    """tokens and width of CLIP's features of the given picture, which are read beside the text (Wan 2.1's image-to-video); 0 0: they are not"""
    absolute: bool = False
    """add sines of absolute positions to the patches: small models learn sooner where a token is (Wan 2.1 has none)"""
    wiener: bool = False
    """predict beside the blocks by a linear filter of each patch, so that a short run on pixels need not first learn to copy (Wan 2.1 has none)"""
    frequencies: int = 256
    """width of the frequency embeddings of time and scores"""
    scores: tuple[str, ...] = ("motion", "aesthetic", "clarity")
    """the M scores that the model is conditioned on: some of motion, aesthetic, clarity, vtss and the data's further columns of numbers"""
    text: TextConfig = TextConfig()
    """the embedded text encoder"""
    remat: Remat = Remat.NONE
    """what a block's backward pass recomputes; a resumed run may change it"""
    context: Context = Context.AUTO
    """attention among a video's tokens where the mesh cuts them (--mesh.context); a resumed run may change it"""
    unroll: int = 1
    """layers in one turn of the scan; a small model on a CPU saves copies with all, at the price of compiling longer"""

    def __post_init__(self):
        refuse(self, {COUNT: "width layers heads mlp patch channels unroll"}, "model")
        if self.frequencies < 2 or self.frequencies % 2:
            raise ValueError(f"--model.frequencies {self.frequencies}: an even number is wanted")
        if not self.scores or len(set(self.scores) - {"file", "video", "caption", "text", "id"}) < len(self.scores):
            given = " ".join(["--model.scores", *self.scores])
            raise ValueError(f"{given}: one or more of {', '.join(SCORES)} or of the data's further columns of numbers are wanted, each once")
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(f"width {self.width} over {self.heads} heads must give an even head dim")
        if self.in_place and (not self.given or self.patch[0] > 1):
            raise ValueError("--model.in-place goes with --model.given, and with patches of one frame, whose tokens are given or not")
        if self.gray and (not self.given or self.in_place):
            raise ValueError("--model.gray goes with --model.given, and without --model.in-place")
        if any(self.picture) and (min(self.picture) < 1 or not self.gray):
            raise ValueError(f"--model.picture {self.picture[0]} {self.picture[1]}: two positive numbers are wanted, with --model.gray, or 0 0")

    @property
    def patch_numbers(self) -> int:
        """P, the numbers in one patch."""
        return math.prod(self.patch) * self.channels

    @property
    def patch_inputs(self) -> int:
        """As `patch_numbers`, with the channels of the frames that are given."""
        return math.prod(self.patch) * (2 * self.channels + 1) if self.given and not self.in_place else self.patch_numbers

    def grid(self, video: tuple[int, int, int]) -> tuple[int, int, int]:
        """Tokens along (T, H, W) of a video of this size.

        Raises:
          ValueError: the patch does not divide it.
        """
        if any(size % patch for size, patch in zip(video, self.patch)):
            raise ValueError(
                f"a video of {counted(video[0], 'frame')}, {video[1]}×{video[2]} cannot be cut into patches of "
                f"{counted(self.patch[0], 'frame')}, {self.patch[1]}×{self.patch[2]}: each size must be a multiple of the patch's"
            )
        return tuple(size // patch for size, patch in zip(video, self.patch))

    def cut(self, video: Shaped[Array, "B T H W C"]) -> Shaped[Array, "B S P"]:
        """A video, or what belongs to its pixels, by tokens, their numbers in the order of a Conv3d: (C, t, h, w)."""
        return constrain(patchify(video, self.patch), "B S P")

    def join(self, patches: Shaped[Array, "B S P"], video: tuple[int, int, int]) -> Shaped[Array, "B T H W C"]:
        """The inverse of `cut`, to a video of these frames, rows and columns."""
        return unpatchify(patches, self.patch, self.grid(video))


class SelfAttention(nnx.Module):
    """All tokens to all tokens, QK-norm over all heads together as Wan 2.1 has it, 3-D rotary positions."""

    def __init__(self, width: int, heads: int, *, context: Context = Context.AUTO, rngs: Rngs):
        per_head = (heads, width // heads)
        self.context = context
        self.qkv = Linear((width,), (3, *per_head), "E n K D", rngs=rngs)
        self.q_norm, self.k_norm = (RMSNorm(per_head, dims="K D") for _ in range(2))
        self.out = Linear(per_head, (width,), "K D E", rngs=rngs)

    def __call__(self, x: Float[Array, "B S E"], rotary: tuple[Array, Array]) -> Float[Array, "B S E"]:
        q, k, v = self.qkv.parts(x)
        q, k = rotate(self.q_norm(q), *rotary), rotate(self.k_norm(k), *rotary)
        q, k, v = (constrain(y, "B S K D") for y in (q, k, v))
        return self.out(attention(q, k, v, context=self.context))


class CrossAttention(nnx.Module):
    """Video tokens to text tokens, QK-norm; without text it adds only its bias. Its output starts at zero. Where a picture's tokens are read too, they
    have keys, values and a softmax of their own, and both are added."""

    def __init__(self, width: int, heads: int, picture: bool = False, *, rngs: Rngs):
        per_head = (heads, width // heads)
        self.q = Linear((width,), per_head, "E K D", rngs=rngs)
        self.kv = Linear((width,), (2, *per_head), "E n K D", rngs=rngs)
        self.q_norm, self.k_norm = (RMSNorm(per_head, dims="K D") for _ in range(2))
        self.out = Linear(per_head, (width,), "K D E", scale=0.0, rngs=rngs)
        self.picture_kv = Linear((width,), (2, *per_head), "E n K D", rngs=rngs) if picture else None
        self.picture_k_norm = RMSNorm(per_head, dims="K D") if picture else None

    def __call__(
        self, x: Float[Array, "B S E"], text: Float[Array, "B N E"], lengths: Int[Array, "B"], picture: Float[Array, "B N E"] | None = None
    ) -> Float[Array, "B S E"]:
        k, v = self.kv.parts(text)
        q = constrain(self.q_norm(self.q(x)), "B S K D")
        read = attention(q, self.k_norm(k), v, kv_lengths=lengths)
        if picture is not None:
            k, v = self.picture_kv.parts(picture)
            read = read + attention(q, self.picture_k_norm(k), v)
        return self.out(read)


class Block(nnx.Module):
    """The four lines at the top of this file."""

    def __init__(self, config: ModelConfig, *, rngs: Rngs):
        self.table = nnx.Param(jnp.zeros((6, config.width)), dims="n E")
        self.self_attention = SelfAttention(config.width, config.heads, context=config.context, rngs=rngs)
        self.cross_norm = LayerNorm(config.width)
        self.cross_attention = CrossAttention(config.width, config.heads, any(config.picture), rngs=rngs)
        self.mlp = MLP(config.width, config.mlp, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B S E"], modulation: Float[Array, "B 6 E"], text: Float[Array, "B N E"],
        lengths: Int[Array, "B"], rotary: tuple[Array, Array], still: tuple[Bool[Array, "B S 1"], Float[Array, "B 6 E"]] | None = None,
        picture: Float[Array, "B N E"] | None = None,
    ) -> Float[Array, "B S E"]:
        """`still`: tokens that have another modulation, and that one."""
        parts = lambda m: jnp.split((m + self.table[...][None]).astype(x.dtype), 6, axis=1)
        m = parts(modulation)
        if still is not None:
            m = [jnp.where(still[0], *pair) for pair in zip(parts(still[1]), m)]
        shift1, scale1, gate1, shift2, scale2, gate2 = m
        x = x + gate1 * self.self_attention(modulate(layer_norm(x), shift1, scale1), rotary)
        x = x + self.cross_attention(self.cross_norm(x), text, lengths, picture)
        x = x + gate2 * self.mlp(modulate(layer_norm(x), shift2, scale2))
        return constrain(x, "B S E")


class PictureEmbedding(nnx.Module):
    """LN, an MLP with the exact GELU, LN: from CLIP's features of a picture to tokens that cross-attention reads."""

    def __init__(self, width: int, out: int, *, rngs: Rngs):
        self.norm_in, self.norm_out = LayerNorm(width, 1e-5), LayerNorm(out, 1e-5)
        self.up = Linear((width,), (width,), "C C", rngs=rngs)
        self.down = Linear((width,), (out,), "C E", rngs=rngs)

    def __call__(self, features: Float[Array, "B N C"]) -> Float[Array, "B N E"]:
        return self.norm_out(self.down(gelu(self.up(self.norm_in(features)))))


class WienerFilter(nnx.Module):
    """C·(γ(c) ∘ Cᵀx): each cosine wave of a patch x by a gain that time and scores set, starting at 0.

    For data whose waves are uncorrelated, nearly those of natural video, the best linear predictor of x₀ has this form.
    """

    def __init__(self, config: ModelConfig, *, rngs: Rngs):
        self.shape = (config.channels, *config.patch)
        self.gain = Linear((config.width,), (config.patch_numbers,), "E P", scale=0.0, rngs=rngs)

    def __call__(self, patches: Float[Array, "B S P"], c: Float[Array, "B E"]) -> Float[Array, "B S P"]:
        waves = jnp.asarray(cosine_waves(self.shape), patches.dtype)
        product = functools.partial(jnp.matmul, precision=precision(patches))
        return product(product(patches, waves) * self.gain(c)[:, None].astype(patches.dtype), waves.T)


class VideoDiT(nnx.Module):
    """Predicts a flow's target from a noisy video, its time, a text and scores."""

    def __init__(self, config: ModelConfig, *, rngs: Rngs):
        E, P = config.width, config.patch_numbers
        self.config = config
        self.text = config.text.build(rngs=rngs)
        self.text_up = Linear((config.text.width,), (E,), "C E", rngs=rngs)
        self.text_down = Linear((E,), (E,), "E E", rngs=rngs)
        self.picture = PictureEmbedding(config.picture[1], E, rngs=rngs) if any(config.picture) else None
        self.patches = Linear((config.patch_inputs,), (E,), "P E", rngs=rngs)
        self.wiener = WienerFilter(config, rngs=rngs) if config.wiener else None
        self.time_up = Linear((config.frequencies,), (E,), "C E", rngs=rngs)
        self.time_down = Linear((E,), (E,), "E E", rngs=rngs)
        self.scores = ScoreEmbedding(len(config.scores), config.frequencies, E, rngs=rngs)
        self.modulation = Linear((E,), (6, E), "E n E", scale=0.0, rngs=rngs)
        keys = jax.random.split(rngs.params(), config.layers)
        self.blocks = jax.vmap(lambda key: Block(config, rngs=Rngs(key)))(keys)
        self.table = nnx.Param(jnp.zeros((2, E)), dims="n E")
        self.out = Linear((E,), (P,), "E P", scale=0.0, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T H W C"], t: Float[Array, "B"], tokens: dict[str, Array], scores: Float[Array, "B M"],
        given: Float[Array, "B T H W D"] | None = None, picture: Float[Array, "B N C"] | None = None,
    ) -> Float[Array, "B T H W C"]:
        """One prediction.

        Args:
          x: noisy video; its dtype is the dtype of the computation.
          t: time of the flow, 0 (data) to 1 (noise).
          tokens: what the text config's `tokenize` gives, stacked.
          scores: places in [0, 1] (`ScoreStatistics.normalise`), NaN for unknown, in the order of `config.scores`.
          given: frames that are given, as `given.channels` makes them; by default none is.
          picture: CLIP's features of the given picture, of a model that reads them.

        Returns:
          The target that the flow names (v, ε or x₀), in fp32.
        """
        cut, size = self.config.cut, x.shape[1:4]
        grid = self.config.grid(size)
        out = self.denoise(cut(x), grid, t, self.text(tokens), scores, None if given is None else cut(given), picture)
        return self.config.join(out, size)

    def denoise(
        self, patches: Float[Array, "B S P"], grid: tuple[int, int, int], t: Float[Array, "B"],
        context: tuple[Float[Array, "B N C"], Int[Array, "B"]], scores: Float[Array, "B M"], given: Float[Array, "B S D"] | None = None,
        picture: Float[Array, "B N C"] | None = None,
    ) -> Float[Array, "B S P"]:
        """As `__call__`, from patches to patches: cutting and joining a video costs a small model on a TPU as much as its layers.

        Args:
          patches, given: as `config.cut` makes them, and `grid` as `config.grid` does.
          context: the features that cross-attention reads, and their lengths, in the place of a text.
        """
        dtype = patches.dtype
        features, lengths = context
        features = constrain(features.astype(dtype), "B N C")
        text = constrain(self.text_down(jax.nn.gelu(self.text_up(features), approximate=True)), "B N E")
        if any(self.config.picture):
            picture = constrain(self.picture(picture.astype(dtype)), "B N E")

        def condition(t: Float[Array, "B"]) -> Float[Array, "B E"]:
            return self.time_down(jax.nn.silu(self.time_up(frequency_embedding(1000 * t, self.config.frequencies)))) + self.scores(scores)

        c, still = condition(t), None
        modulation = self.modulation(jax.nn.silu(c))
        angles = rotary_angles(grid, self.config.width // self.config.heads)[None, :, None]
        rotary = jnp.cos(angles), jnp.sin(angles)

        inputs = patches
        if self.config.in_place and given is not None:  # (2) of given.py; what is given back for these tokens nobody reads
            known, frames = jnp.split(given, [math.prod(self.config.patch)], -1)
            still = known[..., :1] > 0, self.modulation(jax.nn.silu(condition(jnp.zeros_like(t))))
            inputs = jnp.where(still[0], frames.astype(dtype), patches)
        elif self.config.given and not self.config.in_place:
            more = self.config.patch_inputs - self.config.patch_numbers
            given = jnp.zeros((*patches.shape[:-1], more)) if given is None else given
            inputs = jnp.concatenate([patches, given.astype(dtype)], -1)
        x = self.patches(inputs)
        if self.config.absolute:
            x = x + absolute_positions(grid, self.config.width)[None].astype(dtype)
        x = constrain(x, "B S E")
        block = self.config.remat.wrap(lambda x, block: (block(x, modulation, text, lengths, rotary, still, picture), None))
        x, _ = jax.lax.scan(block, x, self.blocks, unroll=self.config.unroll)

        shift, scale = jnp.split((self.table[...][None] + c[:, None]).astype(dtype), 2, axis=1)
        out = self.out(modulate(layer_norm(x), shift, scale))
        if self.wiener is not None:
            out = out + self.wiener(patches, jax.nn.silu(c))
        return out.astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def _new(config: ModelConfig) -> VideoDiT:
    return VideoDiT(config, rngs=Rngs(0))


def abstract_model(config: ModelConfig) -> VideoDiT:
    """The model's shapes, which jax traces once, however often they are asked for."""
    return _new.eval_shape(config)


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of one forward pass of one example, 2 a multiply-add."""

    attention: float
    """scores and their product with the values, in all layers"""
    few: float
    """of these, those over few keys (remat.py)"""
    blocks: float
    """all other matrix products of the layers"""
    ends: float
    """text, conditions, patches in and out"""
    frozen: bool = False
    """the weights stay, as beside LoRA, whose own products, about a hundredth, are left out"""

    @property
    def forward(self) -> float:
        return self.attention + self.blocks + self.ends

    @property
    def train(self) -> float:
        """Forward and backward, which counts twice the forward, once where weights have no gradient; what rematerialisation computes again does not count."""
        return 3 * self.forward - self.frozen * (self.blocks + self.ends)

    def executed(self, remat: Remat) -> float:
        """As `train`, with what is computed again: the scores once in attention's backward pass, and what the policy does not save."""
        again = remat.again(self.attention - self.few, self.blocks + self.few)
        return self.train + self.attention / 2 + again


def forward_flops(config: ModelConfig, video: tuple[int, int, int], frozen: bool = False) -> Flops:
    """Of matrix products and attention, with a caption of full length."""
    t, h, w = config.grid(video)
    S, N, E, F, L = t * h * w, config.text.words, config.width, config.mlp, config.layers
    I, D = config.picture
    keys = S, N, I
    few = sum(2 * S * number * E for number in keys if number <= FEW_KEYS)
    blocks = S * 4 * E * E + (2 * S + 2 * (N + I)) * E * E + S * 2 * E * F
    P, C, M = config.patch_numbers, config.text.width, len(config.scores)
    text = N * (4 * C * C * (config.text.reads is Reads.BYTES) + C * E + E * E)
    conditions = (config.frequencies + 7 * E) * E + M * (config.frequencies + E) * E
    ends = S * (P + config.patch_inputs) * E + text + conditions + I * D * (D + E)
    if config.wiener:
        ends += 2 * S * P * P + E * P
    return Flops(4.0 * L * S * sum(keys) * E, 2.0 * L * few, 2.0 * L * blocks, 2.0 * ends, frozen)
