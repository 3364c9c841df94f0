"""How well a scorer ranks what it was not trained on, beside what needs no training."""
import numpy as np
from jaxtyping import Float
from rich.table import Table

from koala_jax.tsa.agreement import agreement, within_groups
from koala_jax.tsa.samples import Samples
from koala_jax.tsa.predict import Predictor

ORIENTED = {
    "clarity": 1, "contrast": 1, "colourfulness": 1, "moving_area": 1, "shake": -1, "dark_area": -1, "bright_area": -1, "still_frames": -1,
    "duplicate_frames": -1, "longest_still": -1, "flicker": -1, "letterbox": -1, "overlay": -1, "lettering": -1, "noise": -1,
    "smooth_area": -1, "blockiness": -1, "unsteadiness": -1, "warp_error": -1, "repeated_area": -1, "faint_lettering": -1,
    "held_frames": -1, "longest_held": -1, "fine_detail": 1, "middle_detail": 1,
}  # fmt: skip
"""sub-metrics that say by themselves which way is better, for their mean"""


def predict(predictor: Predictor, samples: Samples, labels: Float[np.ndarray, "n M"] | None) -> Float[np.ndarray, "n"]:
    """Each sample's score: the mean over its clips. Raises ValueError where one is no number."""
    seen = samples.clips.shape[1]
    images = np.repeat(samples.images, seen, 0)
    rows = None if labels is None else np.repeat(labels, seen, 0)
    scores = predictor(samples.clips.reshape(-1, *samples.clips.shape[2:]), images, rows).reshape(-1, seen).mean(1)
    if (bad := ~np.isfinite(scores)).any():
        raise ValueError(f"the scorer gives no number for {bad.sum()} of {len(scores)} samples")
    return scores


def baselines(samples: Samples) -> dict[str, Float[np.ndarray, "n"]]:
    """Laplacian clarity, bits a pixel at constant quality, the mean of the oriented sub-metrics in units of their spread."""
    column = {name: samples.columns[:, i].astype(float) for i, name in enumerate(samples.names)}
    z = [sign * (column[name] - np.nanmean(column[name])) / (np.nanstd(column[name]) or 1) for name, sign in ORIENTED.items()]
    return {"clarity": column["clarity"], "bits a pixel": column["bits_per_pixel"], "mean of sub-metrics": np.nanmean(z, 0)}


def by_kind(scores: dict[str, Float[np.ndarray, "n"]], samples: Samples) -> dict[str, dict[str, float]]:
    """kind → name → mean SRCC within a clip across levels; the last row is over all kinds."""
    kinds, rows = np.array(samples.kinds), {}
    for kind in [*dict.fromkeys(samples.kinds), "all"]:
        mine = np.flatnonzero((kinds == kind) | (kind == "all"))
        rows[kind] = {name: within_groups(x[mine], samples.targets[mine], samples.groups[mine]) for name, x in scores.items()}
    return rows


def against_labels(scores: dict[str, Float[np.ndarray, "n"]], samples: Samples) -> dict[str, dict[str, float]]:
    """name → PLCC, SRCC, KRCC and RMSE over all samples."""
    return {name: agreement(x, samples.targets) for name, x in scores.items()}


def table(rows: dict[str, dict[str, float]], title: str) -> Table:
    """Figures with two decimals."""
    shown = Table("", *next(iter(rows.values())), title=title)
    for name, row in rows.items():
        shown.add_row(name, *(f"{value:.2f}" for value in row.values()))
    return shown
