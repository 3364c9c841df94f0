"""Tensor names: ours, the official modules', and those of the published Swin3D-T and ConvNeXt-T that training can start from.

A linear map is (in, out) here and (out, in, kernel) there; a kernel of pixels counts to `in`, channels first.
"""
import math
import re
from collections.abc import Mapping

import numpy as np

from core_jax.weights import rename
from koala_jax.tsa.windows import BASE_WINDOW, Windows

Tensors = dict[str, np.ndarray]

OFFICIAL = {
    r"^dynamic\.embed\.": "fragments_backbone.patch_embed.proj.",
    r"^dynamic\.embed_norm\.": "fragments_backbone.patch_embed.norm.",
    r"^dynamic\.stages\.": "fragments_backbone.layers.",
    r"^dynamic\.": "fragments_backbone.",
    r"^static\.stages\.0\.down\.": "image_backbone.downsample_layers.0.0.",
    r"^static\.stages\.0\.norm\.": "image_backbone.downsample_layers.0.1.",
    r"^static\.stages\.(\d)\.norm\.": r"image_backbone.downsample_layers.\1.0.",
    r"^static\.stages\.(\d)\.down\.": r"image_backbone.downsample_layers.\1.1.",
    r"^static\.stages\.(\d)\.blocks\.": r"image_backbone.stages.\1.",
    r"^static\.classifier\.": "image_backbone.head.",
    r"^static\.": "image_backbone.",
    r"^hidden\.": "vqa_head.fc_hid.",
    r"^last\.": "vqa_head.fc_last.",
    r"^dynamic_head\.": "fragments_head.fc.",
    r"^static_head\.layers\.0\.": "image_head.fc1.",
    r"^static_head\.layers\.1\.": "image_head.fc2.",
    r"^static_alone\.": "image_head.fc3.",
    r"^labels\.layers\.0\.": "feature_backbone.fc1.",
    r"^labels\.layers\.1\.": "feature_backbone.fc2.",
    r"^labels\.layers\.2\.": "feature_backbone.fc3.",
    r"^labels\.layers\.3\.": "feature_backbone.fc4.",
    r"^labels_alone\.": "feature_backbone.fc_final.",
    r"^fusion\.": "weight_feature_fusion.fc.",
    r"^(dynamic|static)_gate\.": r"gate_feature_fusion_\1.",
    r"\.label_in\.": ".Conv_0.",
    r"\.visual_in\.": ".Conv_1.",
    r"\.gate\.": ".in_project_x.",
    r"^(gate_feature_fusion_\w+)\.out\.": r"\1.out_project_y.",
    r"^final\.layers\.": "final_mlp.fc",
    r"\.attention\.relative$": ".attn.relative_position_bias_table",
    r"\.attention\.fragment$": ".attn.fragment_position_bias_table",
    r"\.attention\.out\.": ".attn.proj.",
    r"\.attention\.": ".attn.",
    r"\.merge\.": ".downsample.",
    r"^(fragments\S+)\.mlp\.up\.": r"\1.mlp.fc1.",
    r"^(fragments\S+)\.mlp\.down\.": r"\1.mlp.fc2.",
    r"\.mlp\.up\.": ".pwconv1.",
    r"\.mlp\.down\.": ".pwconv2.",
    r"\.depthwise$": ".dwconv.weight",
    r"\.depthwise_bias$": ".dwconv.bias",
    r"\.(w|scale)$": ".weight",
    r"\.(b|offset)$": ".bias",
}
"""our names made official, one rule after the other"""

KERNELS = {
    r"patch_embed\.proj": (2, 4, 4), r"downsample_layers\.0\.0": (4, 4), r"downsample_layers\.\d\.1": (2, 2),
    r"vqa_head|fragments_head": (1, 1, 1),
}  # fmt: skip
"""of the official maps that are convolutions"""

INDEX = "relative_position_index"

SWIN_TORCHVISION = {
    r"^features\.([0246])\.(\d)\.": lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}.",
    r"^features\.([135])\.": lambda m: f"layers.{int(m[1]) // 2}.downsample.",
    r"\.mlp\.0\.": ".mlp.fc1.",
    r"\.mlp\.3\.": ".mlp.fc2.",
    r"^(?=layers|norm|patch_embed)": "fragments_backbone.",
}
SWIN_MMACTION = {r"^backbone\.": "fragments_backbone."}
CONVNEXT_TIMM = {
    r"^stem\.": "downsample_layers.0.",
    r"^stages\.(\d)\.downsample\.": r"downsample_layers.\1.",
    r"^stages\.(\d)\.blocks\.": r"stages.\1.",
    r"\.conv_dw\.": ".dwconv.",
    r"\.mlp\.fc": ".pwconv",
    r"^head\.norm\.": "norm.",
    r"^head\.fc\.": "head.",
    r"^": "image_backbone.",
}
CONVNEXT_TORCHVISION = {
    r"^features\.([0246])\.(\d)\.(?=weight|bias)": lambda m: f"downsample_layers.{int(m[1]) // 2}.{m[2]}.",
    r"^features\.0\.(\d)\.0\.": r"downsample_layers.0.\1.",
    r"^features\.([1357])\.(\d)\.": lambda m: f"stages.{int(m[1]) // 2}.{m[2]}.",
    r"\.block\.0\.": ".dwconv.",
    r"\.block\.2\.": ".norm.",
    r"\.block\.3\.": ".pwconv1.",
    r"\.block\.5\.": ".pwconv2.",
    r"\.layer_scale$": ".gamma",
    r"^classifier\.0\.": "norm.",
    r"^classifier\.2\.": "head.",
    r"^": "image_backbone.",
}
CONVNEXT_OFFICIAL = {r"^": "image_backbone."}

