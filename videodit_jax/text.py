"""Text enters the model as (B, N, C) token features and their lengths, whoever makes them.

A text config is the interface: `tokenize` runs on the host for one caption and gives fixed-shape arrays, "length" among them;
`build` makes the encoder that turns a batch of those into features inside the step. A frozen pretrained encoder, or features
computed beforehand, take its place by another config with the same two methods. The embedded default learns its own features:
bytes, grouped by words.
"""
import dataclasses
import re
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int

from core_jax.layers import Linear

WORD_BYTES = 12


class TextEncoder(Protocol):
    """What `build` makes."""

    def __call__(self, tokens: dict[str, Array]) -> tuple[Float[Array, "B N C"], Int[Array, "B"]]:
        """Features and how many of them count; 0 leaves cross-attention without keys, which is the null condition."""


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The embedded byte encoder."""

    words: int = 16
    """longest caption, in pieces of at most 12 bytes; the rest is cut"""
    width: int = 64
    """features of a word"""

    def pieces(self, caption: str) -> list[bytes]:
        """All of a caption: words and punctuation marks, lower case, in pieces of at most 12 bytes."""
        words = [word.encode() for word in re.findall(r"\w+|[^\w\s]", caption.lower())]
        return [word[i : i + WORD_BYTES] for word in words for i in range(0, len(word), WORD_BYTES)]

    def tokenize(self, caption: str) -> dict[str, np.ndarray]:
        """ "bytes" (N, 12) int32, 0 where a word has ended, and "length" (), of the pieces that are read."""
        pieces = self.pieces(caption)[: self.words]
        codes = np.zeros((self.words, WORD_BYTES), np.int32)
        for row, piece in zip(codes, pieces):
            row[: len(piece)] = list(piece)
        return {"bytes": codes, "length": np.int32(len(pieces))}

    def build(self, *, rngs: nnx.Rngs) -> TextEncoder:
        return ByteEncoder(self, rngs=rngs)


class ByteEncoder(nnx.Module):
    """A word is the sum of one learned vector per (place, byte) and one per place in the caption, then an MLP."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.bytes = nnx.Param(0.3 * jax.random.normal(rngs.params(), (WORD_BYTES, 255, width)), dims="p v C")
        self.places = nnx.Param(0.3 * jax.random.normal(rngs.params(), (config.words, width)), dims="N C")
        self.up = Linear((width,), (2 * width,), "C F", rngs=rngs)
        self.down = Linear((2 * width,), (width,), "F C", rngs=rngs)

    def __call__(self, tokens: dict[str, Array]) -> tuple[Float[Array, "B N C"], Int[Array, "B"]]:
        rows = rearrange(self.bytes[...], "p v C -> (p v) C")
        byte = tokens["bytes"] - 1
        row = jnp.where(byte < 0, len(rows), byte + 255 * np.arange(WORD_BYTES)[None, None])  # past the last: 0, and no gradient
        words = rows.at[row].get(mode="fill", fill_value=0).sum(2)
        x = words + self.places[...][None]
        return x + self.down(jax.nn.gelu(self.up(x), approximate=True)), tokens["length"]
