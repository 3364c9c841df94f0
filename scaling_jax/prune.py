"""Which (batch, lr) of one size go on, by each one's own law; a trial here is a (batch, lr) with the mean loss of its seeds.

At a budget T after the first, a trial's law is the power law through its last two held-out losses, of slope s ≤ 0 in log L over log T.
It is dropped if even at twice its slope, L·(T_end/T)^2s, it would end above what the best trial reaches at its own, L·(T_end/T)^s.
"""
import numpy as np
from jaxtyping import Bool, Float

HOPE = 2.0
"""times its own slope that a trial is granted"""


def surviving(T: Float[np.ndarray, "rungs"], loss: Float[np.ndarray, "rungs trials"], end: float) -> Bool[np.ndarray, "trials"]:
    """The trials that no budget up to the last of T has dropped; one without a loss (NaN), as where a seed diverged, is out."""
    alive = np.isfinite(loss[0])
    for before, now, T0, T1 in zip(loss, loss[1:], T, T[1:]):
        alive = alive & np.isfinite(now)
        if not alive.any():
            return alive
        slope = np.minimum(np.log(np.where(alive, now / before, 1)) / np.log(T1 / T0), 0)
        expected, hoped = (np.where(alive, now, np.inf) * (end / T1) ** (times * slope) for times in (1, HOPE))
        alive = alive & (hoped <= expected.min())
    return alive
