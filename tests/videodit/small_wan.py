"""A directory of a small Wan 2.1 or 2.2 with random weights, as diffusers writes one, without diffusers."""
import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from core_jax.tensors import save_file
from core_jax.weights import named
from tests.videodit import small_autoencoder, small_image_encoder, small_text_encoder
from videodit_jax.model import ModelConfig, VideoDiT
from videodit_jax.names import theirs
from videodit_jax.text import Reads, TextConfig

CONFIG = ModelConfig(
    width=72, layers=2, heads=3, mlp=100, patch=(1, 2, 2), channels=16, frequencies=32, text=TextConfig(512, small_text_encoder.CONFIG.width, Reads.FEATURES)
)


WAN22 = dataclasses.replace(CONFIG, channels=48)


I2V = dataclasses.replace(CONFIG, given=True, gray=True)
I2V21 = dataclasses.replace(I2V, picture=small_image_encoder.FEATURES)


def write(directory: Path, c: ModelConfig = CONFIG, boundary: float | None = None, **changes) -> Path:
    """The whole pipeline, of two experts with a boundary between them, with `changes` in the transformer's config.json."""
    small_text_encoder.write(directory)
    if any(c.picture):
        small_image_encoder.write(directory)
    small_autoencoder.write(directory / "vae", small_autoencoder.autoencoder(small_autoencoder.WAN22) if c == WAN22 else None)
    (directory / "scheduler").mkdir(exist_ok=True)
    (directory / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "UniPCMultistepScheduler", "flow_shift": 5.0}))
    (directory / "model_index.json").write_text(json.dumps({
        "_class_name": "WanPipeline", "expand_timesteps": c == WAN22, "boundary_ratio": boundary,
        "transformer": ["diffusers", "WanTransformer3DModel"], "transformer_2": ["diffusers", "WanTransformer3DModel"] if boundary else [None, None],
    }))  # fmt: skip
    for seed, name in enumerate(["transformer", "transformer_2"] if boundary else ["transformer"]):
        _transformer(directory / name, c, seed, changes)
    return directory


def _transformer(folder: Path, c: ModelConfig, seed: int, changes: dict) -> None:
    rng, table, channels = np.random.default_rng(seed), {}, 2 * c.channels + 4 if c.gray else c.channels
    for name, leaf in named(jax.eval_shape(lambda: VideoDiT(c, rngs=nnx.Rngs(0)))).items():
        if name.startswith(("scores.", "text.")):
            continue
        parts, stacked = theirs(name), name.startswith("blocks.")
        shape, matrix = leaf.shape[stacked:], name.endswith(".w")
        shape = (channels * math.prod(c.patch), *shape[1:]) if name == "patches.w" else shape
        ins = (shape[:2] if name.endswith("attention.out.w") else shape[:1]) if matrix else ()
        rows = (math.prod(shape[len(ins) :]) // len(parts),) if not name.endswith("table") else (1, *shape)
        for part in parts:
            for i in range(leaf.shape[0] if stacked else 1):
                one = rng.standard_normal((*rows, *([math.prod(ins)] if ins else [])), np.float32) * (0.5 / math.sqrt(math.prod(ins)) if ins else 0.1)
                one = one.reshape(-1, channels, *c.patch) if name == "patches.w" else one
                table[part.format(i)] = one + name.endswith("scale")
    if any(c.picture):  # as the published I2V weights have it beside the others, for nothing
        table |= {f"blocks.{i}.attn2.norm_added_q.weight": np.ones(c.width, np.float32) for i in range(c.layers)}
    config = {
        "_class_name": "WanTransformer3DModel", "patch_size": c.patch, "num_attention_heads": c.heads, "attention_head_dim": c.width // c.heads,
        "in_channels": channels, "out_channels": c.channels, "text_dim": c.text.width, "freq_dim": c.frequencies, "ffn_dim": c.mlp, "num_layers": c.layers,
        "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "pos_embed_seq_len": None,
        "image_dim": c.picture[1] or None, "added_kv_proj_dim": c.width if any(c.picture) else None,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | changes))
    save_file(folder / "diffusion_pytorch_model.safetensors", table)
