"""Many videos' figures: means with intervals, totals, and the manifest that says whether two people measured the same thing."""
import hashlib
import json

import numpy as np
from jaxtyping import Float
from rich.table import Table

from videodit_jax.evaluate import totals
from videodit_jax.evaluate.measure import CONSISTENT, VBENCH, Judges
from videodit_jax.evaluate.totals import Dimension

RESAMPLES, LEVEL = 2000, 0.95
Figures = dict[Dimension, float]


def summary(videos: list[Figures]) -> dict[Dimension, dict[str, float]]:
    """Of each dimension that was measured: mean over the videos, its interval, and how many videos."""
    rows = {}
    for dimension in Dimension:
        values = np.array([figures[dimension] for figures in videos if dimension in figures])
        if values.size:
            low, high = interval(values)
            rows[dimension] = {"mean": float(values.mean()), "low": low, "high": high, "videos": values.size}
    return rows


def interval(values: Float[np.ndarray, "n"]) -> tuple[float, float] | tuple[None, None]:
    """Of the mean: the middle 95 % of the means of videos drawn anew with replacement (percentile bootstrap); none of a single video."""
    if len(values) < 2:
        return None, None
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def manifest(settings: dict, contents: list[tuple[str, str | None]]) -> str:
    """SHA-256 over the settings and the contents of the videos and their images, by whatever name and in whatever order."""
    return hashlib.sha256(json.dumps([settings, sorted(map(str, contents))], sort_keys=True).encode()).hexdigest()


def totals_of(rows: dict[Dimension, dict[str, float]], judges: Judges) -> dict[str, dict]:
    """VBench's totals over the dimensions that there are, each beside Owl-1's own over the same; none where consistency stands on other models
    than VBench's. Those of its cells that VBench measures by something else are named in `by_other_means`."""
    forms = {"VBench-Long": (totals.LONG, totals.OWL_1_LONG)}
    if Dimension.I2V_SUBJECT in rows:
        forms = {"VBench-I2V": (totals.I2V, totals.OWL_1_I2V), "VBench-I2V as Owl-1 has it": (totals.I2V_OWL_1, totals.OWL_1_I2V)}
    if not judges.comparable:
        return {}
    result = {}
    other = VBENCH.keys() | {both for both, _, fast, _ in CONSISTENT.values() if fast in rows}  # half of a long video's consistency is its fast part
    for name, (form, published) in forms.items():
        part = form.over(rows).over(published)
        missing = [d.value for d in form.dimensions if d not in part.dimensions]
        cells = {d: row["mean"] for d, row in rows.items()}
        result[name] = {
            "total": part(cells), "owl_1_published": part(published), "dimensions": len(part.dimensions), "without": missing,
            "by_other_means": [d.value for d in part.dimensions if d in other],
        }  # fmt: skip
    return result


def table(rows: dict[Dimension, dict[str, float]], judges: Judges, heading: str) -> Table:
    """One row a dimension, in percent."""
    out = Table(title=heading)
    for name, side in (("dimension", "left"), ("mean %", "right"), ("95 % interval", "right"), ("videos", "right")):
        out.add_column(name, justify=side, no_wrap=True)
    out.add_column("by")
    for dimension, row in rows.items():
        span = "" if row["low"] is None else f"{100 * row['low']:.2f} … {100 * row['high']:.2f}"
        out.add_row(dimension.value, f"{100 * row['mean']:.2f}", span, str(row["videos"]), judges.by(dimension))
    return out
