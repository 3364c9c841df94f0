"""A vision-language model's weights, of a Hugging Face directory, by a table of names."""
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from core_jax.directory import from_torch, stream
from core_jax.lmm.config import LMMConfig, read_config
from core_jax.lmm.model import LMM
from core_jax.rngs import Rngs
from core_jax.tensors import Tensors
from core_jax.weights import rename

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


def their_name(ours: str) -> str:
    """The directory's name, without what stands around it, of the tensor in one of our arrays; {} in it stands for the layer."""
    return rename(ours, OURS)


def _turn(ours: str, tensors: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """As `from_torch`, but for the convolutions of the image tokenizer."""
    if ours.startswith("codes."):
        return tensors[0].transpose(2, 3, 1, 0) if tensors[0].ndim == 4 and ours.endswith(".w") else tensors[0]
    return from_torch(ours, tensors, shape)


def load(
    directory: epath.PathLike, mesh: Mesh | None = None, dtype: jnp.dtype | None = None, exact: Callable[[str], bool] = lambda name: False
) -> LMM:
    """The model of a directory, as `core_jax.directory.stream` gives it.

    Raises:
      ValueError: what `read_config` and `stream` refuse.
    """
    config = read_config(directory)
    unused = f"{UNUSED}|lm_head.weight$" if config.decoder.tied else UNUSED
    tensors = Tensors(directory, around=THEIRS)
    return stream(tensors, abstract(config), lambda ours: [their_name(ours)], _turn, unused=unused, mesh=mesh, dtype=dtype, exact=exact)


@functools.partial(jax.jit, static_argnums=0)
def _new(config: LMMConfig) -> LMM:
    return LMM(config, rngs=Rngs(0))


def abstract(config: LMMConfig) -> LMM:
    """The model's shapes, which jax traces once, however often they are asked for."""
    return _new.eval_shape(config)
