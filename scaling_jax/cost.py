"""What counts as C: the training FLOPs a token of one config, and of a whole family as a function of N."""
import dataclasses
import enum
import functools

import numpy as np

from scaling_jax import flops
from scaling_jax.sizes import member
from videodit_jax.config import TrainConfig


class FlopsModel(enum.Enum):
    """The form of C_token."""

    CROSS_DIT = "cross-dit"
    """¾·N·(7 + n/E): the layers alone, at the widths of a family of models"""
    SIX_N = "6n"
    """6·N, of language models"""
    WHOLE = "whole"
    """all matrix products of a preset's family, text and both ends with them, which are most of a small model's work"""


def of(config: TrainConfig, model: FlopsModel) -> float:
    """C_token of one config."""
    N = flops.parameters(config.model)
    if model is FlopsModel.WHOLE:
        return flops.token_flops(config)
    return 6.0 * N if model is FlopsModel.SIX_N else flops.cross_dit_flops(N, flops.tokens(config), config.model.width)


@functools.cache
def _family(preset: str) -> tuple[int, np.ndarray]:
    """N of one layer, and C_token of L layers as coefficients of a polynomial: at E = a·L it is a cubic, so four members tell it."""
    members = [member(preset, layers) for layers in range(1, 5)]
    return flops.parameters(members[0].model), np.polyfit(np.arange(1, 5), [flops.token_flops(one) for one in members], 3)


@dataclasses.dataclass(frozen=True)
class TokenFlops:
    """C_token as a function of N."""

    model: FlopsModel = FlopsModel.CROSS_DIT
    clip_tokens: float = flops.PAPER_TOKENS
    """n, which matters to CROSS_DIT alone, as does the aspect"""
    aspect: float = flops.PAPER_ASPECT
    """E/L of the family"""
    preset: str = "tiny"
    """whose family WHOLE counts; between two members as if their layers were no whole number"""

    def __call__(self, N):
        if self.model is FlopsModel.CROSS_DIT:
            return flops.cross_dit_flops(N, self.clip_tokens, flops.width_of(N, self.aspect))
        if self.model is FlopsModel.SIX_N:
            return 6 * N
        one, cubic = _family(self.preset)
        return np.polyval(cubic, np.cbrt(N / one))

    def __str__(self) -> str:
        """The flags of `fit` that say so."""
        more = {FlopsModel.CROSS_DIT: f" --clip-tokens {self.clip_tokens:g} --aspect {self.aspect:g}", FlopsModel.WHOLE: f" --preset {self.preset}"}
        return f"--flops {self.model.value}{more.get(self.model, '')}"
