"""What training costs: FLOPs a token, of a Cross-DiT in closed form, and of any config of ours.

  (1) N = L·(8E² + 2EF)                   self-attention 4E², cross-attention 4E², MLP 2EF of each layer; 16·L·E² at F = 4E
  (2) C_token = 6·(N − 2LE²) + 12·LnE     all that video tokens pass, which is not the captions' keys and values, and n tokens' attention;
              = ¾·N·(7 + n/E)             at F = 4E
  (3) C = C_token·T                       T video tokens seen

(2) is that of Yin et al. 2024 (arXiv 2411.17470), whose models have F = 4E. It leaves out what text costs (keys and values of the captions, the
scores of cross-attention) and both ends of the model; `token_flops` counts them. Backward counts twice the forward everywhere.
"""
import math

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


def layers_flops(config: TrainConfig) -> float:
    """C_token of (2), forward and backward, of a config of any F."""
    L, E = config.model.layers, config.model.width
    return 6.0 * (parameters(config.model) - 2 * L * E * E) + 12.0 * L * tokens(config) * E


def cross_dit_flops(N, n: float = PAPER_TOKENS, width=None):
    """C_token of (2) at F = 4E.

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
