"""What Wan 2.1's image-to-video reads of its picture beside the text: the tokens that CLIP's ViT-H/14 has before its last layer, as diffusers takes them."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float16, UInt8
from PIL import Image

from core_jax.compiler import jit
from core_jax.directory import digest_of, held_config, on_disk, stream
from core_jax.rngs import Rngs
from core_jax.sharding import batch_pieces, batch_sharding, in_batches
from core_jax.tensors import Tensors
from core_jax.weights import rename
from koala_jax.aesthetic.clip import EPS, MEAN, NAMES, STD, CLIPConfig, CLIPImage

VIT_H = "clip-vit-h"
"""in the place of a directory: the published encoder's sizes alone"""
SIZES = CLIPConfig(width=1280, layers=31, mlp=5120, out=0, quick=False)
"""of the published one"""


def folder_of(directory: epath.PathLike) -> epath.Path:
    """Where weights and config.json lie: in `image_encoder` of a whole pipeline's directory, or in it."""
    directory = on_disk(directory)
    return directory / "image_encoder" if (directory / "image_encoder" / "config.json").exists() else directory


def read_config(encoder: epath.PathLike) -> CLIPConfig:
    """Sizes of the layers before the last one, of a directory or `VIT_H`. Raises ValueError: no config.json, or not of a CLIPVisionModel as is known here."""
    if encoder == VIT_H:
        return SIZES
    folder = folder_of(encoder)
    with held_config(folder, "image encoder", "a CLIPVisionModel") as held:
        kind, act, eps = held["model_type"], held.get("hidden_act", "quick_gelu"), held.get("layer_norm_eps", EPS)
        names = "image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"
        config = CLIPConfig(*(int(held[name]) for name in names), out=0, quick=act == "quick_gelu")
    if (kind, eps) != ("clip_vision_model", EPS) or act not in ("gelu", "quick_gelu") or config.layers < 2:
        raise ValueError(
            f"{folder}/config.json describes a {kind} of {config.layers} layers with {act} and an epsilon of {eps}, and a clip_vision_model of two layers "
            f"or more with gelu or quick_gelu and {EPS} is wanted"
        )
    return dataclasses.replace(config, layers=config.layers - 1)


def features_of(encoder: epath.PathLike) -> tuple[int, int]:
    """Tokens of a picture and their width, as `ModelConfig.picture` has them. Raises ValueError: what `read_config` refuses."""
    config = read_config(encoder)
    return (config.size // config.patch) ** 2 + 1, config.width


def digest(directory: epath.PathLike) -> str:
    """Of the weights and their config.json, by pieces."""
    folder = folder_of(directory)
    return digest_of(folder, (folder / "config.json").read_bytes())


def square(picture: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    """The middle of it as CLIP is shown one: the shorter side resized to so many pixels, the longer in proportion and rounded down, by bicubic
    interpolation that smooths."""
    H, W = picture.shape[:2]
    h, w = side * H // min(H, W), side * W // min(H, W)
    top, left = (h - side) // 2, (w - side) // 2
    return np.asarray(Image.fromarray(picture).resize((w, h), Image.Resampling.BICUBIC))[top : top + side, left : left + side]


class PictureEncoder:
    """The encoder of a directory on the devices of a mesh, in fp32: it is small beside the others. Every host of it gives the same and gets all."""

    def __init__(self, directory: epath.PathLike, on: Mesh):
        """Raises ValueError: what `read_config` and `core_jax.directory.stream` refuse."""
        self.mesh, self.config = on, read_config(directory)
        shapes = jax.eval_shape(lambda: CLIPImage(self.config, rngs=Rngs(0)))
        names = lambda ours: [rename(ours, NAMES)]
        tensors = Tensors(folder_of(directory), around={r"^(?!vision_model\.)": "vision_model."})  # transformers 5 leaves that away
        self.model = stream(tensors, shapes, names, unused=".*", mesh=on, dtype=jnp.float32)
        mean, std = (np.float32(x).reshape(1, 1, 1, 3) for x in (MEAN, STD))
        encode = lambda model, pixels: model((pixels.astype(jnp.float32) - mean) / std).astype(jnp.float16)
        self._encode = jit(encode, out_shardings=NamedSharding(on, PartitionSpec()))

    def __call__(self, pictures: UInt8[np.ndarray, "B H W 3"]) -> Float16[np.ndarray, "B N C"]:
        """Features of pictures, of which the middle is read."""
        shown = np.stack([square(picture, self.config.size) for picture in pictures])
        with jax.set_mesh(self.mesh):
            return in_batches(lambda some: self._encode(self.model, some), batch_pieces(self.mesh), batch_sharding(self.mesh), shown)
