"""A small captioner that has learned nothing yet, for tests, trials and words of one's own."""
import jax
import tokenizers
from flax import nnx

from core_jax.lmm.config import DecoderConfig, LMMConfig, PackingConfig, TowerConfig
from core_jax.lmm.model import LMM
from core_jax.lmm.tokenizer import Tokenizer
from koala_jax.captions.schema import Part, prompt

STOP, IMAGE, VIDEO = "<|stop|>", "<image>", "<video>"


def fresh_tokenizer(texts: list[str], vocabulary: int) -> tokenizers.Tokenizer:
    """Byte pairs learned from captions and questions; the special tokens come first: stop, image, video."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[STOP, IMAGE, VIDEO], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator([*texts, *map(prompt, Part)], trainer)
    return inner


def fresh(texts: list[str], *, seed: int, tile: int = 48) -> tuple[LMM, Tokenizer]:
    """1.1M parameters in all: a tower of 2 layers on tiles of 48 pixels, a decoder of 4 layers."""
    tower = TowerConfig(tile=tile, patch=6, width=96, layers=2, heads=4, mlp=192)
    packing = PackingConfig(resolutions=((tile, tile),), image_token=1, video_token=2)
    decoder = DecoderConfig(vocabulary=1024, width=128, layers=4, heads=4, kv_heads=2, mlp=384, context=1024, tied=True)
    config = LMMConfig(decoder, tower, packing, stop=(0,))
    model = jax.jit(lambda: LMM(config, rngs=nnx.Rngs(seed)))()
    return model, Tokenizer(fresh_tokenizer(texts, decoder.vocabulary), config)
