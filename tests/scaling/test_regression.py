"""Least squares: coefficients, and draws that are as wide as Student's law says."""
import numpy as np
import pytest
from scipy.stats import t as student

from scaling_jax import hyper_fit, table
from scaling_jax.regression import regress, regress_grouped


@pytest.mark.parametrize("known", [None, (0.04, 2)])
def test_draws_follow_students_law_of_the_degrees_of_freedom(known):
    """Of few runs, where normal ones would be too narrow: at three degrees of freedom by two fifths."""
    rng = np.random.default_rng(0)
    X, error = np.stack([np.ones(6), np.arange(6.0), np.arange(6.0) ** 2], 1), 0.1 * rng.standard_normal(6)
    found = regress(X, X @ [1, 2, 3] + error, 40_000, variance=known)
    assert found.coefficients == pytest.approx(np.linalg.lstsq(X, X @ [1, 2, 3] + error)[0])
    s2, freedom = known or (found.residuals @ found.residuals / 3, 3)
    one = (found.draws - found.coefficients) / np.sqrt(s2 * np.diag(np.linalg.inv(X.T @ X)))
    assert np.quantile(np.abs(one), 0.95, axis=0) == pytest.approx(student.ppf(0.975, freedom), rel=0.05) and found.freedom == freedom


def test_constants_of_groups_are_those_of_a_column_each_and_their_draws_vary_together_as_those():
    rng = np.random.default_rng(0)
    which = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    X, y = rng.standard_normal((10, 2)) + which[:, None], rng.standard_normal(10)
    found, dense = regress_grouped(X, y, which, 200_000), regress(np.concatenate([np.eye(3)[which], X], 1), y, 200_000)
    assert found.coefficients == pytest.approx(dense.coefficients) and found.residuals == pytest.approx(dense.residuals)
    assert found.freedom == dense.freedom == 5
    ranges = [np.quantile(one.draws @ np.array([np.eye(5)[0], np.eye(5)[3], [1, 0, 0, 1, 0], [1, -1, 0, 0, 2]]).T, [0.1, 0.9], axis=0) for one in (found, dense)]
    assert ranges[0] == pytest.approx(ranges[1], abs=0.03)


def test_what_varies_between_groups_alone_is_not_told_apart_from_their_constants():
    which = np.repeat([0, 1, 2], 4)
    with pytest.raises(ValueError, match="12 points do not determine 5 coefficients"):
        regress_grouped(np.stack([np.arange(12.0), 0.1 * which], 1), np.arange(12.0) ** 2, which, 0)


def test_too_few_points_are_told_before_their_matrix_is_taken_apart(monkeypatch):
    """3,000 runs of as many (N, T) took most of three minutes in decompositions whose result was not used."""
    monkeypatch.setattr(np.linalg, "svd", None)
    with pytest.raises(ValueError, match="3 points do not determine 4 coefficients"):
        regress(np.ones((3, 4)), np.ones(3), 0)


def test_no_matrix_has_a_column_for_each_cell(monkeypatch):
    """Of 2,500 cells of nine runs, five such decompositions would take hours."""
    widths, svd = [], np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda X, **how: widths.append(X.shape[1]) or svd(X, **how))
    N, T, x = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e6, 1e8, 5), np.geomspace(1e8, 1e9, 4), np.arange(9)))
    lr, batch = 2.0 ** (x // 3 - 1), 2.0 ** (x % 3 - 1)
    found = hyper_fit.fit(table.Table(N, T, np.exp(np.log(lr) ** 2 + np.log(batch) ** 2), N * T, batch, lr), 100, near=10)
    assert len(found.cells) == 20 and max(widths) == 9 and found.laws["lr"].k == pytest.approx(1)
