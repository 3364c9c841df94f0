"""The arrangement's public original, diffusers' WanTransformer3DModel (Wan 2.1), its weights in our model by a table of names; and its autoencoder.

What the table has to turn: torch keeps a matrix as (out, in); Wan rotates neighbours where we rotate halves, so that the rows of a
head's queries and keys are put in another order; Wan's last layer writes (t, h, w, C) where ours writes (C, t, h, w). Our metric
conditions, which Wan has not, start at zero and change nothing.
"""
import dataclasses
import re
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from jaxtyping import Array, Float, Int

from core_jax.weights import named, rename, renamed
from tests.reproduce.comparison import Difference, relative
from tests.videodit import small_autoencoder
from videodit_jax.autoencoder.load import load as load_autoencoder
from videodit_jax.autoencoder.model import Autoencoder
from videodit_jax.model import ModelConfig, VideoDiT
from videodit_jax.text import TextConfig


class GivenFeatures(nnx.Module):
    """Features computed beforehand, as a frozen encoder would give them."""

    def __call__(self, tokens: dict[str, Array]) -> tuple[Float[Array, "B N C"], Int[Array, "B"]]:
        return tokens["features"], tokens["length"]


@dataclasses.dataclass(frozen=True)
class GivenText(TextConfig):
    def build(self, *, rngs: nnx.Rngs) -> GivenFeatures:
        return GivenFeatures()


MODEL = ModelConfig(
    width=72, layers=2, heads=3, mlp=100, patch=(1, 2, 2), channels=4, frequencies=32, text=GivenText(words=7, width=20)
)

NAMES = {
    r"^patches\.": "patch_embedding.",
    r"^(text|time)_up\.": r"condition_embedder.\1_embedder.linear_1.",
    r"^(text|time)_down\.": r"condition_embedder.\1_embedder.linear_2.",
    r"^modulation\.": "condition_embedder.time_proj.",
    r"\btable$": "scale_shift_table",
    r"^out\.": "proj_out.",
    r"self_attention\.": "attn1.",
    r"cross_attention\.": "attn2.",
    r"\.(q|k)_norm\.": r".norm_\1.",
    r"attn(\d)\.(q|kv|qkv)\.": r"attn\1.to_\2.",
    r"attn(\d)\.out\.": r"attn\1.to_out.0.",
    r"cross_norm\.": "norm2.",
    r"mlp\.up\.": "ffn.net.0.proj.",
    r"mlp\.down\.": "ffn.net.2.",
    r"\.(w|scale)$": ".weight",
    r"\.(b|offset)$": ".bias",
}
"""our names in Wan's, one after the other"""


def _parts(name: str) -> list[str]:
    """Wan keeps apart what ours projects at once."""
    merged = re.fullmatch(r"(.*\.to_)(kv|qkv)(\..*)", name)
    return [f"{merged[1]}{letter}{merged[3]}" for letter in merged[2]] if merged else [name]


def _from_wan(name: str, array: np.ndarray) -> np.ndarray:
    """Wan's array with its rows in our order."""
    if re.search(r"attn1\.(to_|norm_)[qk]\.", name):  # neighbours to halves
        array = array.reshape(MODEL.heads, -1, 2, *array.shape[1:]).swapaxes(1, 2)
        array = array.reshape(-1, *array.shape[3:])
    if name.startswith("proj_out."):  # (t h w C) to (C t h w)
        array = np.moveaxis(array.reshape(-1, MODEL.channels, *array.shape[1:]), 1, 0)
        array = array.reshape(-1, *array.shape[2:])
    return array


