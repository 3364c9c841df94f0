"""Weights of a Hugging Face directory, streamed into place by a table of names.

What has to be turned: torch keeps a matrix as (out, in) and a convolution as (out, in, rows, columns), and each layer by itself, where
ours are one stack.
"""
import itertools
import json
import math
import operator
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open

from core_jax.lmm.config import LMMConfig, read_config
from core_jax.lmm.model import LMM
from core_jax.sharding import shardings
from core_jax.weights import named, rename, renamed

OURS = {
    r"^decoder\.embedding$": "embed_tokens.weight",
    r"^decoder\.head\.w$": "lm_head.weight",
    r"^decoder\.layers\.": "layers.{}.",
    r"^decoder\.": "",
    r"^vision\.newline$": "image_newline",
    r"^vision\.up\.": "multi_modal_projector.linear_1.",
    r"^vision\.down\.": "multi_modal_projector.linear_2.",
    r"^vision\.tower\.patches\.": "vision_tower.embeddings.patch_embedding.",
    r"^vision\.tower\.positions$": "vision_tower.embeddings.position_embedding.weight",
    r"^vision\.tower\.layers\.": "vision_tower.encoder.layers.{}.",
    r"^(vision_tower.*)\.attention_norm\.": r"\1.layer_norm1.",
    r"^(vision_tower.*)\.mlp_norm\.": r"\1.layer_norm2.",
    r"^(vision_tower.*)\.attention\.out\.": r"\1.self_attn.out_proj.",
    r"^(vision_tower.*)\.mlp\.up\.": r"\1.mlp.fc1.",
    r"^(vision_tower.*)\.mlp\.down\.": r"\1.mlp.fc2.",
    r"^codes\.codebook$": "vqmodel.quantize.embedding.weight",
    r"^codes\.start\.": "vqmodel.encoder.conv_in.",
    r"^codes\.levels\.(\d+)\.blocks\.": r"vqmodel.encoder.down.\1.block.",
    r"^codes\.levels\.(\d+)\.halve\.": r"vqmodel.encoder.down.\1.downsample.conv.",
    r"^codes\.block(\d)\.": r"vqmodel.encoder.mid.block_\1.",
    r"^codes\.attention\.out\.": "vqmodel.encoder.mid.attn_1.proj_out.",
    r"^codes\.attention\.": "vqmodel.encoder.mid.attn_1.",
    r"^codes\.norm\.": "vqmodel.encoder.norm_out.",
    r"^codes\.end\.": "vqmodel.encoder.conv_out.",
    r"^codes\.latent\.": "vqmodel.quant_conv.",
    r"\.shortcut\.": ".nin_shortcut.",
    r"\.attention_norm\.": ".input_layernorm.",
    r"\.mlp_norm\.": ".post_attention_layernorm.",
    r"(?<!attn_1)\.attention\.(q|k)_norm\.": r".self_attn.\1_norm.",
    r"\.attention\.out\.": ".self_attn.o_proj.",
    r"\.attention\.(q|k|v)\.": r".self_attn.\1_proj.",
    r"\.mlp\.(gate|up|down)\.": r".mlp.\1_proj.",
    r"\.(w|scale)$": ".weight",
    r"\.(b|offset)$": ".bias",
}
"""our names in the directory's, one after the other; {} is the layer"""

THEIRS = {r"^model\.": "", r"^language_model\.(model\.)?": "", r"^vision_tower\.vision_model\.": "vision_tower."}
"""what the directory's names have around them, by the version that wrote them"""

UNUSED = r"vision_tower\.(post_layernorm|head)\.|vqmodel\.post_quant_conv\.|.*\.inv_freq$|.*\.position_ids$"
"""tensors that this model does without"""


def file_names(ours: str, layers: int) -> list[str]:
    """The directory's names, without what stands around them, of the tensors in one of our arrays: one, or one of each layer."""
    name = rename(ours, OURS)
    return [name.format(i) for i in range(layers)] if is_stacked(ours) else [name]


def is_stacked(ours: str) -> bool:
    """Whether an array of this name holds a tensor of each layer."""
    return "{}" in rename(ours, OURS)


def _files(directory: epath.Path) -> dict[str, tuple[epath.Path, str]]:
    """For each tensor of the directory, by its name without what stands around it: its file and its name there."""
    index = directory / "model.safetensors.index.json"
    try:
        if index.exists():
            where = json.loads(index.read_text())["weight_map"]
        else:
            where = dict.fromkeys(_open(directory / "model.safetensors").keys(), "model.safetensors")
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{index} is no index of safetensors files: {error}") from error
    return {rename(name, THEIRS): (directory / file, name) for name, file in where.items()}


def _open(path: epath.Path):
    try:
        return safe_open(path, "np")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def _turn(array: np.ndarray, ours: str, shape: tuple[int, ...]) -> np.ndarray:
    """A torch array in our shape, or as it is where that cannot be."""
    if ours.startswith("codes."):
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 and ours.endswith(".w") else array
    if ours.endswith(".w"):
        array = array.reshape(len(array), -1).T
    fits = array.size == math.prod(shape) and len(array) in itertools.accumulate(shape, operator.mul)
    return array.reshape(shape) if fits else array


def load(
    directory: epath.PathLike, mesh: Mesh | None = None, dtype: jnp.dtype | None = None, exact: Callable[[str], bool] = lambda name: False
) -> LMM:
    """The model of a directory; on a mesh each device gets its share. Beside it a host holds no more than one of our arrays.

    Args:
      dtype: of the weights; as in the files by default.
      exact: which of them, by our names, lie in fp32 all the same.

    Raises:
      ValueError: what `read_config` refuses; tensors that are missing, left over or of another shape, each named.
    """
    directory = epath.Path(directory)
    config = read_config(directory)
    shapes = abstract(config)
    files = _files(directory)
    names = {ours: file_names(ours, len(leaf)) for ours, leaf in named(shapes).items()}
    wanted = {name for some in names.values() for name in some}
    missing = sorted(wanted - files.keys())
    tied = {"lm_head.weight"} if config.decoder.tied else set()
    left = sorted(name for name in files.keys() - wanted - tied if not re.match(UNUSED, name))
    if missing or left:
        raise ValueError(f"{directory} does not hold what its config.json names: missing {_some(missing)}, left over {_some(left)}")
    places = named(shardings(shapes, mesh)) if mesh else {}
    opened, table = {}, {}

    def tensor(ours: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        path, name = files[name]
        if path not in opened:
            opened[path] = _open(path)
        array = _turn(opened[path].get_tensor(name), ours, shape)
        if array.shape != shape:
            raise ValueError(f"{path}: {name} is, inputs first, {array.shape}, and config.json asks for {shape}")
        return array

    for ours, leaf in named(shapes).items():
        (one, *others), kind = names[ours], jnp.float32 if exact(ours) else dtype
        if is_stacked(ours):
            first = tensor(ours, one, leaf.shape[1:])
            array = np.empty(leaf.shape, kind or first.dtype)
            array[0] = first
            for i, name in enumerate(others, 1):
                array[i] = tensor(ours, name, leaf.shape[1:])
        else:
            array = tensor(ours, one, leaf.shape)
            array = np.ascontiguousarray(array, kind or array.dtype)
        place = places.get(ours)
        table[ours] = jax.make_array_from_callback(array.shape, place, lambda i, a=array: a[i]) if place else jnp.asarray(array)
    return renamed(shapes, table)


def abstract(config: LMMConfig) -> LMM:
    """Shapes of a model."""
    return jax.eval_shape(lambda: LMM(config, rngs=nnx.Rngs(0)))


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" if names else "nothing"
