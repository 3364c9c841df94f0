"""A directory of a small autoencoder with random weights, as diffusers writes one, without diffusers."""
import json
from pathlib import Path

import numpy as np
from flax import nnx

from core_jax.tensors import save_file
from core_jax.weights import named
from videodit_jax.autoencoder.load import theirs
from videodit_jax.autoencoder.model import Autoencoder, AutoencoderConfig

CONFIG = AutoencoderConfig(4, (1, 1, 2, 2), 1, mean=tuple(np.linspace(-0.1, 0.1, 16).tolist()), std=tuple(np.linspace(0.05, 0.15, 16).tolist()))


def autoencoder(seed: int = 0) -> Autoencoder:
    """Whose every bias and scale counts."""
    model, rng = Autoencoder(CONFIG, rngs=nnx.Rngs(seed)), np.random.default_rng(seed)
    for path, leaf in nnx.iter_graph(model):
        if isinstance(leaf, nnx.Param) and leaf[...].ndim == 1:
            leaf[...] = leaf[...] + 0.1 * rng.standard_normal(leaf.shape)
    return model


def write(directory: Path, model: Autoencoder | None = None, **changes) -> Path:
    """The directory, with `changes` in its config.json."""
    config = {
        "_class_name": "AutoencoderKLWan", "base_dim": CONFIG.width, "dim_mult": CONFIG.multipliers, "num_res_blocks": CONFIG.blocks, "z_dim": 16,
        "temperal_downsample": CONFIG.halved, "latents_mean": CONFIG.mean, "latents_std": CONFIG.std,
    }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config | changes))
    table = {theirs(name): _turned(name, np.asarray(array)) for name, array in named(model or autoencoder()).items()}
    save_file(directory / "diffusion_pytorch_model.safetensors", table)
    return directory


def _turned(name: str, array: np.ndarray) -> np.ndarray:
    """As torch keeps it."""
    if name.endswith(".scale"):
        return array.reshape(-1, 1, 1) if "attention" in name else array.reshape(-1, 1, 1, 1)
    if name.endswith(".b"):
        return array
    array = array.transpose(4, 3, 0, 1, 2)
    return array[:, :, 0] if ".space." in name or "attention" in name else array