def load(shapes: VideoDiT, wan: dict[str, np.ndarray]) -> VideoDiT:
    """Our model (given as shapes) with Wan's weights; every one of them must find its place."""
    table, used = {}, set()
    for ours, leaf in named(shapes).items():
        if ours.startswith("scores."):
            table[ours] = np.zeros(leaf.shape, np.float32)
            continue
        name = rename(ours, NAMES)
        stacked = ours.startswith("blocks.")
        pieces = []
        for layer in [name.replace("blocks.", f"blocks.{i}.") for i in range(MODEL.layers)] if stacked else [name]:
            rows = np.concatenate([_from_wan(part, wan[part]) for part in _parts(layer)])
            rows = rows.reshape(len(rows), -1).T if ours.endswith(".w") else rows
            pieces.append(rows.reshape(leaf.shape[stacked:]))
            used.update(_parts(layer))
        table[ours] = np.stack(pieces) if stacked else pieces[0]
    assert used == set(wan), f"left over: {sorted(set(wan) - used)}"
    return renamed(shapes, {name: jnp.asarray(array) for name, array in table.items()})


def compare_wan(given: bool = False) -> Difference:
    """A random Wan 2.1 in diffusers and in ours: predictions, of text-to-video or with frames that are given."""
    from diffusers import WanTransformer3DModel

    c = dataclasses.replace(MODEL, given=given)
    torch.manual_seed(0)
    wan = WanTransformer3DModel(
        patch_size=c.patch, num_attention_heads=c.heads, attention_head_dim=c.width // c.heads, in_channels=c.channels * 2 + 1 if given else c.channels,
        out_channels=c.channels, text_dim=c.text.width, freq_dim=c.frequencies, ffn_dim=c.mlp, num_layers=c.layers,
    ).eval()
    with torch.no_grad():
        for parameter in wan.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    shapes = jax.eval_shape(lambda: VideoDiT(c, rngs=nnx.Rngs(0)))
    model = load(shapes, {name: p.detach().numpy() for name, p in wan.named_parameters()})

    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 3, 4, 6, c.channels), np.float32)
    text = rng.standard_normal((2, c.text.words, c.text.width), np.float32)
    t = np.array([0.25, 0.9], np.float32)
    frames = rng.standard_normal((2, 3, 4, 6, c.channels + 1), np.float32) if given else x[..., :0]
    tokens = {"features": jnp.asarray(text), "length": jnp.full(2, c.text.words)}
    out = jax.jit(VideoDiT.__call__)(model, x, t, tokens, jnp.full((2, len(c.scores)), jnp.nan), frames if given else None)
    with torch.no_grad():
        theirs = wan(torch.from_numpy(np.concatenate([x, frames], -1)).movedim(-1, 1), torch.from_numpy(1000 * t), torch.from_numpy(text)).sample
    return Difference("diffusers' Wan 2.1" + ", frames given" * given, relative(out, theirs.movedim(1, -1)))


def compare_autoencoder(video: np.ndarray = np.random.default_rng(0).uniform(-1, 1, (1, 9, 16, 24, 3)).astype(np.float32)) -> Difference:
    """A random autoencoder of Wan 2.1 of diffusers, and ours from the directory that it writes: the worse of latents and pixels."""
    from diffusers import AutoencoderKLWan

    c = small_autoencoder.CONFIG
    torch.manual_seed(0)
    wan = AutoencoderKLWan(
        base_dim=c.width, dim_mult=[*c.multipliers], num_res_blocks=c.blocks, temperal_downsample=[*c.halved], latents_mean=[*c.mean], latents_std=[*c.std],
    ).eval()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for name, parameter in wan.named_parameters():
            if name.endswith(("gamma", "bias")):
                parameter += 0.1 * torch.randn_like(parameter)
        wan.save_pretrained(f"{folder}/vae")
        ours = load_autoencoder(folder)
        means = wan.encode(torch.from_numpy(video).movedim(-1, 1)).latent_dist.mode()
        pixels = wan.decode(means).sample.movedim(1, -1)
    latents = (means.movedim(1, -1).numpy() - np.array(c.mean, np.float32)) / np.array(c.std, np.float32)
    coded, decoded = jax.jit(Autoencoder.encode)(ours, video), jax.jit(Autoencoder.decode)(ours, latents)
    return Difference("diffusers' autoencoder of Wan 2.1", max(relative(coded, latents), relative(decoded, pixels)))
