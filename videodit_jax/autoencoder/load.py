"""The autoencoder of a directory in diffusers' format (AutoencoderKLWan): config.json and diffusion_pytorch_model.safetensors."""
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from core_jax.directory import held_config, on_disk, stream
from core_jax.files import sha256
from core_jax.rngs import Rngs
from core_jax.tensors import Tensors
from core_jax.weights import rename
from videodit_jax.autoencoder import SIZES, Latents
from videodit_jax.autoencoder.model import Autoencoder, AutoencoderConfig

NAMES = {
    r"^encoder\.levels\.": "encoder.down_blocks.",
    r"^decoder\.levels\.": "decoder.up_blocks.",
    r"(_blocks\.\d+)\.blocks\.": r"\1.resnets.",
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
    """Raises ValueError: no config.json, or not of an autoencoder of Wan 2.1's or Wan 2.2's arrangement."""
    folder = weights_file(directory).parent
    with held_config(folder, "autoencoder", "an AutoencoderKLWan as diffusers writes it") as held:
        width, kind = held.get("base_dim", 96), held["_class_name"]
        config = AutoencoderConfig(
            (width, held.get("decoder_base_dim") or width), tuple(held["dim_mult"]), held["num_res_blocks"], tuple(held["temperal_downsample"]),
            tuple(held["latents_mean"]), tuple(held["latents_std"]), bool(held.get("is_residual")),
        )  # fmt: skip
    numbers = len(config.mean), len(config.mean), 4, 3, 2, config.square, 3 * config.square**2
    given = held.get("z_dim"), len(config.std), len(config.multipliers), len(config.halved), sum(config.halved)
    if kind != "AutoencoderKLWan" or config.latents not in SIZES.values() or (*given, held.get("patch_size") or 1, held.get("in_channels", 3)) != numbers:
        raise ValueError(
            f"{folder}/config.json describes a {kind} that is neither Wan 2.1's, 16 channels for 4 frames of 8×8 pixels, nor Wan 2.2's, 48 channels for "
            "4 frames of 16×16 pixels and residual paths"
        )
    return config


def latents_of(autoencoder: str) -> Latents:
    """Of the autoencoder of a directory, or of one that is named for its sizes. Raises ValueError: what `read_config` refuses."""
    return SIZES[autoencoder] if autoencoder in SIZES else read_config(autoencoder).latents


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
    config = read_config(directory)
    shapes = jax.eval_shape(lambda: Autoencoder(config, rngs=Rngs(0)))
    return stream(Tensors(weights_file(directory).parent, STEM), shapes, lambda ours: [theirs(config, ours)], _turned, dtype=jnp.float32)


def theirs(config: AutoencoderConfig, ours: str) -> str:
    """diffusers' name of one of our arrays. Of Wan 2.1 the encoder's levels are one list there, and the decoder's ways between them a list of one."""
    number = lambda level: int(level[1]) * (config.blocks + 1) + int(level[2] or config.blocks)
    own = {
        True: {r"^(encoder.*)\.resize\.": r"\1.downsampler.", r"^(decoder.*)\.resize\.": r"\1.upsampler."},
        False: {
            r"^encoder\.levels\.(\d+)\.(?:blocks\.(\d+)|resize)": lambda level: f"encoder.down_blocks.{number(level)}",
            r"^(decoder.*)\.resize\.": r"\1.upsamplers.0.",
        },
    }
    return rename(ours, own[config.shortcuts] | NAMES)


def _turned(ours: str, tensors: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """torch keeps a convolution as (out, in, …) and a norm's scale as (C, 1, …); ours is (frames, rows, columns, in, out), and (C)."""
    (array,) = tensors
    if array.ndim < 4 or array.shape[1:] == (1,) * (array.ndim - 1):
        return array.reshape(-1)
    array = array[:, :, None] if array.ndim == 4 else array
    return array.transpose(2, 3, 4, 1, 0)
