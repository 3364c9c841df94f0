"""How far a video stays the same, by VBench's formulas, on any embedding.

Frames x_1 … x_N, their embeddings e_i of unit length, cos⁺ = max(0, cosine), I the embedding of the image that the video starts from:

    consistency = mean_{i≥2} ½ [cos⁺(e_i, e_{i−1}) + cos⁺(e_i, e_1)]                                                              (1)
    conformity  = 0.4 max_i cos⁺(I, e_i) + 0.3 mean_{i≥2} cos⁺(e_i, e_{i−1}) + 0.3 min_{i≥2} cos⁺(e_i, e_{i−1})                     (2)
    slow        = mean over the clips of a long video of (1)
    fast        = (1) of the first frames of its clips                                                                            (3)
    slow-fast   = ½ slow + ½ fast,   slow alone where there is one clip

(1) is VBench's subject consistency (DINO ViT-B/16) and background consistency (CLIP ViT-B/32), (2) VBench-I2V's subject (DINO) and
background (DreamSim), (3) VBench-Long's, with DINOv2 and DreamSim for the fast part: Huang et al. 2023 (arXiv 2311.17982), Huang et al.
2024 (arXiv 2411.13503), github.com/Vchitect/VBench. VBench-Long maps the fast part to the scale of the slow one by a table of 100 quantiles for each
of its two models; it holds for those models alone and is not here.
"""
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def consistency(e: Float[np.ndarray, "T C"]) -> float:
    """Equation 1, 0 to 1.

    Raises:
      ValueError: fewer than two frames.
    """
    return float(np.mean((_steps(e) + np.maximum(e[1:] @ e[0], 0)) / 2))


def conformity(image: Float[np.ndarray, "C"], e: Float[np.ndarray, "T C"]) -> float:
    """Equation 2, 0 to 1. Raises as (1) does."""
    steps = _steps(e)
    return float(0.4 * np.maximum(e @ image, 0).max() + 0.3 * steps.mean() + 0.3 * steps.min())


def slow_fast(clips: Sequence[float], fast: Float[np.ndarray, "clips C"]) -> float:
    """Equation 3.

    Args:
      clips: (1) of each clip.
      fast: embeddings of the clips' first frames.
    """
    slow = float(np.mean(clips))
    return slow if len(clips) == 1 else (slow + consistency(fast)) / 2


def _steps(e: Float[np.ndarray, "T C"]) -> Float[np.ndarray, "T-1"]:
    """cos⁺ of each frame and the one before."""
    if len(e) < 2:
        raise ValueError(f"consistency compares frames: at least 2 are needed, not {len(e)}")
    return np.maximum((e[1:] * e[:-1]).sum(-1), 0)
