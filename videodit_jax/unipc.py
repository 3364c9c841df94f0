"""UniPC of order 2 (Zhao et al. 2023, arXiv 2302.04867, with B₂(h) = eʰ − 1): a multistep predictor and a corrector that cost one evaluation a step.

Between two times the flow is solved exactly but for the change of the predicted data m = x_t − t·v, which is taken from the steps before; when m is known
at the later time, it corrects how that time was reached. In the half log-SNR λ = log((1 − t)/t), from s to t, h = λ_t − λ_s, e = exp(−h) − 1:

  base       x⁰ = (t/s)·x_s − (1 − t)·e·m_s
  predictor  x_t = x⁰ − (1 − t)·e·D/2                       D = (m_r − m_s)/ρ, r the time before s, ρ = (λ_r − λ_s)/h
  corrector  x_t = x⁰ − (1 − t)·e·[c₁·D + c₂·(m_t − m_s)]   c₁ + c₂ = b₁, ρ·c₁ + c₂ = b₂,
                                                            b₁ = (1 + e/h)/(−e), b₂ = 2·[(1 + e/h)/h − 1/2]/e

Where there is no time before s, and in the last step, D is left out, and c₂ = 1/2. All of it is linear in x and m: two tables of numbers, a row a
step, which first corrects how its time was reached and then predicts the next. What the first step corrects stays as it is.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Video = Float[Array, "B *dims"]


def coefficients(times: np.ndarray) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 4"]]:
    """Of n steps over n + 1 falling times: what the predictor multiplies (x_s, m_s, m_r) by, and the corrector before it (x_s, m_s, m_r, m_t)."""
    times = np.minimum(np.asarray(times, np.float64), 1 - 1e-6)  # as diffusers has it: what is known at noise counts in the second step
    with np.errstate(divide="ignore"):
        λ = np.log(1 - times) - np.log(times)  # ∞ at data
    predict, correct, steps = [], [[1, 0, 0, 0]], len(times) - 1
    for k in range(steps):
        s, t, h = times[k], times[k + 1], λ[k + 1] - λ[k]
        e = np.expm1(-h)
        scale, second = -(1 - t) * e, 0 < k < steps - 1
        ρ = (λ[k - 1] - λ[k]) / h if second else -np.inf
        predict.append([t / s, scale * (1 - 0.5 / ρ), scale * 0.5 / ρ])
        if k < steps - 1:
            b1, b2 = ((1 + e / h) / -e, 2 * ((1 + e / h) / h - 0.5) / e) if second else (0.5, 0.5)
            c1 = (b1 - b2) / (1 - ρ)
            c2 = b1 - c1
            correct.append([t / s, scale * (1 - c1 / ρ - c2), scale * c1 / ρ, scale * c2])
    return np.array(predict, np.float32), np.array(correct, np.float32)


def begin(eps: Video) -> tuple[Video, ...]:
    """(x, x_s, m_s, m_r) before the first step, which reads none but x and x_s."""
    return eps, eps, jnp.zeros_like(eps), jnp.zeros_like(eps)


def advance(v: Callable[[Video, Array], Video], state: tuple[Video, ...], times: np.ndarray, steps: range) -> tuple[Video, ...]:
    """The state after these steps, as `videodit_jax.flow.advance`."""
    rows = jax.tree.map(lambda table: jnp.asarray(table[steps.start : steps.stop]), (times[:-1], *coefficients(times)))
    mix = lambda weights, *arrays: sum(weight * array for weight, array in zip(weights, arrays, strict=True))

    def step(state, row):
        x, x_s, m_s, m_r = state
        t, predictor, corrector = row
        m = x - t * v(x, t)
        x = mix(corrector, x_s, m_s, m_r, m)
        return (mix(predictor, x, m, m_s), x, m, m_s), None

    return jax.lax.scan(step, state, rows)[0]
