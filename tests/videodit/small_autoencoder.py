"""A directory of a small autoencoder with random weights, as diffusers writes one, without diffusers."""
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.rngs import Rngs
from core_jax.tensors import save_file
from core_jax.weights import named, renamed
from videodit_jax.autoencoder.load import theirs
from videodit_jax.autoencoder.model import Autoencoder, AutoencoderConfig

def _statistics(channels: int) -> dict[str, tuple[float, ...]]:
    return {"mean": tuple(np.linspace(-0.1, 0.1, channels).tolist()), "std": tuple(np.linspace(0.05, 0.15, channels).tolist())}


CONFIG = AutoencoderConfig((4, 4), (1, 1, 2, 2), 1, **_statistics(16))
WAN22 = AutoencoderConfig((4, 8), (1, 2, 4, 4), 1, **_statistics(48), shortcuts=True)


def autoencoder(config: AutoencoderConfig = CONFIG, seed: int = 0) -> Autoencoder:
    """Whose every bias and scale counts. Drawn by NumPy: those that a new model draws take two seconds to compile."""
    shapes, rng = jax.eval_shape(lambda: Autoencoder(config, rngs=Rngs(0))), np.random.default_rng(seed)
    spread = lambda shape: 1 / math.sqrt(math.prod(shape[:-1])) if len(shape) > 1 else 0.1
    drawn = lambda name, shape: spread(shape) * rng.standard_normal(shape, np.float32) + name.endswith(".scale")
    return renamed(shapes, {name: jnp.asarray(drawn(name, leaf.shape), jnp.float32) for name, leaf in named(shapes).items()})


def video(config: AutoencoderConfig = CONFIG, batch: int = 1) -> np.ndarray:
    """Two latent pixels by three."""
    return np.random.default_rng(0).uniform(-1, 1, (batch, 9, 2 * config.latents.pixels, 3 * config.latents.pixels, 3)).astype(np.float32)


def arguments(config: AutoencoderConfig) -> dict[str, Any]:
    """What diffusers' AutoencoderKLWan is made with."""
    more = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 16} if config.shortcuts else {}
    return {
        "base_dim": config.widths[0], "decoder_base_dim": config.widths[1], "dim_mult": [*config.multipliers], "num_res_blocks": config.blocks,
        "z_dim": len(config.mean), "temperal_downsample": [*config.halved], "latents_mean": [*config.mean], "latents_std": [*config.std],
    } | more  # fmt: skip


def write(directory: Path, model: Autoencoder | None = None, **changes) -> Path:
    """The directory, with `changes` in its config.json."""
    model = model or autoencoder()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLWan"} | arguments(model.config) | changes))
    table = {theirs(model.config, name): _turned(name, np.asarray(array)) for name, array in named(model).items()}
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
