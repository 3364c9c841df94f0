"""The loop: films a world clip by clip, o_t = D(s_t, o_{t−1}), d_t = f(s_t, o_t), s_{t+1} = g(s_t, d_t).

All of it is one causal model with one key-value cache, which only ever grows by the newest piece; `context` says what leaves it. Several
films run side by side, in step, filled up to a number that the devices divide (`places`). Every piece takes a fixed number of slots, so
each function is compiled once and the memory that a film takes does not depend on its length.
"""
import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from core_jax.compiler import jit
from core_jax.lmm.cache import Cache, new_cache
from core_jax.lmm.generate import chosen
from core_jax.lmm.model import Inputs
from core_jax.lmm.sequence import Sequence, stack
from core_jax.sharding import batch_pieces, constrain
from owl_jax.config import ContextConfig
from owl_jax.context import Past, compact
from owl_jax.films import begins_scene
from owl_jax.model import Owl
from owl_jax.sequence import Kind, Pieces, longest
from owl_jax.shoot import filmed
from videodit_jax.config import SamplingConfig, TrainConfig as FilmConfig
from videodit_jax.model import VideoDiT
from videodit_jax.sampler import Context

Clips = UInt8[np.ndarray, "B T H W 3"]


def places(films: int) -> Int[np.ndarray, "B"]:
    """Which film lies at each place of the batch: all of them, then the last again until the mesh's axes data and fsdp divide B."""
    on = jax.sharding.get_abstract_mesh()
    pieces = 1 if on.empty else batch_pieces(on)
    return np.minimum(np.arange(-(-films // pieces) * pieces), films - 1)


def seeds(seed: int, t: int, films: int) -> list[int]:
    """Of clip t of each film."""
    return [(seed * 100_003 + t * films + b) % 2**32 for b in range(films)]


@dataclasses.dataclass
class World:
    """Films that run side by side. What lies on the devices has the batch of `places`; what comes and goes, the films alone.

    Raises:
      ValueError: the language model's context does not hold the window and the memory.
    """

    owl: Owl
    pieces: Pieces
    film: FilmConfig
    """the film model's run"""
    context: ContextConfig = ContextConfig()
    sampling: SamplingConfig | None = None
    """the film model's own by default"""
    temperature: float = 1.0
    """of the texts that it foresees: at 1 drawn as likely as it takes them to be, at 0 always the likeliest"""

    def __post_init__(self):
        self.slots = self._slots()

    def begin(self, images: UInt8[np.ndarray, "B H W 3"], texts: list[str], seed: int = 0) -> None:
        """The prefix [I, t]; `seed` is that of the texts that are drawn."""
        self.films, self.seed, self.clip, self.past, self.cache = len(images), seed, 0, Past(), None
        starts, words = [self.pieces.start(image) for image in images], [self.pieces.text(text) for text in texts]
        self.cache = _empty(self.owl.lmm.config.decoder, len(places(self.films)), self.slots, self.dtype)
        self._append(Kind.START, starts, len(starts[0]))
        self._append(Kind.TEXT, words, self.pieces.text_slots)

    def _slots(self) -> int:
        """Of the cache: prefix, memory and window."""
        clip = np.zeros((*self.film.video, 3), np.uint8)
        Q, words, most = self.pieces.config.queries, self.pieces.text_slots, self.owl.lmm.config.decoder.context
        triplet = Q + len(self.pieces.observation(clip)) + words
        slots = len(self.pieces.start(clip[0])) + words + self.context.states * Q + self.context.window * triplet
        if slots > most:
            raise ValueError(
                f"a window of {self.context.window} triplets of {triplet} tokens and {self.context.states} states of {Q} need {slots} tokens, "
                f"and the language model's context is {most}: lower --context.window or --context.memory"
            )
        return slots

    def untried(self, trained: int, clips: int) -> str:
        """A warning where a film of so many clips takes more slots than one of `trained` clips did, else empty."""
        longest_of = lambda clips: longest(self.pieces, np.zeros((*self.film.video, 3), np.uint8), clips, False)
        taken, known = min(self.slots, longest_of(clips)), longest_of(trained)
        if taken <= known:
            return ""
        return (
            f"warning: the film takes up to {taken} slots of context, and training knew {known}, {trained} clips: what the model makes of more is untried; lower "
            "--context.window or --context.memory"
        )

    @property
    def dtype(self) -> jnp.dtype:
        return self.film.dtype.jax

    def imagine(self) -> Float[Array, "B Q C"]:
        """s_t, from all that is in the cache; first forgets what no longer fits."""
        past, places = self.past.forget(self.context)
        if past != self.past:
            slots = self.cache.valid.shape[1]
            places = np.pad(places, (0, slots - len(places)))
            self.cache = _compact(self.owl.lmm.config.decoder, self.cache, places, np.int32(past.used))
            self.past = past
        state, self.cache = _imagine(self.owl, self.cache, np.int32(self.clip), self.dtype)
        self.past = self.past.add(Kind.STATE, self.clip, self.pieces.config.queries)
        return state

    def shoot(
        self, state: Float[Array, "B Q C"], first: UInt8[np.ndarray, "B H W 3"], joined: Bool[np.ndarray, "B"], seeds: list[int],
        scores: Float[np.ndarray, "B M"] | None = None,
    ) -> Clips:
        """o_t: a clip that goes on from `first` where it is joined, and is free where a scene begins."""
        nothing = self.owl.context(self.owl.nothing(len(state)).astype(state.dtype))
        return shoot(self, self.owl.film, self.owl.context(state), nothing, first, joined, seeds, scores)

    def observe(self, clips: Clips) -> None:
        """Shows the language model what was filmed."""
        seen = [self.pieces.observation(clip) for clip in clips]
        self._append(Kind.OBSERVATION, seen, len(seen[0]))

    def hear(self, texts: list[str]) -> None:
        """d_t as it is given."""
        self._append(Kind.DYNAMICS, [self.pieces.text(text) for text in texts], self.pieces.text_slots)

    def tell(self, temperature: float | None = None) -> list[str]:
        """d_t as the model foresees it."""
        temperature = self.temperature if temperature is None else temperature
        first, last = self.pieces.marks
        most, own = self.pieces.config.words, np.asarray(seeds(self.seed, self.clip, self.films), np.uint32)[places(self.films)]
        tokens, self.cache = _tell(self.owl, self.cache, own, first, last, most, temperature, self.dtype)
        self.past = self.past.add(Kind.DYNAMICS, self.clip, self.pieces.text_slots)
        rows = [row[: np.argmax(row == last) if (row == last).any() else most] for row in np.asarray(tokens)[: self.films]]
        return [self.pieces.tokenizer.decode(row) for row in rows]

    def foresee(self) -> list[str]:
        """The likeliest d_t; nothing is said."""
        cache, past = jax.tree.map(jnp.copy, self.cache), self.past
        said = self.tell(0.0)
        self.cache, self.past = cache, past
        return said

    def _append(self, kind: Kind, sequences: list[Sequence], slots: int) -> None:
        inputs = stack(self.pieces.lmm, [sequences[film] for film in places(self.films)], slots)
        self.cache = _append(self.owl, self.cache, inputs, self.dtype)
        self.past = self.past.add(kind, self.clip if kind not in (Kind.START, Kind.TEXT) else -1, slots)


@dataclasses.dataclass(frozen=True)
class Turn:
    """One clip of each film that runs."""

    clips: Clips
    said: list[str] | None
    """the texts that they follow, d_{t−1}; None without dynamics"""
    joined: Bool[np.ndarray, "B"]
    """which went on from the frame before"""


Dynamics = Callable[[World, int], list[str] | None]
"""what is said behind clip t"""


def foreseen(world: World, clip: int) -> list[str]:
    """The model's own dynamics."""
    return world.tell()


def silent(world: World, clip: int) -> None:
    """No dynamics: states alone."""


def told(texts: list[list[str]]) -> Dynamics:
    """Dynamics given by the user: `texts[b][t]` follows clip t of film b; where they end, or are empty, the model goes on by itself."""

    def dynamics(world: World, clip: int) -> list[str]:
        lines = [line[clip] if clip < len(line) else "" for line in texts]
        if all(lines):
            world.hear(lines)
            return lines
        return world.tell()

    return dynamics


def run(
    world: World, images: UInt8[np.ndarray, "B H W 3"], texts: list[str], *, clips: int, dynamics: Dynamics = foreseen,
    cut_every: int | None = None, seed: int = 0, observe: bool = True, scores: Float[np.ndarray, "B M"] | None = None,
    made_before: Callable[[int, list[str] | None], Clips | None] = lambda t, said: None,
) -> Iterator[Turn]:
    """(1) to (3), clip after clip. A clip begins a new scene, and drops the frame before, where the text in front of it begins with `CUT`.

    Args:
      cut_every: begins a new scene every so many clips too.
      observe: False leaves the film out of the language model's sequence, an ablation.
      made_before: (t, text in front) → the clips that an earlier run filmed.
    """
    world.begin(images, texts, seed)
    last = images
    for t in range(clips):
        said = dynamics(world, t - 1) if t else texts  # asked for as late as can be: whoever answers has seen the clip before
        world.clip = t
        state = world.imagine()
        follows = np.array([not begins_scene(line) for line in said or [""] * len(images)]) | (t == 0)
        follows &= not (cut_every and t and t % cut_every == 0)
        made = made_before(t, said)
        if made is None:
            made = world.shoot(state, last, follows, seeds(seed, t, len(images)), scores)
        if observe:
            world.observe(made)
        yield Turn(made, said, follows)
        last = made[:, -1]


def shoot(
    world: World, model: VideoDiT, context: Context, nothing: Context, first: UInt8[np.ndarray, "B H W 3"], joined: Bool[np.ndarray, "B"],
    seeds: list[int], scores: Float[np.ndarray, "B M"] | None = None,
) -> Clips:
    """A clip by a film model from any context; guidance moves away from `nothing`. Both have the batch of `places`."""
    sampling = world.sampling or world.film.sampling
    if scores is None:
        scores, sampling = np.full((len(first), len(world.film.model.scores)), np.nan, np.float32), sampling.unscored
    rows = places(len(first))
    args = model, context, nothing, first[rows], joined[rows], np.asarray(seeds, np.uint32)[rows], scores[rows]
    return np.asarray(_shoot(world.film, sampling, *args))[: len(first)]


@functools.partial(jit, static_argnames=("dtype",), donate_argnums=1)
def _append(owl: Owl, cache: Cache, inputs: Inputs, dtype: jnp.dtype) -> Cache:
    return owl.lmm.decoder.extend(owl.lmm.embed(inputs, dtype), inputs.valid, cache)[1]


@functools.partial(jit, static_argnames=("dtype",), donate_argnums=1)
def _imagine(owl: Owl, cache: Cache, clip: Int[Array, ""], dtype: jnp.dtype) -> tuple[Float[Array, "B Q C"], Cache]:
    B = cache.valid.shape[0]
    queries = owl.queries(jnp.broadcast_to(clip, (B,)), dtype)
    blocks = jnp.broadcast_to(jnp.arange(queries.shape[1]), (B, 1, queries.shape[1])) if owl.both_ways else None
    outputs, cache = owl.lmm.decoder.extend(queries, jnp.ones(queries.shape[:2], bool), cache, blocks)
    return owl.connector(outputs), cache


_empty = jax.jit(new_cache, static_argnums=(0, 1, 2, 3))  # jitted: one buffer an array, as donating wants it
_compact = jax.jit(compact, static_argnums=0, donate_argnums=1)


@functools.partial(jit, static_argnames=("first", "last", "most", "temperature", "dtype"), donate_argnums=1)
def _tell(
    owl: Owl, cache: Cache, seeds: Int[Array, "B"], first: int, last: int, most: int, temperature: float, dtype: jnp.dtype
) -> tuple[Int[Array, "B most"], Cache]:
    """The text behind the first mark, until it has ended in all films. Of its most + 2 slots those behind the last mark stay empty."""
    decoder, B, keys, slots = owl.lmm.decoder, cache.valid.shape[0], jax.vmap(jax.random.key)(seeds), most + 2

    def step(carry):
        i, token, done, tokens, cache = carry
        x, cache = decoder.extend(decoder.embed(token[:, None], dtype), ~done[:, None], cache)
        following = jnp.where(i >= most, last, chosen(owl.lmm.config, decoder.logits(x[:, 0]), temperature, keys, i))
        return i + 1, following, done | (token == last), tokens.at[:, i].set(following), cache

    carry = jnp.asarray(0), jnp.full((B,), first, jnp.int32), jnp.zeros((B,), bool), jnp.full((B, slots), last, jnp.int32), cache
    decoder = decoder.ready()
    *_, tokens, told = jax.lax.while_loop(lambda carry: (carry[0] < slots) & ~carry[2].all(), step, carry)
    return tokens[:, :most], told.replace(used=cache.used + slots)


@functools.partial(jit, static_argnums=(0, 1))
def _shoot(
    film: FilmConfig, sampling: SamplingConfig, model: VideoDiT, context: Context, nothing: Context, first: UInt8[Array, "B H W 3"],
    joined: Bool[Array, "B"], seeds: Int[Array, "B"], scores: Float[Array, "B M"],
) -> UInt8[Array, "B T H W 3"]:
    shape = (*film.video, film.model.channels)
    eps = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), shape))(seeds)
    return constrain(filmed(film, sampling, model, (context, nothing), first, joined, eps, scores), "n T H W C")
