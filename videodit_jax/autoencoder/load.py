"""The autoencoder of a directory in diffusers' format (AutoencoderKLWan): config.json and diffusion_pytorch_model.safetensors."""
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from core_jax.directory import held_config, on_disk, stream
from core_jax.files import existing, sha256
from core_jax.tensors import Tensors
from core_jax.weights import rename
from videodit_jax.autoencoder.model import CHANNELS, Autoencoder, AutoencoderConfig

NAMES = {
    r"^encoder\.layers\.": "encoder.down_blocks.",
    r"^decoder\.levels\.(\d+)\.blocks\.": r"decoder.up_blocks.\1.resnets.",
    r"^decoder\.levels\.(\d+)\.double\.": r"decoder.up_blocks.\1.upsamplers.0.",
    r"^moments\.": "quant_conv.",
    r"^latents\.": "post_quant_conv.",
    r"\.middle\.block1\.": ".mid_block.resnets.0.",
    r"\.middle\.block2\.": ".mid_block.resnets.1.",
    r"\.middle\.attention\.": ".mid_block.attentions.0.",
    r"\.start\.": ".conv_in.",
    r"\.end\.": ".conv_out.",
    r"coder\.norm\.": "coder.norm_out.",
    r"\.shortcut\.": ".conv_shortcut.",
    r"\.qkv\.": ".to_qkv.",
    r"\.out\.": ".proj.",
    r"\.space\.": ".resample.1.",
    r"\.time\.": ".time_conv.",
    r"\.scale$": ".gamma",
    r"\.w$": ".weight",
    r"\.b$": ".bias",
}
"""our names in diffusers', one after the other"""
STEM = "diffusion_pytorch_model"
"""of the files of weights"""


def read_config(directory: epath.PathLike) -> AutoencoderConfig:
    """Raises ValueError: no config.json, or not of an autoencoder of Wan 2.1's arrangement."""
    with held_config(existing(directory), "autoencoder", "an AutoencoderKLWan as diffusers writes it") as held:
        made, kind = held.get("base_dim", 96), held["_class_name"]
        config = AutoencoderConfig(
            made, tuple(held["dim_mult"]), held["num_res_blocks"], tuple(held["temperal_downsample"]), tuple(held["latents_mean"]),
            tuple(held["latents_std"]),
        )  # fmt: skip
    latents = held.get("z_dim"), len(config.mean), len(config.std), len(config.multipliers), len(config.halved), sum(config.halved)
    if kind != "AutoencoderKLWan" or held.get("is_residual") or latents != (CHANNELS, CHANNELS, CHANNELS, 4, 3, 2):
        raise ValueError(
            f"{directory}/config.json describes a {kind} that is not Wan 2.1's: {CHANNELS} channels for 4 frames of 8×8 pixels, without Wan 2.2's "
            "residual paths, are wanted"
        )
    return config


def weights_file(directory: epath.PathLike) -> epath.Path:
    """In `directory`, or in the folder `vae` of a whole pipeline's."""
    directory = on_disk(directory)
    return (directory / "vae" if (directory / "vae" / "config.json").exists() else directory) / f"{STEM}.safetensors"


def digest(directory: epath.PathLike) -> str:
    """Of the weights and their config.json."""
    path = weights_file(directory)
    return sha256(path) + sha256(path.parent / "config.json")


def load(directory: epath.PathLike) -> Autoencoder:
    """The autoencoder of `weights_file`, in fp32.

    Raises:
      ValueError: what `read_config` and `core_jax.directory.stream` refuse.
    """
    folder = weights_file(directory).parent
    shapes = jax.eval_shape(lambda config=read_config(folder): Autoencoder(config, rngs=nnx.Rngs(0)))
    return stream(Tensors(folder, STEM), shapes, lambda ours: [theirs(ours)], _turned, dtype=jnp.float32)


def theirs(name: str) -> str:
    """diffusers' name of one of our arrays."""
    return rename(name, NAMES)


def _turned(ours: str, tensors: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """torch keeps a convolution as (out, in, …) and a norm's scale as (C, 1, …); ours is (frames, rows, columns, in, out), and (C)."""
    (array,) = tensors
    if array.ndim < 4 or array.shape[1:] == (1,) * (array.ndim - 1):
        return array.reshape(-1)
    array = array[:, :, None] if array.ndim == 4 else array
    return array.transpose(2, 3, 4, 1, 0)
