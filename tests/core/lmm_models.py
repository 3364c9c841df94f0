"""Vision-language models of `transformers` with random weights, and the directories that it writes of them."""
import dataclasses
from pathlib import Path

import tokenizers
import torch
import transformers

from core_jax.lmm.config import DecoderConfig, LMMConfig, PackingConfig, TowerConfig

IMAGE, VIDEO = 118, 119
"""LLaVA-OneVision's placeholders"""
BEGIN, END, PICTURE = 101, 102, 100
"""Chameleon's: what stands around an image, and its placeholder"""
DECODER = DecoderConfig(vocabulary=120, width=32, layers=2, heads=4, kv_heads=2, mlp=48, context=128)
TOWER = TowerConfig(tile=20, patch=4, width=16, layers=1, heads=2, mlp=24)
PACKING = PackingConfig(resolutions=((20, 20), (20, 40), (40, 20), (40, 40)), image_token=IMAGE, video_token=VIDEO)
CONFIG = LMMConfig(DECODER, TOWER, PACKING, stop=(7,))
"""the smallest model of ours, in LLaVA-OneVision's arrangement"""

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclasses.dataclass(frozen=True)
class Written:
    """A model in torch and on disk."""

    torch: transformers.PreTrainedModel
    path: Path

    def save_gradients(self, path: Path) -> Path:
        """A directory of the same layout that holds the gradients in place of the weights."""
        with torch.no_grad():
            for parameter in self.torch.parameters():
                parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        self.torch.save_pretrained(path)
        return path


def words(size: int = 120, placeholders: dict[str, int] = {"<image>": IMAGE, "<video>": VIDEO, "[stop]": 7}) -> tokenizers.Tokenizer:
    """A tokenizer of that many words, the placeholders among them."""
    vocabulary = placeholders | {f"w{i}": i for i in range(size) if i not in placeholders.values()}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="w0"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(list(placeholders))
    return inner


def write(kind: type[transformers.PreTrainedModel], config: transformers.PretrainedConfig, path: Path, **options) -> Written:
    """Writes one; the weights are made larger than transformers makes them, so that every part of the model counts."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += (0.1 if "vq" not in name else 0.03) * torch.randn_like(parameter)
    model.eval().save_pretrained(path, **options)
    return Written(model, path)


def llava_onevision(path: Path, *, larger: bool = False) -> Written:
    """Small: patches in an odd grid. Larger: an even grid, a tied head, images scaled down, sharded files."""
    vision = dict(
        model_type="siglip_vision_model", hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        image_size=26 if larger else 31, patch_size=6, vision_use_head=False,
    )  # fmt: skip
    text = dict(
        model_type="qwen2", vocab_size=120, hidden_size=48, intermediate_size=64, num_hidden_layers=3 if larger else 2,
        num_attention_heads=6 if larger else 4, num_key_value_heads=2, max_position_embeddings=512, eos_token_id=7,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6 if larger else 1e4},
    )  # fmt: skip
    side = vision["image_size"]
    config = transformers.LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, video_token_index=VIDEO, tie_word_embeddings=larger,
        image_grid_pinpoints=[[h * side, w * side] for h in (1, 2) for w in (1, 2, 3)],
        vision_aspect_ratio="anyres_max_2" if larger else "anyres_max_9",
    )  # fmt: skip
    return write(transformers.LlavaOnevisionForConditionalGeneration, config, path, max_shard_size="100KB" if larger else "1GB")


def chameleon(path: Path, *, larger: bool = False) -> Written:
    """Small: norms in front, in one file. Larger: norms behind, grouped heads, three levels of codes, sharded files."""
    digits = str.maketrans("0123456789", "ABCDEFGHIJ")
    names = {"<s>": 0, "<pad>": 1, "</s>": 2, "<image>": PICTURE, "<racm3:break>": BEGIN, "<eoss>": END}
    names |= {f"IMGIMG{str(i).translate(digits)}Z": 4 + i for i in range(64)}
    config = transformers.ChameleonConfig(
        vocab_size=120, hidden_size=48, intermediate_size=64, num_hidden_layers=3 if larger else 2, num_attention_heads=4,
        num_key_value_heads=2 if larger else 4, max_position_embeddings=1024, vocabulary_map=names, swin_norm=larger, bos_token_id=0,
        vq_config=dict(
            embed_dim=16, num_embeddings=64, latent_channels=24, resolution=32, base_channels=32,
            channel_multiplier=[1, 2, 2] if larger else [1, 2], num_res_blocks=2 if larger else 1,
        ),
    )  # fmt: skip
    return write(transformers.ChameleonForConditionalGeneration, config, path, max_shard_size="100KB" if larger else "1GB")
