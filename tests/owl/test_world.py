"""The loop: its cache against a full recomputation, before and after it fills, and what runs in it."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.attention import attention
from core_jax.layers import rotate
from core_jax.lmm.decoder import rotary, see_later
from owl_jax import world as worlds
from owl_jax.config import Caption, ContextConfig, Forget, Queries, StateAttention
from owl_jax.films import CUT, tell
from owl_jax.sequence import Kind, Pieces, collate, longest, unroll
from owl_jax.world import World
from tests.owl import small
from videodit_jax.data.stories import Stories


OTHER = dataclasses.replace(small.OWL, attention=StateAttention.BIDIRECTIONAL, sharing=Queries.NUMBERED, numbers=5)


def lines(world: World, said: list[list[str]], films: int, clips: int, images) -> tuple[list, list, list]:
    """(states, clips, texts) of a run whose texts are given, or foreseen where `said` is None."""
    states, imagine = [], world.imagine
    world.imagine = lambda: states.append(imagine()) or states[-1]
    dynamics = worlds.foreseen if said is None else worlds.told(said)
    turns = list(worlds.run(world, images, ["a red circle moves left"] * films, clips=clips, dynamics=dynamics))
    return states, [turn.clips for turn in turns], [turn.said for turn in turns[1:]]


@pytest.mark.parametrize("config", [small.OWL, OTHER], ids=["default", "other choices"])
def test_every_state_of_the_loop_equals_a_recomputation_of_the_whole_sequence(config):
    model, pieces = small.owl(config)
    images = small.films(2, 1)[:, 0, 0]
    texts = [[small.WORDS[(t * (b + 1) + b) % 4] for t in range(11)] for b in range(2)]  # of several lengths, side by side
    states, clips, said = lines(World(model, pieces, small.FILM), texts, 2, 12, images)
    films = np.stack(clips, 1)
    length = longest(pieces, films[0, 0], 12, False) + 16
    for n in range(1, 13):
        told = [[*(turn[b] for turn in said[: n - 1]), None] for b in range(2)]
        whole = [unroll(pieces, images[b], "a red circle moves left", films[b, :n], told[b], Kind.DYNAMICS) for b in range(2)]
        inputs, places, _ = collate(pieces, whole, length)
        unused = np.broadcast_to(np.arange(length - 3, length, dtype=np.int32), (2, 12 - n, 3))  # behind everything, where none sees it
        places = np.concatenate([places, unused], 1)
        want = small.read(model, inputs, places)[1][:, n - 1]
        np.testing.assert_allclose(states[n - 1], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("caption", Caption)
def test_the_loop_cuts_where_the_data_does(owl, caption):
    """Whichever clip the texts tell of."""
    model, pieces = owl
    story = Stories(*small.FILM.video, clips=6)[0]
    film = tell(story, [clip.dense for clip in story.clips], caption)
    made = lambda t, said: film.clips[t][None]
    turns = worlds.run(World(model, pieces, small.FILM), film.image[None], [film.text], clips=6, dynamics=worlds.told([film.said]), made_before=made)
    assert [bool(turn.joined[0]) for turn in turns] == film.joined.tolist() and not film.joined.all()
    dense = [clip.dense for clip in story.clips]
    assert [line and line.removeprefix(CUT) for line in film.said] == (dense if caption is Caption.THIS else [*dense[1:], None])
    assert film.text == (story.title if caption is Caption.THIS else dense[0])


@pytest.mark.parametrize("ends", [False, True])
def test_what_the_loop_foresees_is_the_likeliest_text_and_the_next_state_reads_it(owl, ends):
    """Token by token, by recomputation; a text that runs to its longest, and one that the mark ends."""
    model, pieces = owl
    images = small.films(1, 1)[:, 0, 0]
    whole = lambda clip: unroll(pieces, images[0], "a red circle moves left", [clip], [""], Kind.DYNAMICS)

    def foreseen(pieces) -> tuple[list[int], int, np.ndarray, list, list]:
        states, clips, said = lines(World(model, pieces, small.FILM, temperature=0.0), None, 1, 2, images)
        before = whole(clips[0][0])
        inputs, places, _ = collate(pieces, [before], longest(pieces, clips[0][0], 2, True))
        at, row, out = len(before.kinds) - 2, np.array(inputs.tokens), []  # the first mark
        while len(out) < pieces.config.words and pieces.marks[1] not in out:
            logits = model.lmm.decoder.logits(small.read(model, inputs.replace(tokens=row), places)[0][0, at + len(out)])
            out.append(int(logits.argmax()))
            row[0, at + len(out)] = out[-1]
        out = out if out[-1] == pieces.marks[1] else [*out, pieces.marks[1]]
        row[0, at + len(out)] = out[-1]
        second = np.arange(at + len(out) + 1, at + len(out) + 1 + pieces.config.queries)
        inputs = inputs.replace(tokens=row, valid=inputs.valid | True)
        return out, said, inputs, np.stack([places[:, 0], second[None]], 1), states

    if ends:  # a mark that the model does say
        first, third = pieces.marks[0], foreseen(pieces)[0][2]

        class Marked(Pieces):
            marks = (first, third)

        pieces = Marked(pieces.lmm, pieces.tokenizer, pieces.config)
    out, said, inputs, places, states = foreseen(pieces)
    assert (len(out) < pieces.config.words) == ends
    assert pieces.tokenizer.decode(out[:-1]) == said[0][0]
    want = small.read(model, inputs, places)[1][:, 1]
    np.testing.assert_allclose(states[1], want, atol=1e-5, rtol=1e-5)


def test_films_whose_texts_end_apart_are_told_as_each_alone(owl):
    """And take the same slots; the next state reads what its own film has said."""
    model, pieces = owl
    images, texts = small.films(2, 1)[:, 0, 0], ["it rests", "a red circle moves left"]

    def begun(pieces: Pieces, films: list[int]) -> World:
        world = World(model, pieces, small.FILM, temperature=0.0)
        world.begin(images[films], [texts[b] for b in films])
        return world

    endless = np.asarray(worlds._tell(model, begun(pieces, [0, 1]).cache, np.zeros(2, np.uint32), *pieces.marks, pieces.config.words, 0.0, jnp.float32)[0])
    first, ends = pieces.marks[0], next(int(token) for token in endless[0] if token not in endless[1])

    class Marked(Pieces):
        marks = (first, ends)

    pieces = Marked(pieces.lmm, pieces.tokenizer, pieces.config)
    both, one, other = (begun(pieces, films) for films in ([0, 1], [0], [1]))
    assert both.tell() == [*one.tell(), *other.tell()]
    assert int(both.cache.used) == int(one.cache.used) == both.past.used
    assert int(one.cache.lengths[0]) < int(other.cache.lengths[0]), "one ends before the other"
    np.testing.assert_allclose(both.imagine(), np.concatenate([one.imagine(), other.imagine()]), atol=1e-5, rtol=1e-5)


def test_what_the_loop_foresees_is_drawn_by_the_seed(owl):
    """Each film by itself, clip by clip; what it is judged by is the likeliest text, whatever the seed."""
    world, images = World(*owl, small.FILM), np.repeat(small.films(1, 1)[:, 0, 0], 2, 0)

    def told(seed: int, clip: int) -> list[str]:
        world.begin(images, ["it rests"] * 2, seed)
        world.clip = clip
        return [*world.foresee(), *world.tell()]

    likeliest, again, one, other = told(0, 0)
    assert likeliest == again != one != other
    assert told(0, 0) == [likeliest, again, one, other]
    assert told(1, 0)[:2] == told(0, 1)[:2] == [likeliest, again] and len({one, other, *told(1, 0)[2:], *told(0, 1)[2:]}) == 6


def test_queries_that_see_both_ways_are_dense_attention_with_its_mask():
    """Against a dense mask: causal, and all of a block for those in it; gradients too."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 9, heads, 4)), jnp.float32) for heads in (4, 2, 2))
    blocks = jnp.asarray([[[1, 2, 3], [5, 6, 7]], [[0, 1, 2], [6, 7, 8]]])
    mask = np.broadcast_to(np.tri(9, dtype=bool), (2, 9, 9)).copy()
    for b in range(2):
        for block in np.asarray(blocks)[b]:
            mask[b][np.ix_(block, block)] = True

    def dense(q, k, v):
        k, v = (jnp.repeat(x, 2, axis=2) for x in (k, v))
        scores = jnp.where(mask[:, None], jnp.einsum("bqkd,bskd->bkqs", q, k) / 2, -jnp.inf)
        return jnp.einsum("bkqs,bskd->bqkd", jax.nn.softmax(scores, -1), v)

    def ours(q, k, v):
        return see_later(*attention(q, k, v, causal=True, return_lse=True), q, k, v, blocks)

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradients(f, *inputs):
        out, pull = jax.vjp(f, *inputs)
        return out, pull(jnp.broadcast_to(jnp.cos(jnp.arange(9 * 4 * 4).reshape(1, 9, 4, 4)), out.shape))

    (out, grads), (wanted, wanted_grads) = (values_and_gradients(f, q, k, v) for f in (ours, dense))
    np.testing.assert_allclose(out, wanted, atol=1e-6)
    for a, b in zip(grads, wanted_grads):
        np.testing.assert_allclose(a, b, atol=1e-5)


