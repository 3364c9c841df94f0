"""Sizes of a vision-language model, and how they are read off the `config.json` of a Hugging Face directory."""
import dataclasses
import json
import re
from typing import Any

from etils import epath

from core_jax.directory import on_disk


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The causal decoder. Qwen2 sets `qkv_bias`; Chameleon sets `qk_norm`, and its 34B `norm_outputs` too."""

    vocabulary: int = 512
    """V, size of the vocabulary"""
    width: int = 128
    """E, model width"""
    layers: int = 4
    """L, number of layers"""
    heads: int = 4
    """K, query heads; width / heads is the head dim"""
    kv_heads: int = 2
    """key and value heads, each read by heads / kv_heads query heads"""
    mlp: int = 384
    """F, MLP width"""
    rope_base: float = 10_000.0
    """base of the rotary positions' wavelengths"""
    eps: float = 1e-6
    """epsilon of the RMS norms"""
    context: int = 2048
    """most tokens of prompt and answer together"""
    qkv_bias: bool = True
    """queries, keys and values have biases"""
    qk_norm: bool = False
    """normalise each head's queries and keys, with a scale and an offset for each head"""
    norm_outputs: bool = False
    """x + norm(f(x)), as in a Swin transformer v2, instead of x + f(norm(x))"""
    tied: bool = False
    """the output head shares the embedding's weights"""

    def __post_init__(self):
        if self.width % self.heads or self.head_dim % 2 or self.heads % self.kv_heads:
            raise ValueError(
                f"width {self.width} over {self.heads} heads must give an even head dim, and the {self.kv_heads} key-value heads "
                "must divide the heads"
            )

    @property
    def head_dim(self) -> int:
        """D"""
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """A SigLIP vision tower on square tiles."""

    tile: int = 64
    """rows and columns of a tile, in pixels"""
    patch: int = 8
    """rows and columns of a patch; what is left of the tile at the right and below is cut off"""
    width: int = 64
    """E, width of the tower"""
    layers: int = 2
    """L, number of layers"""
    heads: int = 2
    """K, attention heads"""
    mlp: int = 128
    """F, MLP width"""
    eps: float = 1e-6
    """epsilon of the layer norms"""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """mean of each colour, subtracted from pixels in 0 … 1"""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """standard deviation of each colour, by which they are then divided"""

    @property
    def grid(self) -> int:
        """Patches along a side of a tile."""
        return self.tile // self.patch


@dataclasses.dataclass(frozen=True)
class PackingConfig:
    """LLaVA-OneVision's arrangement of visual tokens (`packing.py`)."""

    resolutions: tuple[tuple[int, int], ...] = ((64, 64), (64, 128), (128, 64), (128, 128))
    """(rows, columns) in pixels that a single image may be resized to, multiples of the tile; the best fit is taken"""
    most_tiles: int = 9
    """an image of more tiles has its features scaled down to about as many as this many tiles have"""
    image_token: int = 1
    """placeholder of an image in a tokenizer's text"""
    video_token: int = 2


@dataclasses.dataclass(frozen=True)
class CodesConfig:
    """Chameleon's image tokenizer: the encoder of a VQGAN and its codebook."""

    resolution: int = 512
    """rows and columns of an image, in pixels"""
    channels: int = 128
    """of the first level"""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """channels of each level in units of the first; between two levels rows and columns are halved"""
    blocks: int = 2
    """residual blocks a level"""
    latent: int = 256
    """channels that the encoder gives"""
    code_width: int = 256
    vocabulary: tuple[int, ...] = tuple(range(8192))
    """the token id of each code"""
    begin: int = 8197
    end: int = 8196
    """tokens around an image"""
    image_token: int = 8711
    """placeholder of an image in a tokenizer's text"""

    @property
    def grid(self) -> int:
        """Codes along a side of an image."""
        return self.resolution >> (len(self.multipliers) - 1)


