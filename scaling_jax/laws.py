"""The forms of the laws. N parameters, T tokens, C FLOPs, B tokens a step, all absolute counts, never billions.

  (1) L(T, N) = E + A·N^−α + B·T^−β                Hoffmann et al. 2022 (2203.15556); Yin et al. 2024 (2411.17470), Eq. 15
  (1') L^p = E^p + (A·N^−α)^p + (B·T^−β)^p          Droppo & Elibol 2021 (2106.09488); with E = 0 Kaplan et al. 2020 (2001.08361), Eq. 1.5
  (2) B_opt(T, N) = k·T^b·N^c, η_opt likewise      Yin et al., Eq. 10 and 13
  (3) N_opt(C) = k·C^a                             Yin et al., Eq. 14
  (4) N̂_opt(C) = argmin_N L(C / C_token(N), N)     what (1) and (1') imply; at C = 6·N·T its exponent is β/(α + β)
  (5) T_opt(C) = C / C_token(N_opt(C))

(1) is (1') at p = 1, where all sizes gain the same from more tokens; at p > 1 larger sizes gain more. Laws are
pytrees of numbers and use operators alone: they evaluate on floats, numpy and jax arrays, and a law whose constants are arrays (n,) is n laws,
such as those of a bootstrap.
"""
import dataclasses
import enum
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float


class Form(enum.Enum):
    """Of the loss law."""

    SUM = "sum"
    """(1), the paper's"""
    NORM = "norm"
    """(1'), the p-norm of the same terms, p fitted too"""

    @property
    def other(self) -> "Form":
        return Form.NORM if self is Form.SUM else Form.SUM


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossLaw:
    """(1'), in the loss's own unit."""

    E: float
    A: float
    alpha: float
    B: float
    beta: float
    p: float = 1.0

    def __call__(self, N, T):
        return (self.E**self.p + (self.A * N**-self.alpha) ** self.p + (self.B * T**-self.beta) ** self.p) ** (1 / self.p)

    @property
    def falls(self) -> bool:
        """Whether more parameters and more tokens both gain; only then (4) has a minimum that means something."""
        return self.alpha > 0 and self.beta > 0

    @property
    def exponent(self):
        """a of N_opt ∝ C^a, by (4) at C = 6·N·T."""
        return self.beta / (self.alpha + self.beta)

    def from_unit(self, unit: float) -> "LossLaw":
        """The law in counts, of a law in `unit`s (1e9: in billions)."""
        return LossLaw(self.E, self.A * unit**self.alpha, self.alpha, self.B * unit**self.beta, self.beta, self.p)

    def best_size(self, C: float, token_flops: Callable) -> float | Float[np.ndarray, "n"]:
        """N̂_opt of (4), by bisection on the slope of L^p along C = C_token(N)·T, which changes its sign once.

        Args:
          token_flops: C_token as a function of N.
        """
        low, high = (np.full(np.shape(np.asarray(self.E)), x) for x in np.log([1e1, 1e16]))

        def slope(n):
            N, step = np.exp(n), 1e-4
            c = token_flops(N)
            elasticity = np.log(token_flops(N * np.exp(step)) / token_flops(N * np.exp(-step))) / (2 * step)
            return self.beta * (self.B * (C / c) ** -self.beta) ** self.p * elasticity - self.alpha * (self.A * N**-self.alpha) ** self.p

        for _ in range(60):
            middle = (low + high) / 2
            rising = slope(middle) > 0
            low, high = np.where(rising, low, middle), np.where(rising, middle, high)
        return np.exp((low + high) / 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """(2) and (3): k·N^N·T^T·C^C, an exponent of 0 for what the law does not depend on."""

    k: float
    N: float = 0.0
    T: float = 0.0
    C: float = 0.0

    def __call__(self, N=1.0, T=1.0, C=1.0):
        return self.k * N**self.N * T**self.T * C**self.C

    def from_unit(self, unit: float) -> "PowerLaw":
        """The law in counts, of a law of N and T in `unit`s."""
        return PowerLaw(self.k * unit ** -(self.N + self.T), self.N, self.T, self.C)


Law = LossLaw | PowerLaw


class Confidence(enum.Enum):
    """How sure it is that a printed constant is what the authors fitted."""

    CHECKED = "two independent sources, and its values reproduce others that the paper prints"
    REPORTED = "one source, which names the equation or table"


@dataclasses.dataclass(frozen=True)
class Known:
    """A law with what is known of its error."""

    law: Law
    draws: Law
    """laws that the evidence allows about as well, as arrays (n,)"""
    spread: str
    """what the draws are: a bootstrap, or the rounding of printed constants"""
    source: str

    def interval(self, value: Callable[[Law], np.ndarray]) -> tuple[float, float]:
        """The central 95 % of something computed from the law, over its draws; those that no float holds say nothing."""
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = np.nanpercentile(value(self.draws), [2.5, 97.5])
        return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Laws:
    """The laws of one kind of model; None where nobody fitted one."""

    loss: Known | None = None
    batch: Known | None = None
    lr: Known | None = None
    size: Known | None = None
