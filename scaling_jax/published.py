"""Published laws, their constants as printed: a constant's last digit says how far it may be off, and so what its draws are."""
import decimal

import numpy as np

from scaling_jax.laws import Confidence, Known, Law, Laws, LossLaw, PowerLaw

DRAWS = 1000


def printed(form: type[Law], source: str, confidence: Confidence, unit: float = 1.0, **constants: str) -> Known:
    """A law from its constants as text; the draws are uniform over what rounds to these digits.

    Args:
      unit: of N and T in the paper (1e9: billions).
    """
    rng = np.random.default_rng(0)
    halves = {name: float(decimal.Decimal(1).scaleb(decimal.Decimal(text).as_tuple().exponent)) / 2 for name, text in constants.items()}
    values = {name: float(text) for name, text in constants.items()}
    draws = {name: rng.uniform(value - halves[name], value + halves[name], DRAWS) for name, value in values.items()}
    law, others = form(**values).from_unit(unit), form(**draws).from_unit(unit)
    return Known(law, others, "rounding of the printed constants", f"{source} ({confidence.value})")


YIN = "Yin et al. 2024, arXiv 2411.17470"
VIDEO = Laws(
    loss=printed(
        LossLaw, f"{YIN}, Eq. 15, Table 3", Confidence.REPORTED, 1e9, E="0.4856", A="0.0082", alpha="0.3188", B="0.0373", beta="0.2917"
    ),
    batch=printed(PowerLaw, f"{YIN}, Eq. 10, Table 1", Confidence.CHECKED, 1e9, k="2.1797e4", T="0.8080", N="0.1906"),
    lr=printed(PowerLaw, f"{YIN}, Eq. 13, Table 2", Confidence.CHECKED, 1e9, k="0.0002", T="-0.0453", N="-0.1619"),
    size=printed(PowerLaw, f"{YIN}, Eq. 14", Confidence.CHECKED, k="1.5787", C="0.4146"),
)
"""Video diffusion transformers at the best batch and learning rate of each run, 17 frames of 256×256, constant learning rate, fitted
on 0.017 to 0.26 billion parameters and budgets of 3e17 to 6e18 FLOPs"""

VIDEO_SIZE_FROM_LOSS = printed(PowerLaw, f"{YIN}, Eq. 18", Confidence.REPORTED, k="0.8705", C="0.4294")
"""N̂_opt(C) that the paper derives from its loss law; minimising the law gives another (`predict` says by how much)"""
VIDEO_FITTED = {"N": (16 * 4 * 512**2, 16 * 10 * 1280**2), "C": (3e17, 6e18)}
"""the ranges that the paper's laws were fitted on"""
PAPER = {
    "C": 1e22, "N best": 2.43e9, "N fixed": 4.04e9, "parameters saved": 0.399, "inference saved": 0.401, "fit error saved": 0.455,
    "exponent gap, best": 0.0357, "exponent gap, fixed": 0.3026,
}  # fmt: skip
"""what the paper says (Fig. 6c, 7, section 4.3) that choosing batch and learning rate by law saves, against one fixed choice"""
