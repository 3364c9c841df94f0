"""What stands for a frame in the consistency formulas: vectors of unit length, by a model or, without weights, by its pixels.

| kind | embedding | frames of a video | with the image (I2V) |
|---|---|---|---|
| dino | class token of a ViT (DINO ViT-B/16) | shorter side 224, bilinear | shorter side 256, bicubic, 224 cut out |
| dinov2 | class token (DINOv2 ViT-B/14) | shorter side 256, bicubic, 224 cut out | the same |
| clip | image embedding (CLIP ViT-B/32) | shorter side 224, bicubic, 224 cut out | the same |
| pixels | the numbers below | 64 × 64, by area | the same |

The first three are what VBench takes for subject consistency, its fast part and background consistency. A model is a directory as
transformers writes it (config.json, model.safetensors or pytorch_model.bin). `pixels` is ours and says nothing about what is seen:

    e = [d / max(‖d‖, √(h w)); √p],  then of unit length: d the 8×8 lowest cosine waves of Y, Cb, Cr but for the constant ones, p a
    histogram of 4×4×4 colours, in which a pixel counts for the colours around it in proportion to its nearness
"""
import enum
import functools
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, UInt8

from core_jax.files import existing, sha256
from core_jax.layers import cosine_waves
from core_jax.rngs import Rngs
from core_jax.sharding import batch_sharding, in_batches, shardings
from koala_jax.aesthetic.clip import MEAN, STD, CLIPConfig
from koala_jax.aesthetic.predictor import load_clip, load_tower
from koala_jax.tsa import fragments
from koala_jax.tsa.fragments import normalised
from videodit_jax.evaluate import vit
from videodit_jax.evaluate.views import Kernel, View

WHOLE = View(224, Kernel.BILINEAR)
CENTRE = View(224, Kernel.BICUBIC, 224)
INNER = View(256, Kernel.BICUBIC, 224)
SQUARE = View((64, 64), Kernel.AREA)
BATCH = 32
"""frames that go to the devices at a time, at most"""
WAVES, COLOURS = 8, 4
YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
"""RGB to Y, Cb, Cr (BT.601)"""


class Kind(enum.Enum):
    """Families of embeddings."""

    PIXELS = "pixels"
    DINO = "dino"
    DINOV2 = "dinov2"
    CLIP = "clip"


VIEWS = {Kind.PIXELS: (SQUARE, SQUARE), Kind.DINO: (WHOLE, INNER), Kind.DINOV2: (INNER, INNER), Kind.CLIP: (CENTRE, CENTRE)}
"""how the frames are prepared, and how they and the image are where they are compared"""
FILES = "model.safetensors", "pytorch_model.bin"
MODEL_TYPES = {"vit": Kind.DINO, "dinov2": Kind.DINOV2, "clip": Kind.CLIP, "clip_vision_model": Kind.CLIP}


class Embedding:
    """Unit vectors of frames, in batches over the devices of this host."""

    def __init__(self, kind: Kind, name: str, model: PyTree, function: Callable[[PyTree, Array], Array], mesh: Mesh):
        """Args:
        name: what tables call it.
        function: (model, pixels 0 to 255) → vectors of any length.
        """
        self.kind, self.name, self.mesh = kind, name, mesh
        self.view, self.image_view = VIEWS[kind]
        self._model = jax.device_put(model, shardings(model, mesh))
        self._function = function

    def __call__(self, frames: UInt8[np.ndarray, "T h w 3"]) -> Float[np.ndarray, "T C"]:
        """Of frames as `view` or `image_view` prepares them."""
        size = batch_of(len(frames), self.mesh.size)
        with jax.set_mesh(self.mesh):
            return in_batches(lambda some: _embed(self._function, self._model, some), size, batch_sharding(self.mesh), frames)


@functools.partial(jax.jit, static_argnums=0)
def _embed(function: Callable[[PyTree, Array], Array], model: PyTree, frames: UInt8[Array, "B h w 3"]) -> Float[Array, "B C"]:
    return _unit(function(model, frames.astype(jnp.float32)))


