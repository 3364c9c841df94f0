"""Koala-36M's metric conditions: scores of the training clips (motion, aesthetic, clarity, …) that later steer sampling.

  c = e(t) + Σ_m MLP_m(φ(u_m))                                    (Koala-36M, arXiv 2410.08260, section 4.4)

φ is a frequency embedding and c enters every block by adaLN, so a condition costs nothing per block. u_m ∈ [0, 1] is the score's
place among the training clips (its empirical distribution function, stored with the run): heavy-tailed scores such as motion need
no unit of their own. An unknown score (NaN) has a learned φ. The last layer of each MLP starts at zero: conditions added to a
pretrained model change nothing until they are trained. The paper leaves φ, u and the widths open; these are our choices.
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from core_jax.layers import Linear, frequency_embedding
from core_jax.rngs import Rngs

QUANTILES = 65
SCORES = ("motion", "aesthetic", "clarity", "vtss")
"""of a table of clips or a dataset; a model may be steered by further columns of numbers, which it names"""


def with_further(names: tuple[str, ...]) -> tuple[str, ...]:
    """SCORES and those of these names that are none of them."""
    return tuple(dict.fromkeys((*SCORES, *names)))


@dataclasses.dataclass(frozen=True)
class ScoreStatistics:
    """What the training clips' scores were: per name, `QUANTILES` quantiles from smallest to largest; kept in config.json."""

    quantiles: dict[str, tuple[float, ...]]

    @classmethod
    def of(cls, scores: dict[str, np.ndarray]) -> "ScoreStatistics":
        """From the known scores of the training clips; a name with none known keeps an empty tuple and is always unknown."""
        q = np.linspace(0, 1, QUANTILES)
        known = {name: np.asarray(values, float)[np.isfinite(values)] for name, values in scores.items()}
        return cls({name: tuple(float(x) for x in np.quantile(v, q)) if v.size else () for name, v in known.items()})

    def normalise(self, name: str, value: np.ndarray | float) -> np.ndarray:
        """u ∈ [0, 1] of this score, float32; NaN stays NaN; beyond the range it is 0 or 1."""
        quantiles = self.quantiles[name]
        if not quantiles:
            return np.full(np.shape(value), np.nan, np.float32)
        value = np.asarray(value, float)
        u = np.interp(np.nan_to_num(value), quantiles, np.linspace(0, 1, QUANTILES))
        return np.where(np.isnan(value), np.nan, u).astype(np.float32)

    def vector(self, scores: dict[str, float]) -> np.ndarray:
        """u of every score in the stored order, (M,); one that is not given is unknown.

        Raises:
          ValueError: a name that this run was not trained with.
        """
        for name in scores:
            if name not in self.quantiles:
                raise ValueError(f"no score named {name!r} in this run; it knows {', '.join(self.quantiles)}")
        return np.stack([self.normalise(name, scores.get(name, np.nan)) for name in self.quantiles])

    def range(self, name: str) -> tuple[float, float] | None:
        """Smallest and largest score seen in training; None where none was known."""
        quantiles = self.quantiles[name]
        return (quantiles[0], quantiles[-1]) if quantiles else None

    @property
    def unknown(self) -> list[str]:
        """The scores of which no value was known."""
        return [name for name in self.quantiles if not self.quantiles[name]]


class ScoreEmbedding(nnx.Module):
    """Σ_m MLP_m(φ(u_m)), one MLP a score, stacked over M."""

    def __init__(self, metrics: int, frequencies: int, width: int, *, rngs: Rngs):
        self.frequencies = frequencies
        self.unknown = nnx.Param(0.02 * jax.random.normal(rngs.params(), (metrics, frequencies)), dims="M C")
        keys = jax.random.split(rngs.params(), metrics)
        self.mlps = jax.vmap(lambda key: _ScoreMLP(frequencies, width, rngs=Rngs(key)))(keys)

    def __call__(self, u: Float[Array, "B M"]) -> Float[Array, "B E"]:
        known = frequency_embedding(2 * jnp.pi * jnp.nan_to_num(u), self.frequencies, max_period=16.0)
        phi = jnp.where(jnp.isnan(u)[..., None], self.unknown[...][None], known)
        return jax.vmap(lambda mlp, x: mlp(x), in_axes=(0, 1))(self.mlps, phi).sum(0)


class _ScoreMLP(nnx.Module):
    def __init__(self, frequencies: int, width: int, *, rngs: Rngs):
        self.up = Linear((frequencies,), (width,), "C E", rngs=rngs)
        self.down = Linear((width,), (width,), "E E", scale=0.0, rngs=rngs)

    def __call__(self, phi: Float[Array, "B C"]) -> Float[Array, "B E"]:
        return self.down(jax.nn.silu(self.up(phi)))