@dataclasses.dataclass(frozen=True)
class LMMConfig:
    """A decoder and one way for frames to enter: a tower with its packing, or codes."""

    decoder: DecoderConfig = DecoderConfig()
    tower: TowerConfig | None = TowerConfig()
    packing: PackingConfig | None = PackingConfig()
    codes: CodesConfig | None = None
    stop: tuple[int, ...] = (0,)
    """tokens that end an answer"""

    def __post_init__(self):
        if (self.tower is None) == (self.codes is None) or (self.tower is None) != (self.packing is None):
            raise ValueError("frames enter one way: give a tower and its packing, or codes")


SEVEN_BILLION = LMMConfig(
    DecoderConfig(vocabulary=152_064, width=3584, layers=28, heads=28, kv_heads=4, mlp=18_944, rope_base=1e6, context=32_768),
    TowerConfig(tile=384, patch=14, width=1152, layers=26, heads=16, mlp=4304),
    PackingConfig(tuple((384 * h, 384 * w) for h in range(1, 7) for w in range(1, 7))),
)
"""sizes of LLaVA-OneVision 7B, to plan with; its special tokens have other numbers"""


def read_config(directory: epath.PathLike) -> LMMConfig:
    """The sizes of the model in a directory written by `transformers` (LLaVA-OneVision with Qwen2 and SigLIP, or Chameleon).

    Raises:
      ValueError: no such model, one in an object store, or a setting that this model has not, each named.
    """
    directory = on_disk(directory)
    kinds = {"llava_onevision": _llava_onevision, "chameleon": _chameleon}
    found = _read_json(directory / "config.json")
    if found is None:
        raise ValueError(f"{directory} has no config.json: give a directory as transformers' save_pretrained writes it")
    kind = found.get("model_type")
    if kind not in kinds:
        raise ValueError(f"{directory} holds a model of type {kind!r}; what can be read is {' or '.join(kinds)}")
    generation = _read_json(directory / "generation_config.json") or {}
    stop = _first(generation.get("eos_token_id"), found.get("eos_token_id"), found.get("text_config", {}).get("eos_token_id"), [])
    processor = _read_json(directory / "processor_config.json") or {}  # from transformers 5 on it holds the image's too
    found["preprocessor"] = processor.get("image_processor") or _read_json(directory / "preprocessor_config.json") or {}
    return dataclasses.replace(kinds[kind](found), stop=tuple(stop) if isinstance(stop, list) else (stop,))


def _read_json(path: epath.Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict | None):
        raise ValueError(f"{path} holds {type(found).__name__}, and a JSON object is wanted")
    return found


def _first(*values):
    return next((value for value in values if value is not None), None)


def _require(found: dict[str, Any], **allowed) -> None:
    """Every named setting is absent or has the value that this model has built in."""
    for name, value in allowed.items():
        if found.get(name, value) != value:
            raise ValueError(f"config.json sets {name} to {found[name]!r}; this model has {value!r} alone")


def _decoder(found: dict[str, Any], **defaults) -> DecoderConfig:
    _require(found, hidden_act="silu", use_sliding_window=False, mlp_bias=False)
    rope = _first(found.get("rope_parameters"), found.get("rope_scaling"), {})
    _require({"rope_type": rope.get("rope_type", rope.get("type", "default"))}, rope_type="default")
    heads = found.get("num_attention_heads", 32)
    return DecoderConfig(
        vocabulary=found.get("vocab_size", defaults["vocabulary"]),
        width=found.get("hidden_size", 4096),
        layers=found.get("num_hidden_layers", 32),
        heads=heads,
        kv_heads=_first(found.get("num_key_value_heads", 32), heads),
        mlp=found.get("intermediate_size", defaults["mlp"]),
        rope_base=float(_first(rope.get("rope_theta"), found.get("rope_theta"), 10_000.0)),
        eps=found.get("rms_norm_eps", defaults["eps"]),
        context=found.get("max_position_embeddings", defaults["context"]),
        qkv_bias=defaults["qkv_bias"],
        qk_norm=not defaults["qkv_bias"],
        norm_outputs=bool(found.get("swin_norm", False)),
        tied=found.get("tie_word_embeddings", False),
    )


