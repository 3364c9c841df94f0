"""From a tokenizer's ids with placeholders, images and videos to the arrays that the model takes."""
import dataclasses

import numpy as np
from jaxtyping import Float, Int

from core_jax.lmm.config import LMMConfig
from core_jax.lmm.model import Inputs
from core_jax.lmm.packing import NEWLINE, Visual

SHORTEST = 32
"""tokens of the smallest bucket"""


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One example, its placeholders widened to the visual tokens that they stand for."""

    tokens: Int[np.ndarray, "S"]
    tiles: Float[np.ndarray, "N H W C"] | None = None
    sources: Int[np.ndarray, "S 4"] | None = None
    weights: Float[np.ndarray, "S 4"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)


def lay_out(config: LMMConfig, ids: list[int], visuals: list[Visual | Int[np.ndarray, "S"]]) -> Sequence:
    """A sequence.

    Args:
      ids: tokens; each placeholder of an image or a video is one of them.
      visuals: for each placeholder, in order, its visual tokens: a `Visual`, or the ids of an image's codes.

    Raises:
      ValueError: there are not as many placeholders as visuals.
    """
    placeholders = {config.codes.image_token} if config.codes else {config.packing.image_token, config.packing.video_token}
    asked = sum(token in placeholders for token in ids)
    if asked != len(visuals):
        raise ValueError(f"a prompt with {asked} placeholders came with {len(visuals)} images or videos")
    left, parts = iter(visuals), [Sequence(np.zeros(0, np.int32))]
    for token in ids:
        if token not in placeholders:
            parts.append(Sequence(np.array([token], np.int32)))
        elif config.codes:
            parts.append(Sequence(np.array([config.codes.begin, *next(left), config.codes.end], np.int32)))
        else:
            visual = next(left)
            parts.append(Sequence(np.full(len(visual.sources), token, np.int32), visual.tiles, visual.sources, visual.weights))
    return concatenate(parts, config)


def concatenate(sequences: list[Sequence], config: LMMConfig) -> Sequence:
    """One behind the other."""
    tokens = np.concatenate([s.tokens for s in sequences])
    if all(s.tiles is None for s in sequences):
        return Sequence(tokens)
    sources, weights = map(list, zip(*map(_tables, sequences)))
    first = 0  # visual token of the next sequence
    for i, s in enumerate(sequences):
        sources[i] = np.where(sources[i] == NEWLINE, NEWLINE, sources[i] + first)
        first += 0 if s.tiles is None else len(s.tiles) * config.tower.grid**2
    tiles = [s.tiles for s in sequences if s.tiles is not None]
    return Sequence(tokens, np.concatenate(tiles), np.concatenate(sources).astype(np.int32), np.concatenate(weights).astype(np.float32))


def _tables(sequence: Sequence) -> tuple[Int[np.ndarray, "S 4"], Float[np.ndarray, "S 4"]]:
    """Sources and weights, of a sequence without tiles too."""
    if sequence.tiles is None:
        return np.full((len(sequence), 4), NEWLINE, np.int32), np.zeros((len(sequence), 4), np.float32)
    return sequence.sources, sequence.weights


def bucket(size: int, least: int = 1) -> int:
    """The next power of two, so that few shapes are ever compiled."""
    return max(least, 1 << max(size - 1, 0).bit_length())


def length_bucket(length: int) -> int:
    """The tokens that a sequence is padded to: as for `bucket`, but with four steps from one power of two to the next."""
    step = max(SHORTEST, bucket(length) // 8)
    return -(-length // step) * step


def stack(config: LMMConfig, sequences: list[Sequence], length: int | None = None) -> Inputs:
    """A batch, padded at the end to the length's bucket (or to `length`) and to the bucket of the most tiles.

    Raises:
      ValueError: a sequence is longer than the model's context, or than `length`.
    """
    longest, context = max(map(len, sequences)), config.decoder.context
    if longest > (length or context):
        raise ValueError(f"a sequence of {longest} tokens does not fit in {length or context}" + (", the model's context" * (not length)))
    length = length or min(length_bucket(longest), context)

    def padded(arrays, size: int, fill) -> np.ndarray:
        return np.stack([np.pad(a, ((0, size - len(a)), *[(0, 0)] * (a.ndim - 1)), constant_values=fill) for a in arrays])

    tokens = padded([s.tokens for s in sequences], length, 0)
    valid = np.arange(length)[None] < np.array([[len(s)] for s in sequences])
    seen = [s for s in sequences if s.tiles is not None]
    if not seen:
        return Inputs(tokens, valid)
    none = np.zeros((0, *seen[0].tiles.shape[1:]), np.float32)
    tiles = [none if s.tiles is None else s.tiles for s in sequences]
    sources, weights = zip(*map(_tables, sequences))
    tiles = padded(tiles, bucket(max(map(len, tiles))), 0)
    return Inputs(tokens, valid, tiles, padded(sources, length, NEWLINE), padded(weights, length, 0))
