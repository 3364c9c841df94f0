"""Metric conditions: places in [0, 1], unknown scores, and a start that changes nothing."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from tests.videodit import small
from videodit_jax.conditioning import QUANTILES, ScoreEmbedding, ScoreStatistics
from videodit_jax.model import VideoDiT

FINITE = st.floats(-1e6, 1e6)
NAN = float("nan")


@given(st.lists(FINITE | st.just(NAN), min_size=1, max_size=30), st.lists(FINITE, min_size=2, max_size=10))
def test_places_are_in_order_and_in_range(seen, asked):
    statistics = ScoreStatistics.of({"motion": np.array(seen)})
    asked = np.sort(asked)
    u = statistics.normalise("motion", asked)
    assert u.dtype == np.float32
    if np.isnan(seen).all():
        assert statistics.range("motion") is None and np.isnan(u).all()
        return
    assert ((0 <= u) & (u <= 1)).all() and (np.diff(u) >= 0).all()
    low, high = statistics.range("motion")
    assert (low, high) == (np.nanmin(seen), np.nanmax(seen))
    assert (u[asked < low] == 0).all() and (u[asked > high] == 1).all()


def test_places_are_the_empirical_distribution_even_of_heavy_tails():
    scores = np.exp(3 * np.random.default_rng(0).standard_normal(20_000))
    u = ScoreStatistics.of({"motion": scores}).normalise("motion", scores)
    np.testing.assert_allclose(np.quantile(u, np.linspace(0, 1, 11)), np.linspace(0, 1, 11), atol=2 / QUANTILES)


def test_unknown_stays_unknown_and_names_are_checked():
    statistics = ScoreStatistics.of({"motion": np.array([0.0, 4.0]), "clarity": np.array([NAN])})
    vector = statistics.vector({"motion": 1.0, "clarity": 0.5})
    np.testing.assert_array_equal(vector, np.array([0.25, NAN], np.float32))
    np.testing.assert_array_equal(statistics.vector({}), [NAN, NAN])
    with pytest.raises(ValueError, match="no score named 'vtss'.*motion, clarity"):
        statistics.vector({"vtss": 1.0})


def embedding(start_at_zero: bool) -> ScoreEmbedding:
    layer = ScoreEmbedding(3, 16, 8, rngs=nnx.Rngs(0))
    if not start_at_zero:
        layer.mlps.down.w[...] = jax.random.normal(jax.random.key(1), layer.mlps.down.w[...].shape)
    return layer


U = jnp.array([[0.0, 0.5, 1.0], [NAN, 0.5, NAN]])


def test_known_unknown_and_zero_are_three_different_things():
    apply = jax.jit(lambda layer, u: layer(u))
    assert not apply(embedding(start_at_zero=True), jnp.concatenate([U, U])[:3]).any()
    out = apply(embedding(start_at_zero=False), jnp.array([[0.0, 0.5, 1.0], [NAN, 0.5, 1.0], [0.01, 0.5, 1.0]]))
    assert jnp.isfinite(out).all()
    assert (jnp.abs(out[0] - out[1]) > 1e-4).any() and (jnp.abs(out[0] - out[2]) > 1e-4).any()


def test_gradients_with_unknown_scores_are_finite_and_reach_what_stands_for_them():
    layer = embedding(start_at_zero=False)
    grads, by_score = jax.jit(jax.grad(lambda layer, u: (layer(u) ** 2).sum(), argnums=(0, 1)))(layer, U)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves((grads, by_score)))
    reached = (grads.unknown[...] != 0).any(1)
    assert reached.tolist() == [True, False, True]
    assert (by_score != 0).tolist() == [[True, True, True], [False, True, False]]


def test_conditions_added_to_a_trained_model_change_nothing_at_first():
    model = jax.jit(lambda: VideoDiT(small.MODEL, rngs=nnx.Rngs(0)))()
    fresh = model.scores
    model = jax.tree.map(lambda x: x + 0.05 * np.random.default_rng(x.size).standard_normal(x.shape, np.float32), model)
    model.scores = fresh
    batch = {
        "x": jax.random.normal(jax.random.key(1), (2, 4, 12, 12, 3)),
        "t": jnp.array([0.2, 0.7]),
        "tokens": {"bytes": jnp.full((2, 8, 12), 97), "length": jnp.array([3, 0])},
    }
    predict = jax.jit(lambda model, scores: model(**batch, scores=scores))
    without = predict(model, jnp.full((2, 3), NAN))
    assert jnp.abs(without).max() > 0.01
    np.testing.assert_array_equal(predict(model, jnp.full((2, 3), 0.3)), without)
    model.scores = jax.tree.map(lambda x: x + 0.1, fresh)
    assert jnp.abs(predict(model, jnp.full((2, 3), 0.3)) - without).max() > 1e-4


def test_statistics_are_kept_with_any_number_of_scores():
    config = dataclasses.replace(small.MODEL, scores=("motion", "vtss"))
    statistics = ScoreStatistics.of({name: np.arange(5.0) for name in config.scores})
    assert list(statistics.quantiles) == ["motion", "vtss"] and len(statistics.quantiles["vtss"]) == QUANTILES
