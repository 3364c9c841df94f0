"""The ranker of sub-metrics, and what the network takes over from it."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_jax import mesh
from core_jax.weights import named
from koala_jax.tsa import ranker
from koala_jax.tsa.agreement import within_groups
from koala_jax.tsa.config import TrainConfig
from koala_jax.tsa.first import LEARNT, cost, train_labels
from koala_jax.tsa.losses import pairs
from koala_jax.tsa.scorer import new
from koala_jax.tsa.train import optimizer
from tests.koala.test_tsa_train import NETWORK, tiny_samples


def clips(seed: int, kinds: int, noise: float = 0.3):
    """Groups of four levels, shuffled; each kind lowers a column of its own, from wherever a clip begins."""
    rng = np.random.default_rng(seed)
    groups, targets = np.repeat(np.arange(8), 4), -np.tile(np.arange(4.0), 8)
    numbers = np.repeat(np.arange(8) % kinds, 4)
    z = np.repeat(rng.standard_normal((8, 3)), 4, 0) + noise * rng.standard_normal((32, 3))
    z[np.arange(32), numbers % 3] += targets
    order = rng.permutation(32)
    return z[order], targets[order], groups[order], numbers[order]


@settings(max_examples=5)
@given(st.integers(0, 2**30), st.integers(1, 3))
def test_nothing_is_left_to_gain_where_the_fit_ends(seed, kinds):
    """By the slope of the loss as it is written for networks."""
    z, *known = clips(seed, kinds)
    phi = ranker.features(z).astype(np.float32)
    cost = lambda w: pairs(phi @ w, *map(jnp.asarray, known)) + ranker.PENALTY * w @ w  # noqa: E731
    w = ranker.fit(z, *known).astype(np.float32)
    assert cost(w) < cost(np.zeros_like(w)) and np.abs(jax.grad(cost)(w)).max() < 1e-3 < np.abs(jax.grad(cost)(0 * w)).max()


def test_it_ranks_clips_that_it_was_not_fitted_to():
    z, *known = clips(0, 3)
    other, targets, groups, _ = clips(1, 3)
    assert within_groups(ranker.features(other) @ ranker.fit(z, *known), targets, groups) > 0.9


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_features_bend_at_the_knees_and_hold_every_product(a, b):
    first, second, *rest = ranker.features(np.array([[a, b]]))[0]
    assert (first, second) == (a, b) and len(rest) == 2 * len(ranker.KNEES) + 3
    knees, products = np.reshape(rest[:-3], (-1, 2)), rest[-3:]
    np.testing.assert_allclose(knees[:, 0], [np.log1p(np.exp(2 * (a - t))) / 2 for t in ranker.KNEES])
    s, t = np.tanh([a / 2, b / 2])
    np.testing.assert_allclose(products, ranker.PRODUCTS * np.array([s * s, s * t, t * t]))


def test_what_parts_the_levels_of_one_degradation_costs_thirty_times_what_moves_them_all():
    """By the numbers that were tuned; a mean of zero within the group, then one of a group's own."""
    parts, moves = jnp.array([1.0, -1, 1, -1, 0] * 2), jnp.repeat(jnp.array([1.0, -1]), 5)
    assert cost(parts, jnp.zeros(10)) == pytest.approx(0.8 * 3.1) and cost(moves, jnp.zeros(10)) == pytest.approx(0.1)


def test_the_label_branch_learns_first_and_leaves_the_towers_and_what_they_add_at_zero():
    samples = tiny_samples(groups=12)
    labels = samples.columns[:, 1:] + 2 + np.repeat(np.arange(12, dtype=np.float32), 5)[:, None] / 6  # the target, but for the clip
    config = dataclasses.replace(NETWORK.network, labels=1, width=16, label_hidden=(16,), final_hidden=(16, 16))
    with jax.set_mesh(mesh.build(devices=jax.devices()[:1])):
        model = new(config)
        before = {name: np.asarray(x) for name, x in named(model).items()}
        trained = train_labels(model, samples, labels, 300, seed=0)
    after = {name: np.asarray(x) for name, x in named(trained).items()}
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and not any(name.startswith(("dynamic.", "static.")) for name in moved)
    pictures = jnp.asarray(samples.clips[:, 0], jnp.float32), jnp.asarray(samples.images, jnp.float32)
    given = jax.jit(lambda model, *inputs: model(*inputs))
    score = lambda model: np.asarray(given(model, *(x / 255 for x in pictures), jnp.asarray(labels)))  # noqa: E731
    assert within_groups(score(trained), samples.targets, samples.groups) > 0.95 > 0.5 > within_groups(score(model), samples.targets, samples.groups)
    dark = np.asarray(given(trained, *(0 * x for x in pictures), jnp.asarray(labels)))
    np.testing.assert_allclose(dark, score(trained), atol=1e-4)
    assert score(trained).min() > 0, "where the last GELU is straight; further down it turns the order round"
    with jax.set_mesh(mesh.build(devices=jax.devices()[:1])):
        nothing = train_labels(model, samples, 0 * labels, 300, seed=0)  # the same program
    assert all(np.isfinite(x).all() for x in named(nothing).values()), "labels that tell nothing"


@pytest.mark.parametrize("config, held", [(TrainConfig(clips="a"), True), (TrainConfig(clips="a", label_steps=0), False), (TrainConfig(labels="a"), False)])
def test_what_learned_first_stays_as_it_is(config, held):
    tx, model = optimizer(config), NETWORK.abstract()

    @jax.jit
    def second_update():  # the rate begins at 0
        ones = jax.tree.map(lambda x: jnp.ones(x.shape), model)
        _, state = tx.update(ones, tx.init(ones), ones)
        return tx.update(ones, state, ones)[0]

    moved = {name for name, x in named(second_update()).items() if np.any(x)}
    assert moved == {name for name in named(model) if not (held and name.startswith(LEARNT))}
