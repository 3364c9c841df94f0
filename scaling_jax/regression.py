"""Least squares with draws of what else the coefficients may be."""
import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class Regression:
    """y = X·β + ε, ε normal of one unknown variance."""

    coefficients: Float[np.ndarray, "p"]
    draws: Float[np.ndarray, "d p"]
    """β̂ + s·t·(XᵀX)^−½, Student's t with n − p degrees of freedom: what β may be, given the data; NaN where n = p"""
    residuals: Float[np.ndarray, "n"]
    freedom: int


def regress(
    X: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n"], draws: int, seed: int = 0, variance: tuple[float, int] | None = None
) -> Regression:
    """Fits.

    Args:
      variance: of ε and its degrees of freedom, if known from elsewhere too.

    Raises:
      ValueError: the columns of X depend on each other, so the data do not tell the coefficients apart.
    """
    n, p = X.shape
    beta, root = _solve(X, y, np.linalg.norm(X, axis=0), p)
    residuals = y - X @ beta
    s2, freedom = variance or (residuals @ residuals / max(n - p, 1), n - p)
    return Regression(beta, beta + errors(draws, p, s2, freedom, seed) @ root.T, residuals, freedom)


def regress_grouped(X: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n"], which: Int[np.ndarray, "n"], draws: int) -> Regression:
    """Fits y = a_g + X·β + ε, with a constant for each of m groups of rows; the coefficients are (a, β).

    β follows from what is left of X and y without the groups' means, and a from the means, so that thousands of groups cost no more than their rows:
    with a column each, time goes with m².

    Args:
      which: the group of each row, 0 to m − 1.

    Raises:
      ValueError: as `regress`.
    """
    counts = np.bincount(which)
    (n, p), m = X.shape, len(counts)
    mean_X = np.stack([np.bincount(which, column) for column in X.T], 1) / counts[:, None]
    mean_y = np.bincount(which, y) / counts
    beta, root = _solve(X - mean_X[which], y - mean_y[which], np.linalg.norm(X, axis=0), m + p)
    a = mean_y - mean_X @ beta
    residuals, freedom = y - a[which] - X @ beta, n - m - p
    t = errors(draws, m + p, residuals @ residuals / max(freedom, 1), freedom, 0)
    off = t[:, m:] @ root.T
    others = np.concatenate([a + t[:, :m] / np.sqrt(counts) - off @ mean_X.T, beta + off], 1)
    return Regression(np.concatenate([a, beta]), others, residuals, freedom)


def _solve(X: Float[np.ndarray, "n p"], y: Float[np.ndarray, "n"], size: Float[np.ndarray, "p"], constants: int) -> tuple[np.ndarray, np.ndarray]:
    """β̂, and root with root·rootᵀ = (XᵀX)⁻¹; columns are measured by `size`, and `constants` are as many as the data shall determine."""
    if len(X) < constants:  # before the decomposition, which of thousands of rows takes long
        raise ValueError(f"{len(X)} points do not determine {constants} coefficients")
    u, s, vt = np.linalg.svd(X / np.where(size > 0, size, 1), full_matrices=False)
    if s[-1] < 1e-9 * s[0]:
        raise ValueError(f"{len(X)} points do not determine {constants} coefficients")
    root = (vt.T / s) / size[:, None]
    return root @ (u.T @ y), root


def errors(draws: int, p: int, s2: float, freedom: int, seed: int) -> Float[np.ndarray, "d p"]:
    """s·t, Student's t of that many degrees of freedom, one for each of p independent coefficients of variance s²; NaN without any."""
    if freedom < 1:
        return np.full((draws, p), np.nan)
    rng = np.random.default_rng(seed)
    return np.sqrt(s2) * (rng.standard_normal((draws, p)) / np.sqrt(rng.chisquare(freedom, (draws, 1)) / freedom))
