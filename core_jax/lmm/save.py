"""A model of LLaVA-OneVision's arrangement written as a directory that `transformers`, and `load`, read."""
import numpy as np
from etils import epath

from core_jax.files import write_bytes, write_json
from core_jax.lmm.config import LMMConfig
from core_jax.lmm.load import their_name
from core_jax.lmm.model import LMM
from core_jax.lmm.tokenizer import Tokenizer
from core_jax.tensors import save_file
from core_jax.weights import fetch, named


BESIDE = (
    "generation_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json", "chat_template.jinja",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
)  # fmt: skip
"""what `transformers`, and who serves a model by it, find beside the weights and does not depend on them"""


def save(directory: epath.PathLike, model: LMM, tokenizer: Tokenizer, source: epath.PathLike | None = None) -> None:
    """Writes config.json, preprocessor_config.json, tokenizer.json and, last, model.safetensors, a large one as several files (`save_file`).

    Args:
      source: the directory that the model came from, whose chat template and settings of tokenizer and processors go along.

    Raises:
      ValueError: a model that frames enter as codes; its own directory holds a part that is not read here.
    """
    if model.config.codes:
        raise ValueError("a model with Chameleon's image tokenizer is not written: keep the directory that it came from")
    directory, config = epath.Path(directory), model.config
    write_json(directory / "config.json", _config(config))
    write_json(directory / "preprocessor_config.json", {
        "image_processor_type": "LlavaOnevisionImageProcessor", "image_mean": config.tower.mean, "image_std": config.tower.std,
        "size": {"height": config.tower.tile, "width": config.tower.tile}, "image_grid_pinpoints": config.packing.resolutions,
    })  # fmt: skip
    write_bytes(directory / "tokenizer.json", tokenizer.inner.to_str().encode())
    for name in BESIDE if source else ():
        if (path := epath.Path(source) / name).exists():
            write_bytes(directory / name, path.read_bytes())
    tensors = {}
    for ours, array in named(model).items():
        array, name = fetch(array), their_name(ours)
        for i, one in enumerate(array if "{}" in name else [array]):
            tensors[_prefixed(name.format(i))] = _turned(ours, one, config)
    save_file(directory / "model.safetensors", tensors, metadata={"format": "pt"})


def _prefixed(name: str) -> str:
    if name == "lm_head.weight":
        return f"language_model.{name}"
    return name if name.startswith(("vision_tower.", "multi_modal_projector.", "image_newline")) else f"language_model.model.{name}"


def _turned(ours: str, array: np.ndarray, config: LMMConfig) -> np.ndarray:
    """Our array as torch keeps it."""
    if ours.endswith("patches.w"):
        array = array.T.reshape(-1, 3, config.tower.patch, config.tower.patch)
    elif ours.endswith(".out.w"):
        array = array.reshape(-1, array.shape[-1]).T
    elif ours.endswith(".w"):
        array = array.reshape(len(array), -1).T
    elif ours.endswith(".b"):
        array = array.reshape(-1)
    return np.ascontiguousarray(array)


def _config(config: LMMConfig) -> dict:
    decoder, tower, packing = config.decoder, config.tower, config.packing
    return {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "tie_word_embeddings": decoder.tied,
        "eos_token_id": list(config.stop),
        "image_grid_pinpoints": packing.resolutions,
        "vision_aspect_ratio": f"anyres_max_{packing.most_tiles}",
        "image_token_index": packing.image_token,
        "video_token_index": packing.video_token,
        "text_config": {
            "model_type": "qwen2", "vocab_size": decoder.vocabulary, "hidden_size": decoder.width, "num_hidden_layers": decoder.layers,
            "num_attention_heads": decoder.heads, "num_key_value_heads": decoder.kv_heads, "intermediate_size": decoder.mlp,
            "rope_parameters": {"rope_type": "default", "rope_theta": decoder.rope_base}, "rms_norm_eps": decoder.eps,
            "max_position_embeddings": decoder.context, "tie_word_embeddings": decoder.tied, "eos_token_id": list(config.stop),
        },
        "vision_config": {
            "model_type": "siglip_vision_model", "image_size": tower.tile, "patch_size": tower.patch, "hidden_size": tower.width,
            "num_hidden_layers": tower.layers, "num_attention_heads": tower.heads, "intermediate_size": tower.mlp,
            "layer_norm_eps": tower.eps, "vision_use_head": False,
        },
    }  # fmt: skip
