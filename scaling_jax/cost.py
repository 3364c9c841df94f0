"""What counts as C: the training FLOPs a token of one config, and of a whole family as a function of N."""
import dataclasses
import enum
import functools

import numpy as np

from scaling_jax import flops
from scaling_jax.sizes import family, member
from videodit_jax.config import TrainConfig


class FlopsModel(enum.Enum):
    """The form of C_token."""

    CROSS_DIT = "cross-dit"
    """the layers alone, ¾·N·(7 + n/E) at the widths of a family of models, whose MLPs are four times as wide"""
    SIX_N = "6n"
    """6·N, of language models"""
    WHOLE = "whole"
    """all matrix products of a preset's family, text and both ends with them, which are most of a small model's work"""


def of(config: TrainConfig, model: FlopsModel) -> float:
    """C_token of one config."""
    if model is FlopsModel.WHOLE:
        return flops.token_flops(config)
    return 6.0 * flops.parameters(config.model) if model is FlopsModel.SIX_N else flops.layers_flops(config)


@functools.cache
def _polynomial(name: str) -> np.ndarray:
    """C_token of a family's size s, as coefficients of a cubic at most in s: so four members tell it."""
    return np.polyfit(np.arange(1, 5), [flops.token_flops(member(name, size)) for size in range(1, 5)], 3)


@dataclasses.dataclass(frozen=True)
class TokenFlops:
    """C_token as a function of N."""

    model: FlopsModel = FlopsModel.CROSS_DIT
    clip_tokens: float = flops.PAPER_TOKENS
    """n, which matters to CROSS_DIT alone, as does the aspect"""
    aspect: float = flops.PAPER_ASPECT
    """E/L of the family"""
    preset: str = "tiny"
    """the family that WHOLE counts; between two members as if their size were no whole number"""

    def __post_init__(self):
        if self.model is FlopsModel.CROSS_DIT and family(self.preset).layers:
            raise ValueError(f"--flops cross-dit counts families by depth, whose width follows from N; {self.preset} is one by width: give --flops whole")

    def __call__(self, N):
        if self.model is FlopsModel.CROSS_DIT:
            return flops.cross_dit_flops(N, self.clip_tokens, flops.width_of(N, self.aspect))
        if self.model is FlopsModel.SIX_N:
            return 6 * N
        return np.polyval(_polynomial(self.preset), family(self.preset).s(N))

    def __str__(self) -> str:
        """The flags of `fit` that say so."""
        more = {FlopsModel.CROSS_DIT: f" --clip-tokens {self.clip_tokens:g} --aspect {self.aspect:g}", FlopsModel.WHOLE: f" --preset {self.preset}"}
        return f"--flops {self.model.value}{more.get(self.model, '')}"
