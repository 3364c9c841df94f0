"""Losses over the scores p and targets y of a batch.

    z(x)  = (x − mean) / std,   ρ = mean z(p)·z(y)
    plcc  = (MSE(z(p), z(y)) + MSE(ρ·z(p), z(y))) / 8                          FAST-VQA's trainer, which Koala-36M builds on
    rank  = Σ_ij relu((p_i − p_j)·sign(y_j − y_i)) / (n(n − 1)) / (1 + max)
    pairs = √(mean over kinds k of L_k²)                                         so that kinds that are ranked worst weigh most
    L_k   = mean over i, j of one group of kind k with y_i > y_j of softplus(p_j − p_i)   RankNet (Burges et al. 2005)
"""
import enum

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

RANK_WEIGHT = 0.3


class Loss(enum.Enum):
    """What is made small."""

    PLCC_RANK = "plcc+rank"
    """plcc + 0.3 rank: labels of people"""
    REGRESSION = "regression"
    """mean squared error"""
    PAIRS = "pairs"
    """known ranks within groups"""

    def __call__(self, p: Float[Array, "B"], y: Float[Array, "B"], groups: Int[Array, "B"], kinds: Int[Array, "B"]) -> Float[Array, ""]:
        """The loss of a batch."""
        if self is Loss.PLCC_RANK:
            return plcc(p, y) + RANK_WEIGHT * rank(p, y)
        return jnp.mean((p - y) ** 2) if self is Loss.REGRESSION else pairs(p, y, groups, kinds)


def _z(x: Float[Array, "B"]) -> Float[Array, "B"]:
    x = x - x.mean()
    return x * jax.lax.rsqrt(jnp.mean(x * x) + 1e-8)


def plcc(p: Float[Array, "B"], y: Float[Array, "B"]) -> Float[Array, ""]:
    """Zero where p and y lie on a rising line."""
    zp, zy = _z(p), _z(y)
    rho = jnp.mean(zp * zy)
    return (jnp.mean((zp - zy) ** 2) + jnp.mean((rho * zp - zy) ** 2)) / 8


def rank(p: Float[Array, "B"], y: Float[Array, "B"]) -> Float[Array, ""]:
    """Zero where p and y rise together."""
    wrong = jax.nn.relu((p[:, None] - p[None]) * jnp.sign(y[None] - y[:, None]))
    return wrong.sum() / (p.size * (p.size - 1)) / (1 + wrong.max())


def pairs(p: Float[Array, "B"], y: Float[Array, "B"], groups: Int[Array, "B"], kinds: Int[Array, "B"]) -> Float[Array, ""]:
    """log 2 for equal scores, towards zero where every group is in order by far."""
    better = (groups[:, None] == groups[None]) & (y[:, None] > y[None])
    alike = kinds[:, None] == kinds[None]
    both = jnp.stack([(jax.nn.softplus(p[None] - p[:, None]) * better).sum(1), better.sum(1)], -1)
    mine = jnp.matmul(alike, both, precision="highest")  # of the kind of each
    means, share = mine[:, 0] / jnp.maximum(mine[:, 1], 1), (mine[:, 1] > 0) / alike.sum(1)  # a kind counts once, however many it has
    return jnp.sqrt(jnp.sum(means**2 * share) / jnp.maximum(share.sum(), 1) + 1e-12)  # at zero a root has no gradient
