"""The sequence, token by token, against examples written by hand; what is learned; the losses of the three stages."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from core_jax.lmm import packing
from core_jax.lmm.sequence import Sequence, concatenate, lay_out
from owl_jax.config import Alignment
from owl_jax.objective import align, film, loss_fn, tell
from owl_jax.sequence import Kind, Unrolled, collate, longest, unroll
from owl_jax.stages import Stage, stories
from owl_jax.state import alignment
from tests.owl import small
from videodit_jax import flow

IMAGE, VIDEO = 1, 2
"""the small model's placeholders: 16 patches and a newline; for each of 2 key frames 2×2, and a newline"""


def hand(pieces, *parts) -> tuple[list[int], list[Kind]]:
    """Tokens and kinds of parts written as (kind, tokens)."""
    return [token for _, tokens in parts for token in tokens], [kind for kind, tokens in parts for _ in tokens]


def test_the_worlds_sequence_is_the_papers_token_by_token(owl):
    """(9): [I, t, s_0, o_0, d_0, s_1, o_1, d_1], where o_1 and d_1 are left out if nothing comes of them."""
    _, pieces = owl
    clips, (first, last) = small.films(1, 2)[0], pieces.marks
    words = lambda text: [first, *pieces.tokenizer.plain(text)[:6], last]
    before = (Kind.START, [IMAGE] * 17), (Kind.TEXT, words("it rests")), (Kind.STATE, [0] * 3), (Kind.OBSERVATION, [VIDEO] * 9)
    whole = unroll(pieces, clips[0, 0], "it rests", clips, ["the room is empty", "it comes back"], Kind.DYNAMICS)
    tokens, kinds = hand(
        pieces, *before, (Kind.DYNAMICS, words("the room is empty")), (Kind.STATE, [0] * 3), (Kind.OBSERVATION, [VIDEO] * 9),
        (Kind.DYNAMICS, words("it comes back")),
    )  # fmt: skip
    assert whole.sequence.tokens.tolist() == tokens and whole.kinds.tolist() == kinds
    assert [tokens[i] for i in whole.learned] == words("the room is empty")[1:] + words("it comes back")[1:]
    short = unroll(pieces, clips[0, 0], "it rests", clips, ["the room is empty", None], Kind.DYNAMICS)
    tokens, kinds = hand(pieces, *before, (Kind.DYNAMICS, words("the room is empty")), (Kind.STATE, [0] * 3))
    assert short.sequence.tokens.tolist() == tokens and short.kinds.tolist() == kinds


def test_a_mark_within_a_text_is_learned_as_any_other_token(owl):
    _, pieces = owl
    clips, (first, last) = small.films(1, 2)[0], pieces.marks
    whole = unroll(pieces, clips[0, 0], "it rests", clips, ["it < rests", None], Kind.DYNAMICS)
    text = pieces.tokenizer.plain("it < rests")
    assert first in text and whole.sequence.tokens[whole.learned].tolist() == [*text, last]


def test_the_alignments_sequence_repeats_its_caption_and_learns_none_of_it(owl):
    """(6): [I, t, s_0, o_0, t, s_1]."""
    _, pieces = owl
    clips, caption = small.films(1, 2)[0], "it rests"
    whole = unroll(pieces, clips[0, 0], caption, clips, [caption] * 2, Kind.TEXT)
    text = len(pieces.text(caption))
    order = [(Kind.START, 17), (Kind.TEXT, text), (Kind.STATE, 3), (Kind.OBSERVATION, 9), (Kind.TEXT, text), (Kind.STATE, 3)]
    assert whole.kinds.tolist() == [kind for kind, n in order for _ in range(n)]
    assert whole.learned.size == 0 and whole.states.size == 6