def _llava_onevision(found: dict[str, Any]) -> LMMConfig:
    text, vision = found.get("text_config", {}), found.get("vision_config", {})
    _require(text, model_type="qwen2")
    _require(vision, model_type="siglip_vision_model", hidden_act="gelu_pytorch_tanh", num_channels=3)
    _require(
        found, vision_feature_layer=-1, vision_feature_select_strategy="full", projector_hidden_act="gelu", multimodal_projector_bias=True,
    )
    aspect = str(found.get("vision_aspect_ratio", "anyres_max_9"))
    if not re.fullmatch(r"anyres_max_[1-9]\d*", aspect):
        raise ValueError(f"config.json sets vision_aspect_ratio to {aspect!r}; this model has 'anyres_max_' and a number of tiles alone")
    decoder = _decoder(text, vocabulary=151_936, mlp=22_016, eps=1e-6, context=32_768, qkv_bias=True)
    tower = TowerConfig(
        tile=vision.get("image_size", 384), patch=vision.get("patch_size", 14), width=vision.get("hidden_size", 1152),
        layers=vision.get("num_hidden_layers", 26), heads=vision.get("num_attention_heads", 16),
        mlp=vision.get("intermediate_size", 4304), eps=vision.get("layer_norm_eps", 1e-6),
        mean=tuple(found["preprocessor"].get("image_mean", (0.48145466, 0.4578275, 0.40821073))),
        std=tuple(found["preprocessor"].get("image_std", (0.26862954, 0.26130258, 0.27577711))),
    )  # fmt: skip
    steps = [tower.tile * n for n in range(1, 7)]
    packing = PackingConfig(
        resolutions=tuple(map(tuple, found.get("image_grid_pinpoints") or [(h, w) for h in steps for w in steps])),
        most_tiles=int(aspect.removeprefix("anyres_max_")),
        image_token=found.get("image_token_index", 151_646),
        video_token=found.get("video_token_index", 151_647),
    )
    tied = found.get("tie_word_embeddings", False) or decoder.tied
    return LMMConfig(dataclasses.replace(decoder, tied=tied), tower, packing)


def _chameleon(found: dict[str, Any]) -> LMMConfig:
    vq, names = found.get("vq_config", {}), found.get("vocabulary_map") or {}
    _require(found, attention_bias=False)
    _require(vq, attn_resolutions=None, attn_type="vanilla", double_latent=False, in_channels=3)
    decoder = _decoder(found, vocabulary=65_536, mlp=11_008, eps=1e-5, context=4096, qkv_bias=False)
    digits = str.maketrans("ABCDEFGHIJ", "0123456789")
    codes = {int(name[6:-1].translate(digits)): token for name, token in names.items() if name.startswith("IMGIMG")}
    count = vq.get("num_embeddings", 8192)
    if sorted(codes) != list(range(count)) or "<image>" not in names:
        raise ValueError(f"config.json's vocabulary_map names {len(codes)} image codes, and the codebook has {count}")
    return LMMConfig(decoder, None, None, CodesConfig(
        resolution=vq.get("resolution", 512), channels=vq.get("base_channels", 128),
        multipliers=tuple(vq.get("channel_multiplier", (1, 1, 2, 2, 4))), blocks=vq.get("num_res_blocks", 2),
        latent=vq.get("latent_channels", 256), code_width=vq.get("embed_dim", 256), vocabulary=tuple(codes[i] for i in range(count)),
        begin=names.get("<racm3:break>", 8197), end=names.get("<eoss>", 8196), image_token=names["<image>"],
    ))  # fmt: skip
