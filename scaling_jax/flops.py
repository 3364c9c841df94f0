"""What training costs: FLOPs a token, of a Cross-DiT in closed form, of any config of ours, and of any function by its jaxpr.

  (1) N = L·(8E² + 2EF)                self-attention 4E², cross-attention 4E², MLP 2EF of each layer; 16·L·E² at F = 4E
  (2) C_token = ¾·N·(7 + n/E)          at F = 4E: 84·L·E² for the 14 of 16 E² that video tokens pass, 12·L·n·E for n tokens' attention
  (3) C = C_token·T                    T video tokens seen

(2) is that of Yin et al. 2024 (arXiv 2411.17470). It leaves out what text costs (keys and values of the captions, the scores of
cross-attention) and both ends of the model; `token_flops` counts them. Backward counts twice the forward everywhere.
"""
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from videodit_jax.config import TrainConfig
from videodit_jax.model import ModelConfig, forward_flops

PAPER_TOKENS = 1280
"""n of the paper's clips: 17 frames of 256×256 as 5×16×16 tokens"""
PAPER_ASPECT = 128
"""E/L of the paper's family"""


def parameters(config: ModelConfig) -> int:
    """N of (1): the layers' matrices alone, as scaling laws count them; embeddings, modulation, biases and both ends are left out."""
    E = config.width
    return config.layers * (8 * E * E + 2 * E * config.mlp)


def width_of(N, aspect: float = PAPER_ASPECT):
    """E of a family with E = aspect·L and F = 4E, so that N = 16·L·E² = 16·E³/aspect."""
    return (aspect * N / 16) ** (1 / 3)


def cross_dit_flops(N, n: float = PAPER_TOKENS, width=None):
    """C_token of (2), forward and backward.

    Args:
      N: parameters by (1).
      n: video tokens of a clip.
      width: E; by default that of the paper's family.
    """
    return 0.75 * N * (7 + n / (width_of(N) if width is None else width))


def tokens(config: TrainConfig) -> int:
    """n, video tokens of a clip."""
    return math.prod(config.model.grid(config.clip))


def token_flops(config: TrainConfig) -> float:
    """C_token of a config of ours with all that (2) leaves out, at captions of full length."""
    return forward_flops(config.model, config.clip).train / tokens(config)


def counted(function: Callable, *args: Any) -> int:
    """FLOPs of all matrix products in a function's jaxpr, 2 a multiply-add; loops count every turn, a branch its dearest arm.

    Args:
      args: arrays or `jax.ShapeDtypeStruct`s; nothing is computed.

    Raises:
      ValueError: the function loops an unknown number of times.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
    inner = [_count(part) for value in params.values() for part in _jaxprs(value)]
    if name == "while" and any(inner):
        raise ValueError("the FLOPs of a loop with an unknown number of turns cannot be counted")
    if name == "cond":
        return max(inner)
    return params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)


def _jaxprs(value: Any) -> list[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    return [part for item in value for part in _jaxprs(item)] if isinstance(value, (tuple, list)) else []
