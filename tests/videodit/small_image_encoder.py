"""A directory of a small CLIP image tower with random weights, as transformers writes one, without transformers."""
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from core_jax.tensors import save_file
from core_jax.weights import named, rename
from koala_jax.aesthetic.clip import NAMES, CLIPConfig, CLIPImage

CONFIG = CLIPConfig(size=28, patch=14, width=20, layers=3, heads=2, mlp=36, out=0, quick=False)
FEATURES = (5, 20)
"""tokens of a picture, and their width"""


def write(directory: Path, seed: int = 0, **changes) -> Path:
    """`image_encoder` in the directory, with `changes` in config.json."""
    c = CONFIG
    config = {
        "model_type": "clip_vision_model", "hidden_act": "gelu", "image_size": c.size, "patch_size": c.patch, "hidden_size": c.width,
        "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "intermediate_size": c.mlp, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    rng, table = np.random.default_rng(seed), {"vision_model.post_layernorm.weight": np.ones(c.width, np.float32)}
    for name, leaf in named(jax.eval_shape(lambda: CLIPImage(dataclasses.replace(c), rngs=nnx.Rngs(0)))).items():
        theirs, stacked = rename(name, NAMES), name.startswith("blocks.")
        shape = leaf.shape[stacked:]
        if name == "patches.w":
            shape = (3, c.patch, c.patch, c.width)
        elif name.endswith(".w"):
            shape = (np.prod(shape[:2]), shape[-1]) if ".attention.out." in name else (shape[0], np.prod(shape[1:]))
        else:
            shape = (np.prod(shape),) if stacked else shape
        for i in range(c.layers if stacked else 1):
            one = (0.1 if name.endswith(("offset", "b", "scale")) else 0.3) * rng.standard_normal(shape, np.float32) + name.endswith("scale")
            table[theirs.format(i)] = np.moveaxis(one, -1, 0) if name.endswith(".w") else one
    (directory / "image_encoder").mkdir(parents=True, exist_ok=True)
    (directory / "image_encoder" / "config.json").write_text(json.dumps(config | changes))
    save_file(directory / "image_encoder" / "model.safetensors", table)
    return directory