KNOWN_BY = {
    "features.0.0.attn.qkv.weight": SWIN_TORCHVISION,
    "backbone.layers.0.blocks.0.attn.qkv.weight": SWIN_MMACTION,
    "stem.0.weight": CONVNEXT_TIMM,
    "features.0.0.weight": CONVNEXT_TORCHVISION,
    "downsample_layers.0.0.weight": CONVNEXT_OFFICIAL,
}
"""the starting points, each by a tensor that the others do not have"""


def official_shape(name: str, shape: tuple[int, ...], out: int) -> tuple[int, ...]:
    """Shape under the official name of our parameter; `out` is how many numbers a linear map makes."""
    if name.endswith(".depthwise"):
        return shape[3], shape[2], *shape[:2]
    if not name.endswith(".w"):
        return (math.prod(shape),) if name.endswith(".b") else tuple(shape)
    kernel = next((size for pattern, size in KERNELS.items() if re.search(pattern, rename(name, OFFICIAL))), ())
    return out, math.prod(shape) // out // math.prod(kernel), *kernel


def outputs(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """How many numbers a linear map makes: as many as its bias has, or the last dim of its weight."""
    return math.prod(shapes.get(name.removesuffix("w") + "b", shapes[name][-1:]))


def from_official(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    """Official tensors under our names and in our shapes.

    Args:
      shapes: ours, of what is wanted: of a whole network, or of one tower.

    Raises:
      ValueError: a tensor that is missing, unknown, misshapen, or an index that is not the one of these windows; each named.
    """
    theirs = {name: rename(name, OFFICIAL) for name in shapes}
    given = {name for name in tensors if not name.endswith(INDEX)}
    missing, unknown = sorted(set(theirs.values()) - given), sorted(given - set(theirs.values()))
    if missing or unknown:
        shown = lambda names: ", ".join(names[:5]) + f" and {len(names) - 5} more" * (len(names) > 5) or "none"
        raise ValueError(f"these are not the weights of this network: missing {shown(missing)}; unknown {shown(unknown)}")
    index = position_index()
    for name, array in tensors.items():
        if name.endswith(INDEX) and not (array.size == index.size and (array.reshape(index.shape) == index).all()):
            raise ValueError(f"tensor {name} is not the index of windows of {BASE_WINDOW}, which this network has")
    ours = {}
    for name, shape in shapes.items():
        array, want = tensors[theirs[name]], official_shape(name, shape, outputs(name, shapes))
        if array.shape != want:
            raise ValueError(f"tensor {theirs[name]} has shape {array.shape}, and the network wants {want}")
        if name.endswith(".depthwise"):
            ours[name] = array.transpose(2, 3, 1, 0)
        else:
            ours[name] = (array.reshape(want[0], -1).T if name.endswith(".w") else array).reshape(shape)
    return ours


def to_official(ours: Tensors) -> Tensors:
    """The inverse of `from_official`, with the official index of every block."""
    shapes = {name: array.shape for name, array in ours.items()}
    tensors = {}
    for name, array in ours.items():
        want = official_shape(name, array.shape, outputs(name, shapes))
        if name.endswith(".depthwise"):
            array = array.transpose(3, 2, 0, 1)
        elif name.endswith(".w"):
            array = array.reshape(-1, want[0]).T
        official = rename(name, OFFICIAL)
        tensors[official] = np.ascontiguousarray(array).reshape(want)
        if official.endswith("relative_position_bias_table"):
            tensors[official.replace("relative_position_bias_table", INDEX)] = position_index()
    return tensors


def starting_point(tensors: Tensors) -> Tensors | None:
    """A published tower under official names, without its video classifier; None where the names are of none that is known."""
    rules = next((rules for name, rules in KNOWN_BY.items() if name in tensors), None)
    if rules is None:
        return None
    renamed = {rename(name, rules): array for name, array in tensors.items() if not name.endswith(INDEX)}
    kept = {name: array for name, array in renamed.items() if name.startswith(("fragments_backbone.", "image_backbone."))}
    return {name: array.reshape(-1) if name.endswith(".gamma") else array for name, array in kept.items()}


def position_index() -> np.ndarray:
    """(392, 392), as the official modules keep it."""
    return Windows(BASE_WINDOW, BASE_WINDOW, (0, 0, 0)).index
