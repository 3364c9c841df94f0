"""A directory of a small UMT5 encoder with random weights and its tokenizer, as transformers writes one, without transformers."""
import dataclasses
import json
from pathlib import Path

import numpy as np
import tokenizers
from flax import nnx

from core_jax.tensors import save_file
from core_jax.weights import named, rename
from videodit_jax.umt5.load import NAMES
from videodit_jax.umt5.model import Umt5, Umt5Config

CONFIG = Umt5Config(vocabulary=40, width=24, layers=2, heads=3, head_dim=8, mlp=40, buckets=8, farthest=20)


def encoder(**changes) -> Umt5:
    """Whose every scale and place counts, with `changes` of CONFIG."""
    model, rng = Umt5(dataclasses.replace(CONFIG, **changes), rngs=nnx.Rngs(0)), np.random.default_rng(0)
    for path, leaf in nnx.iter_graph(model):
        if isinstance(leaf, nnx.Param) and path[-1] in ("scale", "places"):
            leaf[...] = leaf[...] + 0.3 * rng.standard_normal(leaf.shape)
    return model


def tokenizer() -> tokenizers.Tokenizer:
    """Letters, a few words, and UMT5's marks."""
    pieces = ["<pad>", "</s>", "<unk>", "▁a", "▁red", "▁circle", "▁", *"abcdefghijklmnopqrstuvwxyz&"]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made


def write(directory: Path, model: Umt5 | None = None, **changes) -> Path:
    """`text_encoder` and `tokenizer` in the directory, with `changes` in config.json."""
    c = CONFIG
    config = {
        "model_type": "umt5", "feed_forward_proj": "gated-gelu", "vocab_size": c.vocabulary, "d_model": c.width, "num_layers": c.layers,
        "num_heads": c.heads, "d_kv": c.head_dim, "d_ff": c.mlp, "relative_attention_num_buckets": c.buckets,
        "relative_attention_max_distance": c.farthest, "layer_norm_epsilon": c.eps,
    }  # fmt: skip
    for name in ("text_encoder", "tokenizer"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "text_encoder" / "config.json").write_text(json.dumps(config | changes))
    tokenizer().save(str(directory / "tokenizer" / "tokenizer.json"))
    table = {}
    for name, array in named(model or encoder()).items():
        theirs, array = rename(name, NAMES), np.asarray(array)
        for i, one in enumerate(array if "{}" in theirs else [array]):
            if name.endswith(".w"):
                one = one.reshape(-1, one.shape[-1]).T if ".out." in name else one.reshape(len(one), -1).T
            table[theirs.format(i)] = one
    save_file(directory / "text_encoder" / "model.safetensors", table)
    return directory
