"""How well scores agree with targets: PLCC, SRCC, KRCC, RMSE."""
import numpy as np
import scipy.stats
from jaxtyping import Float, Int


def agreement(scores: Float[np.ndarray, "n"], targets: Float[np.ndarray, "n"]) -> dict[str, float]:
    """Pearson, Spearman and Kendall (τ-b) correlation, and the root mean squared error after the line that fits best; NaN where
    one side is constant."""
    if len(scores) < 2 or np.ptp(scores) == 0 or np.ptp(targets) == 0:
        return dict.fromkeys(("PLCC", "SRCC", "KRCC", "RMSE"), float("nan"))
    plcc = float(np.corrcoef(scores, targets)[0, 1])
    srcc, krcc = scipy.stats.spearmanr(scores, targets).statistic, scipy.stats.kendalltau(scores, targets).statistic
    return {"PLCC": plcc, "SRCC": float(srcc), "KRCC": float(krcc), "RMSE": float(targets.std() * np.sqrt(1 - min(plcc**2, 1)))}


def within_groups(scores: Float[np.ndarray, "n"], targets: Float[np.ndarray, "n"], groups: Int[np.ndarray, "n"]) -> float:
    """Spearman's correlation within each group, averaged over the groups; a group whose scores are all equal counts 0."""
    values = []
    for group in np.unique(groups):
        mine = groups == group
        if np.ptp(targets[mine]) > 0:
            value = 0.0 if np.ptp(scores[mine]) == 0 else scipy.stats.spearmanr(scores[mine], targets[mine]).statistic
            values.append(float(value))
    return float(np.mean(values)) if values else float("nan")
