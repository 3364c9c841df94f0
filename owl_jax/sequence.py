"""The pieces of a world model's sequence, (5), (6) and (9) of the package's docstring, and a batch of whole sequences for training.

  start  I  <t>  s_0  o_0  <d_0>  s_1  o_1  <d_1>  …

I is one image; <t> and <d> are texts between their marks; s is Q queries, read out at their own places; o is the key frames of a clip.
Training and the running loop put the same pieces one after the other, so they cannot differ.
"""
import dataclasses
import enum
from collections.abc import Callable, Sequence as Many

import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8

from core_jax.lmm import packing
from core_jax.lmm.config import LMMConfig
from core_jax.lmm.model import Inputs
from core_jax.lmm.sequence import Sequence, concatenate, lay_out, stack
from core_jax.lmm.tokenizer import Tokenizer
from owl_jax.config import OwlConfig

Frames = UInt8[np.ndarray, "T H W 3"]


class Kind(enum.IntEnum):
    """What a token belongs to."""

    START = 0
    """what the tokenizer puts in front, and I"""
    TEXT = 1
    """t, wherever it stands"""
    STATE = 2
    OBSERVATION = 3
    DYNAMICS = 4
    """d, which is learned"""


def key_frames(number: int, frames: int) -> Int[np.ndarray, "n"]:
    """Of a clip of so many frames: the middles of equal parts."""
    return ((np.arange(number) + 0.5) * frames / number).astype(int)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Makes the pieces."""

    lmm: LMMConfig
    tokenizer: Tokenizer
    config: OwlConfig
    encode: Callable[[Frames], Int[np.ndarray, "T S"]] | None = None
    """frames to token ids, for a model that reads codes"""

    def __post_init__(self):
        for mark in self.config.marks:
            if len(self.tokenizer.plain(mark)) != 1:
                raise ValueError(f"the mark {mark!r} is {len(self.tokenizer.plain(mark))} tokens of this model's tokenizer; --owl.marks wants one each")

    @property
    def marks(self) -> tuple[int, int]:
        """Token ids of the marks."""
        return tuple(self.tokenizer.plain(mark)[0] for mark in self.config.marks)

    @property
    def text_slots(self) -> int:
        """Tokens of the longest text with its marks."""
        return self.config.words + 2

    def start(self, image: UInt8[np.ndarray, "H W 3"]) -> Sequence:
        """What the tokenizer puts in front of everything, and I."""
        ids = self.tokenizer.encode("")
        if self.encode is not None:
            return lay_out(self.lmm, [*ids, self.lmm.codes.image_token], list(self.encode(image[None])))
        return lay_out(self.lmm, [*ids, self.lmm.packing.image_token], [packing.one_of_images(image, self.lmm.tower)])

    def text(self, text: str) -> Sequence:
        """A text between its marks, cut to `config.words` tokens."""
        first, last = self.marks
        return Sequence(np.array([first, *self.tokenizer.plain(text)[: self.config.words], last], np.int32))

    def state(self) -> Sequence:
        """Places of the queries; their tokens do not count."""
        return Sequence(np.zeros(self.config.queries, np.int32))

    def observation(self, clip: Frames) -> Sequence:
        """The key frames of a clip."""
        number = self.config.key_frames
        frames = clip[key_frames(number, len(clip))]
        if self.encode is not None:
            return lay_out(self.lmm, [self.lmm.codes.image_token] * number, list(self.encode(frames)))
        return lay_out(self.lmm, [self.lmm.packing.video_token], [packing.video(frames, self.lmm.tower)])


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """One film as a sequence; `kinds` says what each token belongs to."""

    sequence: Sequence
    kinds: Int[np.ndarray, "S"]

    @property
    def states(self) -> Int[np.ndarray, "S"]:
        """Places of all queries, n·Q of them."""
        return np.flatnonzero(self.kinds == Kind.STATE)

    @property
    def learned(self) -> Int[np.ndarray, "S"]:
        """Places of the tokens that next-token prediction learns: those of d and its last mark, not its first."""
        told = self.kinds == Kind.DYNAMICS
        return np.flatnonzero(told[1:] & told[:-1]) + 1


def unroll(pieces: Pieces, image: UInt8[np.ndarray, "H W 3"], text: str, clips: Many[Frames], said: Many[str | None], kind: Kind) -> Unrolled:
    """(6) or (9).

    Args:
      said: the text behind each clip; None for none.
      kind: of those texts: TEXT for (6), DYNAMICS for (9).
    """
    parts = [(Kind.START, pieces.start(image)), (Kind.TEXT, pieces.text(text))]
    for clip, words in zip(clips, said, strict=True):
        parts += [(Kind.STATE, pieces.state()), (Kind.OBSERVATION, pieces.observation(clip))]
        parts += [] if words is None else [(kind, pieces.text(words))]
    while parts[-1][0] in (Kind.OBSERVATION, Kind.TEXT):  # nothing comes of what stands behind the last state or learned text
        parts.pop()
    return Unrolled(concatenate([part for _, part in parts], pieces.lmm), np.repeat([k for k, _ in parts], [len(part) for _, part in parts]))


@struct.dataclass
class Batch:
    """Films to learn from."""

    inputs: Inputs
    states: Int[Array, "B n Q"]
    """places of the queries"""
    learned: Int[Array, "B N"]
    """places of learned tokens, 0 for none"""
    video: UInt8[Array, "B n T H W 3"]
    joined: Bool[Array, "B n"]
    """the clip goes on from the last frame of the one before, or from I"""
    scores: Float[Array, "B n M"]
    """of the film model, NaN where unknown"""
    caption: dict[str, Int[Array, "B n ..."]]
    """tokens of each clip's caption for the film model's text encoder"""
    number: Int[Array, "B"] | None = None
    weight: Float[Array, "B"] | None = None
    """1 for a film that counts, 0 for one that fills the batch; None where all count"""


def longest(pieces: Pieces, clip: Frames, clips: int, behind: bool) -> int:
    """Tokens that every film of so many clips of this size fits in, each text at its longest; a multiple of 16.

    Args:
      behind: whether a learned text stands behind the last clip.
    """
    prefix, after = len(pieces.start(clip[0])) + pieces.text_slots, len(pieces.observation(clip)) + pieces.text_slots
    return -(-(prefix + clips * len(pieces.state()) + (clips - 1 + behind) * after) // 16) * 16


def collate(pieces: Pieces, examples: list[Unrolled], length: int) -> tuple[Inputs, Int[np.ndarray, "B n Q"], Int[np.ndarray, "B N"]]:
    """Inputs, places of queries, places of learned tokens."""
    inputs = stack(pieces.lmm, [example.sequence for example in examples], length)
    states = np.stack([example.states.reshape(-1, pieces.config.queries) for example in examples]).astype(np.int32)
    learned = np.zeros((len(examples), states.shape[1] * (pieces.config.words + 1)), np.int32)
    for row, example in zip(learned, examples):
        row[: len(example.learned)] = example.learned
    return inputs, states, learned
