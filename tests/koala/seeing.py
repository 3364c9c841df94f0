"""A vision tower learns alone to see, as those of captioners have before a decoder is put behind them.

For each kind of word of a frame (its shape, its colour …), of which w is the right one, and for the place c of the thing:

  y = mean over tokens of x / |x|                            x: a token of the tower, projected to the decoder's width
  loss = Σ_kinds cross-entropy(10 cos_v y·v/|v|, w) + |(y·v/|v| / 2 − c) / 0.1|²                c in sides of the frame, from its middle

A v for each word and two for the place are learned too, and thrown away. That they have length 1 and y at most that makes what they tell a large
part of what a token is. Heads of any length are content with a small one, and the decoder, which starts from nothing, does not find it for long.
"""
import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, UInt8

from core_jax.lmm.tower import Vision
from core_jax.remat import Remat
from core_jax.rngs import Rngs
from tests.koala.six_part_shapes import example
from videodit_jax.data.shapes import Shapes

WORDS = ("size", "colour", "shape", "ground", "contrast")
"""what one frame shows"""


class Seer(nnx.Module):
    """A tower with its projector, and the vectors v."""

    def __init__(self, vision: Vision, kinds: dict[str, list[str]], *, rngs: Rngs):
        self.vision = vision
        normal = lambda n: nnx.Param(jax.random.normal(rngs.params(), (vision.down.w.shape[1], n)), dims="E n")
        self.words, self.place = nnx.Dict({kind: normal(len(words)) for kind, words in kinds.items()}), normal(2)

    def __call__(self, tiles: Float[Array, "B H W C"]) -> tuple[dict[str, Float[Array, "B n"]], Float[Array, "B 2"]]:
        """For each kind of word the logits, and the place."""
        y = unit(self.vision(tiles, Remat.FULL), -1).mean(1)
        return {kind: 10 * y @ unit(v[...], 0) for kind, v in self.words.items()}, y @ unit(self.place[...], 0) / 2


def unit(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """x / |x|"""
    return x * jax.lax.rsqrt((x * x).sum(axis, keepdims=True) + 1e-6)


class Frames:
    """Single frames of clips, with their words as numbers and their places."""

    def __init__(self, source: Shapes, clips: int):
        video, seen, centres = zip(*(example(source, i) for i in range(clips)))
        self.video, self.centres = np.stack(video), np.stack(centres) / source.side
        self.kinds = {word: sorted({one[word] for one in seen}) for word in WORDS}
        self.words = {word: np.array([of.index(one[word]) for one in seen]) for word, of in self.kinds.items()}

    def batch(self, size: int, key: list[int]) -> tuple[UInt8[np.ndarray, "B H W 3"], dict[str, np.ndarray], Float[np.ndarray, "B 2"]]:
        """Any frames of any clips; the same for the same key."""
        rng = np.random.default_rng(key)
        clip, at = rng.integers(len(self.video), size=size), rng.integers(self.video.shape[1], size=size)
        return self.video[clip, at], {word: of[clip] for word, of in self.words.items()}, self.centres[clip, at]


def loss(seer: Seer, tiles: Float[Array, "B H W C"], words: dict[str, Array], places: Float[Array, "B 2"]) -> Float[Array, ""]:
    """The second line above, as a mean over frames."""
    logits, at = seer(tiles)
    each = [optax.softmax_cross_entropy_with_integer_labels(logits[kind], words[kind]).mean() for kind in words]
    return sum(each) + (((at - places) / 0.1) ** 2).sum(-1).mean()


def learn(vision: Vision, source: Shapes, *, clips: int, steps: int, say: Callable[[str], None]) -> Vision:
    """The tower after `steps` batches of 64 frames of the source's first clips."""
    frames, config = Frames(source, clips), vision.tower.config
    seer = Seer(vision, frames.kinds, rngs=Rngs(0))
    tiles = lambda pixels: ((pixels / 255 - np.array(config.mean)) / np.array(config.std)).astype(np.float32)
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, max(1, steps // 20), max(steps, 2), 4e-5)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=0.01))
    opt_state = tx.init(seer)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(seer, opt_state, batch):
        value, grads = jax.value_and_grad(loss)(seer, *batch)
        updates, opt_state = tx.update(grads, opt_state, seer)
        return optax.apply_updates(seer, updates), opt_state, value

    for i in range(steps):
        pixels, words, places = frames.batch(64, [source.seed, i])
        seer, opt_state, value = step(seer, opt_state, (tiles(pixels), words, places.astype(np.float32)))
        if (i + 1) % max(1, steps // 10) == 0:
            say(f"step {i + 1} of {steps}: loss {float(value):.3f}")
    pixels, words, places = Frames(dataclasses.replace(source, seed=source.seed + 1), 256).batch(512, [0])
    logits, at = jax.jit(Seer.__call__)(seer, tiles(pixels))
    right = {word: float((np.asarray(logits[word]).argmax(-1) == words[word]).mean()) for word in WORDS}
    off = source.side * float(np.sqrt(((at - places) ** 2).mean()))
    say(f"right on frames of other clips: {', '.join(f'{word} {share:.0%}' for word, share in right.items())}; the place to {off:.1f} pixels")
    return seer.vision
