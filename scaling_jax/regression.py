"""Least squares with draws of what else the coefficients may be."""
import dataclasses

import numpy as np
from jaxtyping import Float


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
    if n < p:  # before the decomposition, which of thousands of rows takes long
        raise ValueError(f"{n} points do not determine {p} coefficients")
    size = np.linalg.norm(X, axis=0)
    u, s, vt = np.linalg.svd(X / np.where(size > 0, size, 1), full_matrices=False)
    if s[-1] < 1e-9 * s[0]:
        raise ValueError(f"{n} points do not determine {p} coefficients")
    root = (vt.T / s) / size[:, None]  # root·rootᵀ = (XᵀX)⁻¹
    beta = root @ (u.T @ y)
    residuals = y - X @ beta
    s2, freedom = variance or (residuals @ residuals / max(n - p, 1), n - p)
    rng = np.random.default_rng(seed)
    if freedom < 1:
        return Regression(beta, np.full((draws, p), np.nan), residuals, 0)
    t = rng.standard_normal((draws, p)) / np.sqrt(rng.chisquare(freedom, (draws, 1)) / freedom)
    return Regression(beta, beta + np.sqrt(s2) * t @ root.T, residuals, freedom)
