"""Text enters the model as (B, N, C) token features and their lengths, whoever makes them.

A text config says how: `tokenize` runs on the host for one text and gives fixed-shape arrays, "length" among them; `build` makes the
encoder that turns a batch of those into features inside the step. The embedded default learns its own features: bytes, grouped by words.
The other way reads features that a frozen encoder made beforehand (`videodit_jax.latents --text-encoder`).
"""
import dataclasses
import enum
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Float16, Int

from core_jax.layers import Linear
from core_jax.numbers import COUNT, refuse
from core_jax.rngs import Rngs
from core_jax.sharding import constrain

WORD_BYTES = 12


class Reads(enum.Enum):
    """What a text is to the model."""

    BYTES = "bytes"
    """its bytes: the features are learned with the model"""
    FEATURES = "features"
    """features of a frozen encoder"""


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """How captions are read."""

    words: int = 16
    """longest caption, in pieces of at most 12 bytes or in tokens of the frozen encoder; the rest is cut"""
    width: int = 64
    """features of a word"""
    reads: Reads = Reads.BYTES
    """bytes, by an encoder that learns with the model; or features, which a frozen encoder made (--text-encoder)"""

    def __post_init__(self):
        refuse(self, {COUNT: "words width"}, "model.text")

    def pieces(self, caption: str) -> list[bytes]:
        """All of a caption: words and punctuation marks, lower case, in pieces of at most 12 bytes."""
        words = [word.encode() for word in re.findall(r"\w+|[^\w\s]", caption.lower())]
        return [word[i : i + WORD_BYTES] for word in words for i in range(0, len(word), WORD_BYTES)]

    def tokenize(self, text: str | Float16[np.ndarray, "n C"]) -> dict[str, np.ndarray]:
        """ "bytes" (N, 12) int32, 0 where a word has ended, and "length" (), of the pieces that are read; or "features" (N, C) float16, zeros behind
        those given, of which "" has none. Raises ValueError: features are wanted."""
        if self.reads is Reads.FEATURES:
            if isinstance(text, str) and text:
                raise ValueError(f"this model reads features of a text encoder, and {text!r} came as it is")
            features = np.zeros((self.words, self.width), np.float16)
            if number := min(len(text), self.words):
                features[:number] = text[:number]
            return {"features": features, "length": np.int32(number)}
        pieces = self.pieces(text)[: self.words]
        codes = np.zeros((self.words, WORD_BYTES), np.int32)
        padded = b"".join(piece.ljust(WORD_BYTES, b"\0") for piece in pieces)  # at once: a thousand captions a second are read beside a pod
        codes[: len(pieces)] = np.frombuffer(padded, np.uint8).reshape(-1, WORD_BYTES)
        return {"bytes": codes, "length": np.int32(len(pieces))}

    def of(self, example: dict[str, Any]) -> str | Float16[np.ndarray, "n C"]:
        """What `tokenize` takes of an example (see `videodit_jax.data`): its caption, or the features of it."""
        return example["caption"] if self.reads is Reads.BYTES else example["text"]

    def build(self, *, rngs: Rngs) -> "ByteEncoder | GivenFeatures":
        """From tokens to features and how many of them count; 0 leaves cross-attention without keys. Tokens of length 0 are the null condition."""
        return ByteEncoder(self, rngs=rngs) if self.reads is Reads.BYTES else GivenFeatures(self)


class ByteEncoder(nnx.Module):
    """A word is the sum of one learned vector per (place, byte) and one per place in the caption, then an MLP."""

    def __init__(self, config: TextConfig, *, rngs: Rngs):
        width = config.width
        self.bytes = nnx.Param(0.3 * jax.random.normal(rngs.params(), (WORD_BYTES, 255, width)), dims="p v C")
        self.places = nnx.Param(0.3 * jax.random.normal(rngs.params(), (config.words, width)), dims="N C")
        self.up = Linear((width,), (2 * width,), "C F", rngs=rngs)
        self.down = Linear((2 * width,), (width,), "F C", rngs=rngs)

    def __call__(self, tokens: dict[str, Array]) -> tuple[Float[Array, "B N C"], Int[Array, "B"]]:
        rows = constrain(rearrange(self.bytes[...], "p v C -> (p v) C"), "n C")  # whole, or each device looks up its part for all captions
        byte = tokens["bytes"] - 1
        row = jnp.where(byte < 0, len(rows), byte + 255 * np.arange(WORD_BYTES)[None, None])  # past the last: 0, and no gradient
        words = rows.at[row].get(mode="fill", fill_value=0).sum(2)
        x = words + self.places[...][None]
        return x + self.down(jax.nn.gelu(self.up(x), approximate=True)), tokens["length"]


class GivenFeatures(nnx.Module):
    """Features as they are. The zeros behind them count as well, as in Wan 2.1, and no text is one feature that is learned."""

    def __init__(self, config: TextConfig):
        self.none = nnx.Param(jnp.zeros(config.width), dims="C")

    def __call__(self, tokens: dict[str, Array]) -> tuple[Float[Array, "B N C"], Int[Array, "B"]]:
        features, lengths = tokens["features"].astype(jnp.float32), tokens["length"]
        none = jnp.zeros_like(features).at[:, 0].set(self.none[...])
        return jnp.where(lengths[:, None, None] > 0, features, none), jnp.full_like(lengths, features.shape[1])