def test_each_observation_shows_its_own_clips_key_frames(owl):
    model, pieces = owl
    clips = small.films(1, 3)[0]
    whole = unroll(pieces, clips[0, 0], "a", clips, ["it", "it", None], Kind.DYNAMICS)
    inputs, _, _ = collate(pieces, [whole], longest(pieces, clips[0], 3, False))
    x = model.lmm.embed(inputs)[0]
    for clip, start in zip(clips[:2], np.flatnonzero(np.diff((whole.kinds == Kind.OBSERVATION).astype(int)) == 1) + 1):
        alone = pieces.observation(clip)
        np.testing.assert_array_equal(alone.tiles, pieces.observation(clip[[0, 1, 1, 3]]).tiles)  # frames 1 and 3 of 4
        want = model.lmm.embed(collate(pieces, [Unrolled(alone, np.full(9, 3))], 16)[0])[0, :9]
        np.testing.assert_allclose(x[start : start + 9], want, atol=1e-5)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_joining_sequences_is_laying_them_out_at_once(kinds):
    _, pieces = small.owl()
    clip = small.films(1, 1)[0, 0]
    parts = {0: Sequence(np.array([5, 6], np.int32)), 1: pieces.start(clip[0]), 2: pieces.observation(clip)}
    joined = concatenate([parts[kind] for kind in kinds], pieces.lmm)
    ids = [token for kind in kinds for token in ([5, 6], [IMAGE], [VIDEO])[kind]]
    visuals = [packing.one_of_images(clip[0], pieces.lmm.tower) if kind == 1 else packing.video(clip[[1, 3]], pieces.lmm.tower) for kind in kinds if kind]
    whole = lay_out(pieces.lmm, ids, visuals)
    for name in ("tokens", "tiles", "sources", "weights"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


@given(st.integers(1, 7), st.sampled_from([2, 5, 9]), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_alignment_is_zero_at_the_text_and_counts_its_words_alone(words, queries, seed):
    rng = np.random.default_rng(seed)
    text = rng.standard_normal((1, 8, 4)).astype(np.float32)
    places = np.linspace(0, words - 1, queries)
    same = np.stack([[np.interp(places, np.arange(words), text[0, :words, c]) for c in range(4)]]).swapaxes(1, 2).astype(np.float32)
    lengths = np.array([words])
    other = text.copy()
    other[:, words:] += 9
    for how in Alignment:
        state = same if how is Alignment.RESAMPLED else np.broadcast_to(text[:, :words].mean(1, keepdims=True), (1, queries, 4))
        assert float(alignment(how, jnp.asarray(state), jnp.asarray(other), lengths)[0]) < 1e-9
        assert float(alignment(how, jnp.asarray(state + 1), jnp.asarray(text), lengths)[0]) == pytest.approx(1, rel=1e-4)


def test_what_each_loss_reaches(owl):
    """(7) leaves the film model alone and (8) reaches all; next-token prediction reaches the language model and no state's query."""
    model, pieces = owl
    config = dataclasses.replace(stories(Stage.WORLD), filmed=2, state_dropout=0.0, image_dropout=0.0, owl=small.OWL)
    told = small.batch(pieces, small.films(2, 3), Stage.WORLD)

    def losses(model):
        out = model.read(told.inputs, told.states, jnp.float32)
        states = model.states(out, told.states)
        parts = align(config, model, told, states), film(config, small.FILM, model, told, states, jax.random.key(0)), tell(model, told, out)[0]
        return jnp.stack(parts)

    found = jax.device_get(jax.jit(jax.jacrev(losses))(model))  # a row a loss
    reached = lambda part: np.any([[x.any() for x in row] for row in zip(*jax.tree.leaves(part))], axis=1).tolist()
    assert {name: reached(getattr(found, name)) for name in ("lmm", "queries", "connector", "film")} == {
        "lmm": [True, True, True], "queries": [True, True, True], "connector": [True, True, False], "film": [False, True, False],
    }  # fmt: skip


def test_next_token_prediction_counts_the_learned_tokens_alone(owl):
    model, pieces = owl
    told = small.batch(pieces, small.films(2, 2), Stage.WORLD)
    outputs, _ = small.read(model, told.inputs, told.states)
    logits, tokens = model.lmm.decoder.logits(outputs), np.asarray(told.inputs.tokens)
    chances = jax.nn.log_softmax(logits, -1)
    places = [(b, i) for b in range(2) for i in np.asarray(told.learned)[b] if i]
    want = -np.mean([chances[b, i - 1, tokens[b, i]] for b, i in places])
    loss, right = tell(model, told, outputs)
    assert float(loss) == pytest.approx(float(want), rel=1e-5)
    assert float(right) == pytest.approx(np.mean([int(logits[b, i - 1].argmax()) == tokens[b, i] for b, i in places]))


def test_the_film_models_loss_counts_what_is_not_given(owl, monkeypatch):
    model, pieces = owl
    config, seen, losses = dataclasses.replace(stories(Stage.FILM), image_dropout=0.0, filmed=2, owl=small.OWL), [], flow.losses
    monkeypatch.setattr("videodit_jax.given.counts", lambda of, first: first[..., :1] == 0)  # as of frames in place
    monkeypatch.setattr(flow, "losses", lambda *args: seen.append(args[4]) or losses(*args))
    batch = small.batch(pieces, small.films(1, 2), Stage.FILM)
    counted = jax.jit(lambda model: loss_fn(config, small.FILM)(model, batch, jax.random.key(0)) and seen[0])(model)
    tokens = np.asarray(counted).reshape(2, 2, -1)  # of two frames each, the first of which has the one that is given
    assert not tokens[:, 0].any() and tokens[:, 1].all()


def test_what_fills_a_batch_counts_for_nothing(owl):
    """Whatever the filling films are; and where all count, weights change nothing."""
    model, pieces = owl
    config = dataclasses.replace(stories(Stage.WORLD), filmed=2, owl=small.OWL)
    loss = functools.partial(jax.jit(loss_fn(config, small.FILM)), model, key=jax.random.key(0))
    one, other = (small.batch(pieces, np.concatenate([small.films(1, 3), small.films(1, 3, seed)]), Stage.WORLD) for seed in (1, 2))
    half, whole = jnp.array([1.0, 0.0]), jnp.ones(2)
    (a, parts), (b, same) = (loss(x.replace(weight=half)) for x in (one, other))
    np.testing.assert_allclose([a, *parts.values()], [b, *same.values()], rtol=1e-6)
    np.testing.assert_allclose(loss(one)[0], loss(one.replace(weight=whole))[0], rtol=1e-6)
    assert float(jnp.abs(loss(one)[0] - a)) > 1e-4


def test_a_clip_learns_from_its_own_state_alone(owl):
    """Changing a later clip's text changes neither an earlier state nor its loss."""
    model, pieces = owl
    clips = small.films(1, 3)
    one = small.batch(pieces, clips, Stage.WORLD)
    changed = clips.copy()
    changed[:, 1] = 255 - changed[:, 1]
    other = small.batch(pieces, changed, Stage.WORLD)
    a, b = (small.read(model, x.inputs, x.states)[1] for x in (one, other))
    np.testing.assert_allclose(a[:, :2], b[:, :2], atol=1e-6)
    assert float(jnp.abs(a[:, 2] - b[:, 2]).max()) > 1e-3
