"""Losses over the scores p and targets y of a batch.

    z(x)  = (x − mean) / std,   ρ = mean z(p)·z(y)
    plcc  = (MSE(z(p), z(y)) + MSE(ρ·z(p), z(y))) / 8                          FAST-VQA's trainer, which Koala-36M builds on
    rank  = Σ_ij relu((p_i − p_j)·sign(y_j − y_i)) / (n(n − 1)) / (1 + max)     likewise; labels of people: plcc + 0.3 rank
    pairs = mean over i, j of one group with y_i > y_j of softplus(p_j − p_i)   RankNet (Burges et al. 2005): known ranks within groups
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

RANK_WEIGHT = 0.3


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


def pairs(p: Float[Array, "B"], y: Float[Array, "B"], groups: Int[Array, "B"]) -> Float[Array, ""]:
    """log 2 for equal scores, towards zero where every group is in order by far."""
    better = (groups[:, None] == groups[None]) & (y[:, None] > y[None])
    return jnp.sum(jax.nn.softplus(p[None] - p[:, None]) * better) / jnp.maximum(better.sum(), 1)
