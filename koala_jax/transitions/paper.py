"""Koala-36M's linear SVM, refitted the paper's way: two frames of one video against frames of two videos (section 4.1).

    minimise over w, b:  |w|²/2 + C Σ_n max(0, 1 - y_n (w · x_n + b))    x = (bgr, canny),  y = 1 for one video, -1 for two

solved in its dual by coordinate ascent (Hsieh et al. 2008), the bias as a third feature. The paper names neither C nor the
number of pairs, nor how far apart the frames of one video are.
"""
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from core_jax.cli import tracked
from koala_jax.transitions import css
from koala_jax.transitions.synthesis.shots import Source, draw

PAIRS = 1000
"""Of each kind."""
APART = 8
"""Most frames between two of one video."""
C = 1.0


def pairs(sources: Sequence[Source], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """PAIRS neighbouring pairs of one shot (y = 1) and as many of two shots (-1), as (bgr, canny)."""
    rng = np.random.default_rng(seed)
    x, y = [], []
    for _ in tracked(range(PAIRS), "pairs of frames"):
        one, other = (draw(sources, APART + 2, rng) for _ in range(2))
        gap = int(rng.integers(1, min(APART + 1, len(one))))
        first, near, far = (css.features(css.shrink(np.ascontiguousarray(frame[..., ::-1]))) for frame in (one[0], one[gap], other[0]))
        for second, label in ((near, 1), (far, -1)):
            score = css.score(first, second)
            x.append((score.bgr, score.canny))
            y.append(label)
    return np.array(x), np.array(y)


def linear_svm(x: np.ndarray, y: np.ndarray, seed: int, rounds: int = 200) -> np.ndarray:
    """(w, b) as one vector."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    alpha, w, square = np.zeros(len(x)), np.zeros(x.shape[1]), (x * x).sum(1)
    for _ in range(rounds):
        for n in rng.permutation(len(x)):
            new = np.clip(alpha[n] - (y[n] * (w @ x[n]) - 1) / square[n], 0, C)
            w += (new - alpha[n]) * y[n] * x[n]
            alpha[n] = new
    return w


def refit(sources: Sequence[Source], seed: int) -> dict:
    """Both sets of coefficients, and how often each is right on pairs that the fit has not seen."""
    w = linear_svm(*pairs(sources, seed), seed)
    x, y = pairs(sources, seed + 1)
    released = np.array([css.SVM_BGR, css.SVM_CANNY, css.SVM_BIAS])
    right = lambda w: float((np.sign(x @ w[:2] + w[2]) == y).mean())  # noqa: E731
    return {
        name: {"bgr": float(v[0]), "canny": float(v[1]), "bias": float(v[2]), "bgr to canny": float(v[0] / v[1]), "right": right(v)}
        for name, v in (("refitted", w), ("released", released))
    }


def show(figures: dict, console: Console) -> None:
    table = Table("", "bgr", "canny", "bias", "bgr : canny", "right on new pairs", title=f"linear SVM, {PAIRS} pairs of each kind, C = {C:g}")
    for name, row in figures.items():
        table.add_row(name, *(f"{row[key]:.4f}" for key in ("bgr", "canny", "bias", "bgr to canny")), f"{row['right']:.1%}")
    console.print(table)
