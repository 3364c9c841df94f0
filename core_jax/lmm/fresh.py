"""A small model that has learned nothing yet, with a tokenizer of its own: for tests, for trials, for data of one's own."""
import functools

import jax
import tokenizers

from core_jax.lmm.config import DecoderConfig, LMMConfig, PackingConfig, TowerConfig
from core_jax.lmm.model import LMM
from core_jax.lmm.tokenizer import Tokenizer
from core_jax.rngs import Rngs

STOP, IMAGE, VIDEO = "<|stop|>", "<image>", "<video>"


def fresh_tokenizer(texts: list[str], vocabulary: int) -> tokenizers.Tokenizer:
    """Byte pairs learned from texts; the special tokens come first: stop, image, video."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[STOP, IMAGE, VIDEO], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(texts, trainer)
    return inner


def fresh_config(decoder: DecoderConfig, tower: TowerConfig) -> LMMConfig:
    """The whole of a decoder and a tower: images are one tile."""
    return LMMConfig(decoder, tower, PackingConfig(((tower.tile, tower.tile),), image_token=1, video_token=2), stop=(0,))


@functools.partial(jax.jit, static_argnums=(0, 1))
def untrained(config: LMMConfig, seed: int) -> LMM:
    """The model alone."""
    return LMM(config, rngs=Rngs(seed))


def fresh(texts: list[str], config: LMMConfig, *, seed: int) -> tuple[LMM, Tokenizer]:
    """The model, and a tokenizer learned from the texts, the same for the same texts in the same order."""
    return untrained(config, seed), Tokenizer(fresh_tokenizer(texts, config.decoder.vocabulary), config)
