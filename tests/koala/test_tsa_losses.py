"""What the trainer of scorers makes small, and how it says how well scores agree."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from koala_jax.tsa.agreement import agreement, within_groups
from koala_jax.tsa.losses import pairs, plcc, rank

vectors = hnp.arrays(np.int32, 6, elements=st.integers(-300, 300), unique=True).map(lambda x: (x / 100).astype(np.float32))


@given(vectors, st.floats(0.1, 5), st.floats(-3, 3))
def test_a_rising_line_has_no_loss_and_a_falling_one_the_most(y, slope, offset):
    y = y + np.arange(len(y), dtype=np.float32)
    assert plcc(jnp.asarray(slope * y + offset), jnp.asarray(y)) < 1e-4
    assert plcc(jnp.asarray(-slope * y), jnp.asarray(y)) == pytest.approx(0.5, abs=1e-3)


@given(vectors, st.integers(0, 99))
def test_the_rank_loss_is_its_double_sum(y, seed):
    p = np.random.default_rng(seed).standard_normal(len(y)).astype(np.float32)

    def want(p):
        wrong = [[max((p[i] - p[j]) * np.sign(y[j] - y[i]), 0) for j in range(len(y))] for i in range(len(y))]
        return np.sum(wrong) / (len(y) * (len(y) - 1)) / (1 + np.max(wrong))

    assert rank(jnp.asarray(p), jnp.asarray(y)) == pytest.approx(want(p), rel=1e-4, abs=1e-6)
    slope = (want(p * 1.001) - want(p * 0.999)) / 0.002  # of the largest too, as it lies under the line
    assert p @ jax.grad(rank)(jnp.asarray(p), jnp.asarray(y)) == pytest.approx(slope, rel=1e-2, abs=1e-4)
    assert rank(jnp.asarray(np.sort(p)), jnp.asarray(np.sort(y))) == 0


def test_pairs_compare_within_a_group_alone():
    y, groups, kinds = jnp.array([0.0, -1, 0, -1]), jnp.array([0, 0, 1, 1]), jnp.zeros(4, int)
    assert pairs(jnp.zeros(4), y, groups, kinds) == pytest.approx(np.log(2))
    far = jnp.array([0.0, -9, 50, 41])
    assert pairs(far, y, groups, kinds) == pytest.approx(np.log1p(np.exp(-9)), rel=1e-3)
    assert pairs(far[::-1], y, groups, kinds) > 8


def test_kinds_count_alike_in_pairs_and_the_worst_ranked_most():
    y = np.tile([0.0, -1, -2], 4)
    groups, kinds, p = np.repeat(np.arange(4), 3), np.repeat([7, 7, 7, 2], 3), np.random.default_rng(0).standard_normal(12).astype(np.float32)
    terms = {
        kind: [np.log1p(np.exp(p[j] - p[i])) for i in range(12) for j in range(12) if groups[i] == groups[j] and y[i] > y[j] and kinds[i] == kind]
        for kind in (7, 2)
    }
    wanted = np.sqrt(np.mean([np.mean(values) ** 2 for values in terms.values()]))
    assert pairs(jnp.asarray(p), jnp.asarray(y), jnp.asarray(groups), jnp.asarray(kinds)) == pytest.approx(wanted, rel=1e-5)


def test_agreement_is_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 40))
    got = agreement(x, y)
    assert got["KRCC"] == pytest.approx(scipy.stats.kendalltau(x, y).statistic) and got["PLCC"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert got["RMSE"] == pytest.approx(np.std(y - np.polyval(np.polyfit(x, y, 1), x)))
    assert agreement(y * 2 + 1, y)["RMSE"] == pytest.approx(0, abs=1e-6)
    assert np.isnan(agreement(np.ones(3), np.arange(3.0))["SRCC"])


def test_a_constant_score_ranks_nothing_within_a_group():
    groups, targets = np.array([0, 0, 0, 1, 1, 1]), np.array([0.0, -1, -2, 0, -1, -2])
    assert within_groups(np.array([3.0, 2, 1, 5, 5, 5]), targets, groups) == pytest.approx(0.5)