def batch_of(frames: int, devices: int) -> int:
    """In batches of how many they go: of few different sizes, since each is compiled anew."""
    return -(-min(BATCH, 1 << (frames - 1).bit_length()) // devices) * devices


def pixels(mesh: Mesh) -> Embedding:
    """The embedding that needs no weights."""
    return Embedding(Kind.PIXELS, Kind.PIXELS.value, None, _of_pixels, mesh)


def load(directory: epath.PathLike, mesh: Mesh) -> Embedding:
    """The embedding of a directory.

    Raises:
      ValueError: no such directory, a model of another type, or weights that are not its config's, named.
    """
    directory = existing(directory)
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{directory} is no model directory: its config.json cannot be read ({error})") from error
    kind = MODEL_TYPES.get(config.get("model_type"))
    if kind is None:
        raise ValueError(f"{directory} holds a model of type {config.get('model_type')}, and {', '.join(MODEL_TYPES)} are known here")
    path = next((path for name in FILES if (path := directory / name).exists()), None)
    if path is None:
        raise ValueError(f"{directory} holds no weights: {' or '.join(FILES)} is wanted")
    try:
        sizes = clip_sizes(config.get("vision_config", config)) if kind is Kind.CLIP else vit_sizes(config, kind is Kind.DINOV2)
    except ValueError as error:
        raise ValueError(f"{directory}/config.json: {error}") from error
    if kind is Kind.CLIP:
        model, statistics = load_clip(path, sizes), (MEAN, STD)
    else:
        names = vit.DINO if kind is Kind.DINO else vit.DINOV2
        model, statistics = load_tower(path, jax.eval_shape(lambda: vit.ViT(sizes, rngs=Rngs(0))), names), (fragments.MEAN, fragments.STD)
    name = f"{kind.value} {sizes.width}×{sizes.layers}/{sizes.patch} ({sha256(path)[:8]})"
    return Embedding(kind, name, model, lambda model, frames: model(normalised(frames, *statistics)), mesh)


def vit_sizes(config: dict, scaled: bool) -> vit.ViTConfig:
    """Sizes of a ViTModel, or (scaled) a Dinov2Model. Raises ValueError: one that is missing, or a kind that is not written here."""
    if config.get("hidden_act", "gelu") != "gelu" or not config.get("qkv_bias", True) or config.get("use_swiglu_ffn"):
        raise ValueError("a ViT is known here with gelu and with biases in its attention, and not with SwiGLU")
    names = "image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads"
    *sizes, mlp = _sizes(config, *names, "mlp_ratio" if scaled else "intermediate_size")
    return vit.ViTConfig(*sizes, mlp * sizes[2] if scaled else mlp, config.get("layer_norm_eps", vit.ViTConfig.eps), scaled)


def clip_sizes(config: dict) -> CLIPConfig:
    """Sizes of CLIP's image tower. Raises as `vit_sizes` does."""
    names = "image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "projection_dim"
    sizes = CLIPConfig(*_sizes(config, *names))
    if config.get("hidden_act", "quick_gelu") != "quick_gelu" or sizes.size != CENTRE.crop:
        raise ValueError(f"CLIP is known here with quick_gelu and pictures of {CENTRE.crop} × {CENTRE.crop}")
    return sizes


def _sizes(config: dict, *names: str) -> list[int]:
    for name in names:
        if not isinstance(config.get(name), int) or config[name] < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, and not {config.get(name)}")
    return [config[name] for name in names]


def _of_pixels(model: None, frames: Float[Array, "T h w 3"]) -> Float[Array, "T C"]:
    return pixel_features(frames)


def pixel_features(frames: Float[Array, "T h w 3"]) -> Float[Array, "T C"]:
    """[d / max(‖d‖, √(h w)); √p] of the top."""
    h, w = frames.shape[1:3]
    rows, columns = (cosine_waves((n,))[:, :WAVES] for n in (h, w))
    waves = jnp.einsum("thwc,hi,wj,dc->tdij", frames, rows, columns, YCC, precision="highest")
    d = waves.reshape(len(frames), 3, -1)[:, :, 1:].reshape(len(frames), -1)
    centres = np.linspace(0, 255, COLOURS)
    near = jnp.maximum(1 - jnp.abs(frames[..., None] - centres.reshape(1, 1, 1, 1, -1)) / (centres[1] - centres[0]), 0)
    p = jnp.einsum("thwr,thwg,thwb->trgb", *(near[:, :, :, i] for i in range(3)), precision="highest").reshape(len(frames), -1) / (h * w)
    return jnp.concatenate([_unit(d, (h * w) ** 0.5), jnp.sqrt(p)], -1)


def _unit(x: Float[Array, "T C"], least: float = 1e-6) -> Float[Array, "T C"]:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), least)
