"""What laws of other models say of the same budget: a figure that lies decades from all of these deserves a second look."""
from typing import Any

from rich.console import Console
from rich.table import Table

from scaling_jax.laws import Confidence, Known, LossLaw, PowerLaw
from scaling_jax.published import printed

HOFFMANN, DEEPSEEK = "Hoffmann et al. 2022, arXiv 2203.15556, Eq. 10", "DeepSeek LLM, arXiv 2401.02954"
STEP, LIANG = "Step Law, arXiv 2503.04715", "Liang et al. 2024, arXiv 2410.08184"


def _power(source: str, **constants: str) -> Known:
    return printed(PowerLaw, source, Confidence.CHECKED, **constants)


CHINCHILLA = printed(LossLaw, HOFFMANN, Confidence.CHECKED, E="1.69", A="406.4", alpha="0.34", B="410.7", beta="0.28")
"""Language models, C = 6·N·T"""
DEEPSEEK_SIZE, DEEPSEEK_TOKENS = _power(DEEPSEEK, k="0.1715", C="0.5243"), _power(DEEPSEEK, k="5.8316", C="0.4757")
"""Language models; the size is in non-embedding FLOPs a token, three times those of a forward pass"""
DEEPSEEK_BATCH, DEEPSEEK_LR = _power(DEEPSEEK, k="0.2920", C="0.3271"), _power(DEEPSEEK, k="0.3118", C="-0.1250")
STEP_BATCH, STEP_LR = _power(STEP, k="0.58", T="0.571"), _power(STEP, k="1.79", N="-0.713", T="0.307")
"""Language models, N without embeddings"""
IMAGE_SIZE, IMAGE_TOKENS = _power(LIANG, k="0.0009", C="0.5681"), _power(LIANG, k="186.8535", C="0.4319")
"""Image diffusion transformers, C = 6·N·T"""


def at(C: float, N: float, T: float) -> dict[str, dict[str, Any]]:
    """By source, what its laws give of N, T, batch (tokens) and lr at C training FLOPs; those in N and T at the ones given."""
    chinchilla = float(CHINCHILLA.law.best_size(C, lambda N: 6 * N))
    return {
        HOFFMANN: {"models": "language", "N": chinchilla, "T": C / (6 * chinchilla)},
        DEEPSEEK: {
            "models": "language", "N": DEEPSEEK_SIZE.law(C=C) / 6, "T": DEEPSEEK_TOKENS.law(C=C), "batch": DEEPSEEK_BATCH.law(C=C),
            "lr": DEEPSEEK_LR.law(C=C),
        },
        STEP: {"models": "language, at this N and T", "batch": STEP_BATCH.law(T=T), "lr": STEP_LR.law(N=N, T=T)},
        LIANG: {"models": "images", "N": IMAGE_SIZE.law(C=C), "T": IMAGE_TOKENS.law(C=C)},
    }  # fmt: skip


def show(found: dict[str, dict[str, Any]], console: Console) -> None:
    """As a table."""
    shown = Table("laws of other models", "of", "N", "T", "batch", "lr", title_justify="left")
    for source, one in found.items():
        shown.add_row(source, one["models"], *(f"{one[key]:.3g}" if key in one else "" for key in ("N", "T", "batch", "lr")))
    console.print(shown)
