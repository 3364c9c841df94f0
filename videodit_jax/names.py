"""Our arrays and the tensors of diffusers' WanTransformer3DModel.

What has to be turned: torch keeps a matrix as (out, in); Wan rotates neighbours where we rotate halves, so that the rows of a head's queries
and keys are put in another order; Wan's last layer writes (t, h, w, C) where ours writes (C, t, h, w). And Wan's mask of given frames has a number for
each of the four frames in a latent one, which are all given or none: ours has one, and its weights are their sum.
"""
import math
import re

import numpy as np

from core_jax.weights import rename
from videodit_jax.autoencoder import FRAMES
from videodit_jax.model import ModelConfig

NAMES = {
    r"^patches\.": "patch_embedding.",
    r"^(text|time)_up\.": r"condition_embedder.\1_embedder.linear_1.",
    r"^(text|time)_down\.": r"condition_embedder.\1_embedder.linear_2.",
    r"^picture\.norm_in\.": "condition_embedder.image_embedder.norm1.",
    r"^picture\.up\.": "condition_embedder.image_embedder.ff.net.0.proj.",
    r"^picture\.down\.": "condition_embedder.image_embedder.ff.net.2.",
    r"^picture\.norm_out\.": "condition_embedder.image_embedder.norm2.",
    r"^modulation\.": "condition_embedder.time_proj.",
    r"^blocks\.": "blocks.{}.",
    r"\btable$": "scale_shift_table",
    r"^out\.": "proj_out.",
    r"self_attention\.": "attn1.",
    r"cross_attention\.picture_kv\.": "attn2.add_kv_proj.",
    r"cross_attention\.picture_k_norm\.": "attn2.norm_added_k.",
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
"""our names in diffusers', one after the other; {} is the layer"""
UNUSED = r"blocks\.\d+\.attn2\.norm_added_q\."
"""what the published weights of Wan 2.1's image-to-video hold besides, and no model reads"""


def theirs(ours: str) -> list[str]:
    """diffusers' names of the tensors in one of our arrays: it keeps apart what ours projects at once."""
    name = rename(ours, NAMES)
    merged = re.fullmatch(r"(.*\.(?:to|add)_)(kv|qkv)((?:_proj)?\..*)", name)
    return [f"{merged[1]}{letter}{merged[3]}" for letter in merged[2]] if merged else [name]


def is_rotated(ours: str, part: int) -> bool:
    """Whether the rows of this tensor of one of our arrays are queries or keys that positions rotate."""
    return "self_attention" in ours and "out" not in ours and part < 2


def halves(heads: int, rows: np.ndarray) -> np.ndarray:
    """Rows of queries or keys whose neighbours are rotated, as ours, whose halves are."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def neighbours(heads: int, rows: np.ndarray) -> np.ndarray:
    """The inverse of `halves`."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def turned(config: ModelConfig, ours: str, tensors: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """diffusers' tensors as our array, or one as it is where that cannot be."""
    if ours == "patches.w" and config.gray and tensors[0][0].size == _inputs(config, shape):
        rows = tensors[0].reshape(len(tensors[0]), -1, math.prod(config.patch))
        masks = slice(config.channels, config.channels + FRAMES)
        tensors = [np.concatenate([rows[:, : masks.start], rows[:, masks].sum(1, keepdims=True), rows[:, masks.stop :]], 1)]
    if sum(array.size for array in tensors) != np.prod(shape):
        return tensors[0]
    rows = np.concatenate([halves(config.heads, array) if is_rotated(ours, i) else array for i, array in enumerate(tensors)])
    if ours.startswith("out."):  # (t h w C) to (C t h w)
        rows = np.moveaxis(rows.reshape(-1, config.channels, *rows.shape[1:]), 1, 0)
        rows = rows.reshape(-1, *rows.shape[2:])
    return (rows.reshape(len(rows), -1).T if ours.endswith(".w") else rows).reshape(shape)


def parted(config: ModelConfig, ours: str, array: np.ndarray) -> list[np.ndarray]:
    """The inverse of `turned`: diffusers' tensors in one of our arrays, or a layer of it. Each of Wan's four numbers of a mask gets a quarter of the
    weight of ours."""
    number, C = len(theirs(ours)), config.channels
    outs = number * torch_shape(config, ours, array.shape)[0]
    rows = array.reshape(-1, outs).T if ours.endswith(".w") else array.reshape(outs)
    if ours.startswith("out."):  # (C t h w) to (t h w C)
        rows = np.moveaxis(rows.reshape(C, -1, *rows.shape[1:]), 1, 0).reshape(rows.shape)
    parts = [neighbours(config.heads, part) if is_rotated(ours, i) else part for i, part in enumerate(np.split(rows, number))]
    if ours == "patches.w":
        patches = parts[0].reshape(len(rows), -1, *config.patch)
        masks = [patches[:, C : C + 1] / FRAMES] * FRAMES if config.gray else []
        parts = [np.concatenate([patches[:, :C], *masks, patches[:, C + bool(masks) :]], 1)]
    return [part.reshape(1, *array.shape) if ours.endswith("table") else part for part in parts]


def _inputs(config: ModelConfig, shape: tuple[int, ...]) -> int:
    """Of Wan's patches, by the shape of ours."""
    return shape[0] + (FRAMES - 1) * math.prod(config.patch) * config.gray


def torch_shape(config: ModelConfig, ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of each of diffusers' tensors in one of our arrays, or a layer of it: (rows, columns) of a matrix, or how many numbers a vector has."""
    ins = math.prod(shape[: 2 if ours.endswith("attention.out.w") else 1]) if ours.endswith(".w") else 1
    rows = math.prod(shape) // ins // len(theirs(ours))
    ins = _inputs(config, shape) if ours == "patches.w" else ins
    return (rows, ins) if ours.endswith(".w") else (rows,)