class Recomputed:
    """The option's definition, token by token without a cache: each token sees those that were there when it came, its keys turned
    by their distance as it then was."""

    def __init__(self, model, config: ContextConfig):
        self.decoder, self.config = model.lmm.decoder, config
        self.x, self.kind, self.clip, self.seen = [], [], [], []
        self.there: list[int] = []

    def forget(self) -> None:
        clips = sorted({self.clip[i] for i in self.there if self.clip[i] >= 0})
        older = clips[: max(len(clips) - self.config.window + 1, 0)]
        kept = older[len(older) - self.config.memory :] if self.config.memory and self.config.forget is Forget.COMPRESS else []
        self.there = [i for i in self.there if self.clip[i] not in older or (self.clip[i] in kept and self.kind[i] is Kind.STATE)]

    def add(self, x, kind: Kind, clip: int) -> None:
        for row in np.asarray(x):
            self.there.append(len(self.x))
            self.x.append(row), self.kind.append(kind), self.clip.append(clip)
            self.seen.append(list(self.there))

    def outputs(self) -> np.ndarray:
        """Of every token that ever came."""
        x, c = jnp.asarray(np.stack(self.x))[None], self.decoder.config
        S = x.shape[1]
        place, mask = np.zeros((S, S), np.int32), np.zeros((S, S), bool)
        for i, seen in enumerate(self.seen):
            place[i, seen], mask[i, seen] = np.arange(len(seen)), True
        turn = lambda k, positions: rotate(k, *rotary(c, jnp.asarray(positions)[None]))

        def row(q, own, place, mask, k, v):
            q, k = turn(q[None, None], own[None]), turn(k, place)
            k, v = (jnp.repeat(z, c.heads // c.kv_heads, axis=2) for z in (k, v))
            score = jnp.where(mask[None, None], jnp.einsum("bqkd,bskd->bks", q, k) / np.sqrt(c.head_dim), -jnp.inf)
            return jnp.einsum("bks,bskd->bkd", jax.nn.softmax(score, -1), v)[0]

        @jax.jit
        def read(decoder, x):
            for layer in decoder.ready().layers:
                y = layer.attention_norm(x)
                q, k, v = layer.attention.q(y), layer.attention.k(y), layer.attention.v(y)
                rows = jax.vmap(row, (0, 0, 0, 0, None, None))(q[0], place.diagonal(), place, mask, k, v)
                x = x + layer.attention.out(rows[None])
                x = x + layer.mlp(layer.mlp_norm(x))
            return decoder.norm(x)[0]

        return np.asarray(read(self.decoder, x))


@pytest.mark.parametrize("config", [ContextConfig(2, 2), ContextConfig(1, 1, Forget.DROP)])
def test_after_the_context_is_full_the_loop_is_its_options_definition(owl, config):
    model, pieces = owl
    images = small.films(1, 1, seed=3)[:, 0, 0]
    said = [[small.WORDS[t % 4] for t in range(6)]]
    states, clips, _ = lines(World(model, pieces, small.FILM, config), said, 1, 6, images)
    twin, embed = Recomputed(model, config), lambda sequence: model.lmm.embed(worlds.stack(pieces.lmm, [sequence], len(sequence)))[0]
    twin.add(embed(pieces.start(images[0])), Kind.START, -1)
    twin.add(embed(pieces.text("a red circle moves left")), Kind.TEXT, -1)
    ends = []
    for t in range(6):
        twin.forget()
        twin.add(model.queries(jnp.asarray(t), jnp.float32), Kind.STATE, t)
        ends.append(len(twin.x))
        twin.add(embed(pieces.observation(clips[t][0])), Kind.OBSERVATION, t)
        twin.add(embed(pieces.text(said[0][t])), Kind.DYNAMICS, t)
    out = twin.outputs()
    for t, end in enumerate(ends):
        want = model.connector(jnp.asarray(out[end - pieces.config.queries : end])[None])
        np.testing.assert_allclose(states[t], want, atol=1e-5, rtol=1e-5)


def test_a_film_of_more_slots_than_training_knew_is_warned_of(owl):
    model, pieces = owl
    long = World(model, pieces, small.FILM, ContextConfig(window=4, memory=2))
    assert not long.untried(6, 6) and not long.untried(6, 3), "as long as those of training"
    assert f"takes up to {long.slots} slots of context, and training knew" in long.untried(2, 100)
    assert not World(model, pieces, small.FILM, ContextConfig(window=2, memory=1)).untried(6, 100), "positions close up"
