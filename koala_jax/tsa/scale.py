"""From a network's raw score to 1–5.

    vtss = mean* + std* · (raw − mean) / std                clipped to [1, 5]

mean, std: of the raw scores of a corpus, stored. mean*, std*: of human labels; those of Koala-36M, read off a published histogram of
5,913 labels, are 3.293 and 1.086. This is a reconstruction: the official script scales by the labels of the very clips it scores.
Threshold: the valley between the two modes; Koala-36M keeps vtss > 2.5.
"""
import dataclasses

import numpy as np
from jaxtyping import Float

KOALA_MEAN, KOALA_STD = 3.293, 1.086
THRESHOLD = 2.5


@dataclasses.dataclass(frozen=True)
class Scale:
    """A line from raw scores to 1–5."""

    mean: float
    std: float
    label_mean: float = KOALA_MEAN
    label_std: float = KOALA_STD

    @classmethod
    def of(cls, raw: Float[np.ndarray, "n"], labels: Float[np.ndarray, "n"] | None = None) -> "Scale":
        """From the raw scores of a corpus, and its labels where there are any.

        Raises:
          ValueError: fewer than two scores that differ.
        """
        raw = raw[np.isfinite(raw)]
        if raw.size < 2 or raw.std() == 0:
            raise ValueError(f"a scale needs two scores or more that differ, and {raw.size} were given")
        target = () if labels is None else (float(labels.mean()), float(labels.std()))
        return cls(float(raw.mean()), float(raw.std()), *target)

    def __call__(self, raw: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Scores from 1 to 5; NaN stays NaN."""
        return np.clip(self.label_mean + self.label_std * (raw - self.mean) / self.std, 1.0, 5.0)


@dataclasses.dataclass(frozen=True)
class Modes:
    """Two modes of a distribution and the valley between them."""

    threshold: float
    means: tuple[float, float]
    between: float
    """share of the variance that lies between the two sides: near 0.64 for one bell curve, towards 1 for two far apart"""


def split_modes(scores: Float[np.ndarray, "n"]) -> Modes:
    """The split into two groups with the least variance inside them (Otsu 1979), over every possible split.

    Raises:
      ValueError: fewer than two scores that differ.
    """
    x = np.sort(scores[np.isfinite(scores)])
    if x.size < 2 or x[0] == x[-1]:
        raise ValueError(f"two modes need two scores or more that differ, and {x.size} were given")
    left = np.arange(1, x.size)
    sums = np.cumsum(x)
    low, high = sums[:-1] / left, (sums[-1] - sums[:-1]) / (x.size - left)
    between = np.where(x[1:] > x[:-1], left * (x.size - left) / x.size**2 * (high - low) ** 2, 0)
    at = int(between.argmax())
    return Modes(float((x[at] + x[at + 1]) / 2), (float(low[at]), float(high[at])), float(between[at] / x.var()))
