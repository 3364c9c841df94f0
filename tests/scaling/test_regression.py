"""Least squares: coefficients, and draws that are as wide as Student's law says."""
import numpy as np
import pytest
from scipy.stats import t as student

from scaling_jax.regression import regress


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
