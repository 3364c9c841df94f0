"""A ranker of sub-metrics: the one score that orders the levels of all degradations best, found by convex optimisation.

    score = w·φ(z),   φ(z) = (z_i;  softplus(2(z_i − t))/2 for t = −1, 0, 1;  2 tanh(z_i/2) tanh(z_j/2) for i ≤ j)
    w = argmin √(mean over kinds k of L_k²) + 10⁻³|w|²,   L_k as in losses.py

z are the sub-metrics made even (scorer.py). The same for every seed, and on films that it was not fitted to it ranks better than a network that
is fitted to the same pairs (docs/score.md).
"""
import numpy as np
import scipy.optimize
from jaxtyping import Float, Int

KNEES = (-1.0, 0.0, 1.0)
PRODUCTS = 2.0
PENALTY = 1e-3


def features(z: Float[np.ndarray, "n M"]) -> Float[np.ndarray, "n F"]:
    """φ of each row."""
    i, j = np.triu_indices(z.shape[1])
    bounded = np.tanh(z / 2)
    return np.concatenate([z, *(np.logaddexp(0, 2 * (z - t)) / 2 for t in KNEES), PRODUCTS * bounded[:, i] * bounded[:, j]], 1)


def fit(
    z: Float[np.ndarray, "n M"], targets: Float[np.ndarray, "n"], groups: Int[np.ndarray, "n"], kinds: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "F"]:
    """w; every group has as many rows, of different targets."""
    best_first = np.lexsort((-targets, groups))
    phi, number = features(z.astype(np.float64))[best_first], len(np.unique(groups))
    kinds = kinds[best_first].reshape(number, -1)
    better = np.triu(np.ones((kinds.shape[1],) * 2), 1)  # of two rows of a group the first
    mine = kinds[:, 0] == np.unique(kinds)[:, None]
    share = mine / mine.sum(1, keepdims=True) / better.sum()

    def cost(w: Float[np.ndarray, "F"]) -> tuple[float, Float[np.ndarray, "F"]]:
        scores = (phi @ w).reshape(kinds.shape)
        gap = scores[:, :, None] - scores[:, None]
        losses = share @ (np.logaddexp(0, -gap) * better).sum((1, 2))
        whole = np.sqrt(np.mean(losses**2))
        slope = (losses / whole / len(losses)) @ share
        each = -slope[:, None, None] * better / (1 + np.exp(np.clip(gap, -50, 50)))
        return whole + PENALTY * w @ w, phi.T @ (each.sum(2) - each.sum(1)).ravel() + 2 * PENALTY * w

    return scipy.optimize.minimize(cost, np.zeros(phi.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 2000}).x
