"""The encoder of a directory in the format of `transformers` (UMT5EncoderModel), and its tokenizer."""
import jax
import jax.numpy as jnp
import tokenizers
from etils import epath
from jax.sharding import Mesh

from core_jax.directory import digest_of, held_config, on_disk, stream
from core_jax.lmm.tokenizer import read_tokenizer
from core_jax.rngs import Rngs
from core_jax.tensors import Tensors
from core_jax.weights import rename
from videodit_jax.umt5.model import Umt5, Umt5Config

NAMES = {
    r"^embedding$": "shared.weight",
    r"^norm\.": "encoder.final_layer_norm.",
    r"^blocks\.(attention_norm|q|k|v|out|places)\b": r"encoder.block.{}.layer.0.\1",
    r"^blocks\.": "encoder.block.{}.layer.1.",
    r"\.(attention|mlp)_norm\.": ".layer_norm.",
    r"\.(q|k|v)\.": r".SelfAttention.\1.",
    r"\.out\.": ".SelfAttention.o.",
    r"\.places$": ".SelfAttention.relative_attention_bias.weight",
    r"\.gate\.": ".DenseReluDense.wi_0.",
    r"\.up\.": ".DenseReluDense.wi_1.",
    r"\.down\.": ".DenseReluDense.wo.",
    r"\.(w|scale)$": ".weight",
}
"""our names in the directory's, one after the other; {} is the layer"""
UNUSED = r"encoder\.embed_tokens\.weight$|decoder\.|lm_head\."
"""the embedding once more, and what a whole UMT5 has behind its encoder"""
END = "</s>"
"""closes every text"""


def folders(directory: epath.PathLike) -> tuple[epath.Path, epath.Path]:
    """Where weights and tokenizer lie: in `text_encoder` and `tokenizer` of a whole pipeline's directory, or in it."""
    directory = on_disk(directory)
    if (directory / "text_encoder" / "config.json").exists():
        return directory / "text_encoder", directory / "tokenizer"
    return directory, directory


def digest(directory: epath.PathLike) -> str:
    """Of config.json, tokenizer.json and the weights, by pieces."""
    weights, _ = folders(directory)
    return digest_of(weights, (weights / "config.json").read_bytes() + tokenizer_file(directory).read_bytes())


def tokenizer_file(directory: epath.PathLike) -> epath.Path:
    """Raises ValueError: there is none."""
    path = folders(directory)[1] / "tokenizer.json"
    if not path.exists():
        raise ValueError(f"{path} is missing: a tokenizer in the format of the tokenizers library belongs to the text encoder")
    return path


def read_config(directory: epath.PathLike) -> Umt5Config:
    """Raises ValueError: no config.json, or not of a UMT5 with gated MLPs."""
    with held_config(directory, "text encoder", "a UMT5EncoderModel") as held:
        kind, gate = held["model_type"], held.get("feed_forward_proj")
        config = Umt5Config(
            held["vocab_size"], held["d_model"], held["num_layers"], held["num_heads"], held["d_kv"], held["d_ff"],
            held["relative_attention_num_buckets"], held.get("relative_attention_max_distance", 128), held["layer_norm_epsilon"],
        )  # fmt: skip
    if (kind, gate) != ("umt5", "gated-gelu"):
        raise ValueError(f"{directory}/config.json describes a {kind} with {gate} MLPs, and a umt5 with gated-gelu ones is wanted")
    return config


def load(directory: epath.PathLike, mesh: Mesh, dtype: jnp.dtype) -> Umt5:
    """The weights, each device's share of them.

    Raises:
      ValueError: what `read_config` and `core_jax.directory.stream` refuse.
    """
    weights, _ = folders(directory)
    shapes = jax.eval_shape(lambda config=read_config(weights): Umt5(config, rngs=Rngs(0)))
    return stream(Tensors(weights), shapes, lambda ours: [rename(ours, NAMES)], unused=UNUSED, mesh=mesh, dtype=dtype)


def load_tokenizer(directory: epath.PathLike) -> tokenizers.Tokenizer:
    """Raises ValueError: there is none, or it does not close a text as UMT5's does."""
    path = tokenizer_file(directory)
    made = read_tokenizer(path)
    if made.encode("").tokens != [END]:
        raise ValueError(f"{path} makes {made.encode('').tokens} of an empty text, and UMT5's tokenizer makes {[END]}")
    return made
