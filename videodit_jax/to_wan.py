"""A whole model as diffusers' WanTransformer3DModel reads it: config.json and diffusion_pytorch_model.safetensors.

Wan knows no scores. Where none is known the score embedding e is a constant, which goes into the bias of the time embedding:

  c = W·silu(…) + b + e
"""
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from core_jax.files import write_json
from core_jax.tensors import END, save_file
from core_jax.weights import fetch, named
from videodit_jax.autoencoder import FRAMES
from videodit_jax.autoencoder.load import STEM
from videodit_jax.conditioning import ScoreEmbedding
from videodit_jax.config import TrainConfig
from videodit_jax.flow import Target
from videodit_jax.model import ModelConfig, VideoDiT
from videodit_jax.names import parted, theirs, torch_shape
from videodit_jax.text import Reads


def refuse_unlike(folder: epath.PathLike, config: TrainConfig) -> None:
    """Raises ValueError where a run's model has what Wan's has not."""
    c = config.model
    unlike = {
        "--model.wiener": c.wiener, "--model.absolute": c.absolute, "--model.text.reads bytes": c.text.reads is Reads.BYTES,
        "--model.given": c.given and not (c.in_place or c.gray), f"--flow.target {config.flow.target.value}": config.flow.target is not Target.V,
    }  # fmt: skip
    if found := [name for name, is_so in unlike.items() if is_so]:
        raise ValueError(f"--diffusers: {folder} was trained with {', '.join(found)}, which no Wan has, and diffusers could not read it")


def config_of(c: ModelConfig) -> dict:
    """config.json of a WanTransformer3DModel of these sizes."""
    return {
        "_class_name": "WanTransformer3DModel", "patch_size": c.patch, "num_attention_heads": c.heads, "attention_head_dim": c.width // c.heads,
        "in_channels": 2 * c.channels + FRAMES if c.gray else c.channels, "out_channels": c.channels, "text_dim": c.text.width,
        "freq_dim": c.frequencies, "ffn_dim": c.mlp, "num_layers": c.layers, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": 1e-6,
        "image_dim": c.picture[1] or None, "added_kv_proj_dim": c.width if any(c.picture) else None, "rope_max_seq_len": 1024, "pos_embed_seq_len": None,
    }  # fmt: skip


class Made:
    """A tensor that is made when it is fetched: all of a large model's at once would take its size once more."""

    def __init__(self, nbytes: int, make: Callable[[], np.ndarray]):
        self.nbytes, self.make = nbytes, make

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.make()


def tensors(config: ModelConfig, model: VideoDiT) -> dict[str, Made]:
    """diffusers' tensors, by name; of several hosts all must fetch them, in the same order."""
    table, found = named(model), {}
    none = jax.jit(ScoreEmbedding.__call__)(model.scores, jnp.full((1, len(config.scores)), jnp.nan))
    bias = fetch(table["time_down.b"])
    table["time_down.b"] = bias + fetch(none)[0].astype(bias.dtype)
    for ours, x in table.items():
        if ours.startswith(("scores.", "text.")):
            continue
        stacked = ours.startswith("blocks.")
        nbytes = math.prod(torch_shape(config, ours, x.shape[stacked:])) * x.dtype.itemsize
        for part, name in enumerate(theirs(ours)):
            for i in range(len(x) if stacked else 1):
                make = lambda ours=ours, x=x, part=part, place=i if stacked else ...: parted(config, ours, fetch(x[place]))[part]
                found[name.format(i)] = Made(nbytes, make)
    return found


def write(folder: epath.Path, config: ModelConfig, model: VideoDiT) -> None:
    """The weights, in their dtype, and at last the config; the first host writes, all must ask."""
    save_file(folder / (STEM + END), tensors(config, model), metadata={"format": "pt"})
    if jax.process_index() == 0:
        write_json(folder / "config.json", config_of(config))
