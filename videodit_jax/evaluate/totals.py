"""VBench's dimensions, and the totals that it makes of them.

    cell  → (cell − low) / (high − low)                  low and high of each dimension: RANGES
    part  = Σ w_d cell_d / Σ w_d                         over the dimensions d of a part
    total = Σ W_p part_p / Σ W_p                         over the parts

Source: github.com/Vchitect/VBench, scripts/constant.py; the form that Owl-1 (arXiv 2412.09600) used by recomputation: its two tables
follow from their cells. Cells lie between 0 and 1; the ranges hold for the models that VBench measures with, and for no others.
"""
import dataclasses
import enum
from collections.abc import Iterable, Mapping


class Dimension(enum.Enum):
    """What is measured of a video; VBench's, then what stands beside them here."""

    I2V_SUBJECT = "i2v_subject"
    I2V_BACKGROUND = "i2v_background"
    CAMERA_MOTION = "camera_motion"
    SUBJECT_CONSISTENCY = "subject_consistency"
    BACKGROUND_CONSISTENCY = "background_consistency"
    TEMPORAL_FLICKERING = "temporal_flickering"
    MOTION_SMOOTHNESS = "motion_smoothness"
    DYNAMIC_DEGREE = "dynamic_degree"
    AESTHETIC_QUALITY = "aesthetic_quality"
    IMAGING_QUALITY = "imaging_quality"
    OBJECT_CLASS = "object_class"
    MULTIPLE_OBJECTS = "multiple_objects"
    HUMAN_ACTION = "human_action"
    COLOR = "color"
    SPATIAL_RELATIONSHIP = "spatial_relationship"
    SCENE = "scene"
    APPEARANCE_STYLE = "appearance_style"
    TEMPORAL_STYLE = "temporal_style"
    OVERALL_CONSISTENCY = "overall_consistency"

    SUBJECT_SLOW = "subject_slow"
    SUBJECT_FAST = "subject_fast"
    BACKGROUND_SLOW = "background_slow"
    BACKGROUND_FAST = "background_fast"
    CLARITY = "clarity"


D = Dimension
Cells = Mapping[Dimension, float]

RANGES = {
    D.I2V_SUBJECT: (0.1462, 1.0), D.SUBJECT_CONSISTENCY: (0.1462, 1.0),
    D.I2V_BACKGROUND: (0.2615, 1.0), D.BACKGROUND_CONSISTENCY: (0.2615, 1.0),
    D.TEMPORAL_FLICKERING: (0.6293, 1.0), D.MOTION_SMOOTHNESS: (0.706, 0.9975), D.SCENE: (0.0, 0.8222),
    D.APPEARANCE_STYLE: (0.0009, 0.2855), D.TEMPORAL_STYLE: (0.0, 0.364), D.OVERALL_CONSISTENCY: (0.0, 0.364),
}  # fmt: skip
"""low and high where they are not 0 and 1"""

QUALITY = {
    D.SUBJECT_CONSISTENCY: 1, D.BACKGROUND_CONSISTENCY: 1, D.MOTION_SMOOTHNESS: 1, D.DYNAMIC_DEGREE: 0.5, D.AESTHETIC_QUALITY: 1,
    D.IMAGING_QUALITY: 1,
}  # fmt: skip
SEMANTIC = dict.fromkeys(
    (D.OBJECT_CLASS, D.MULTIPLE_OBJECTS, D.HUMAN_ACTION, D.COLOR, D.SPATIAL_RELATIONSHIP, D.SCENE, D.APPEARANCE_STYLE, D.TEMPORAL_STYLE,
     D.OVERALL_CONSISTENCY), 1
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Total:
    """A weighted mean of weighted means."""

    parts: tuple[tuple[float, dict[Dimension, float]], ...]
    """weight of each part, and in it of each dimension"""

    @property
    def dimensions(self) -> list[Dimension]:
        """All that it is made of."""
        return [d for _, part in self.parts for d in part]

    def over(self, dimensions: Iterable[Dimension]) -> "Total":
        """The same of fewer dimensions, a part without any left out: comparable with another total over the same ones alone."""
        kept = set(dimensions)
        parts = ((weight, {d: w for d, w in part.items() if d in kept}) for weight, part in self.parts)
        return Total(tuple((weight, part) for weight, part in parts if part))

    def __call__(self, cells: Cells) -> float:
        """The total of cells from 0 to 1.

        Raises:
          ValueError: a dimension that is missing, named.
        """
        missing = [d.value for d in self.dimensions if d not in cells]
        if missing or not self.parts:
            raise ValueError(f"this total wants {', '.join(missing) or 'some dimension'} too: take it `over` those that there are")
        return _mean((weight, _mean((w, _normalised(d, cells[d])) for d, w in part.items())) for weight, part in self.parts)


FLICKERING = {D.TEMPORAL_FLICKERING: 1}
IMAGE = {D.I2V_SUBJECT: 1, D.I2V_BACKGROUND: 1}
I2V_OWL_1 = Total(((1, IMAGE), (1, QUALITY | FLICKERING)))
"""VBench-I2V's total as Owl-1's table 1 has it: with flickering, without camera motion"""
I2V = Total(((1, IMAGE | {D.CAMERA_MOTION: 0.1}), (1, QUALITY)))
"""today's"""
LONG = Total(((4, QUALITY | FLICKERING), (1, SEMANTIC)))
"""VBench-Long's, and VBench's"""

OWL_1_I2V = dict(zip(I2V_OWL_1.dimensions, (0.9740, 0.9729, 0.9728, 0.9854, 0.9892, 0.2163, 0.6189, 0.6966, 0.9869)))
"""the cells that Owl-1 states of itself for 2 s"""
OWL_1_LONG = dict(zip(QUALITY | FLICKERING, (0.9829, 0.9861, 0.9935, 0.1319, 0.6064, 0.6633, 0.9984))) | dict(
    zip(SEMANTIC, (0.9131, 0.4304, 0.8567, 0.8792, 0.6758, 0.5146, 0.2483, 0.2425, 0.2510))
)
"""and for 7 s"""


def _normalised(dimension: Dimension, cell: float) -> float:
    low, high = RANGES.get(dimension, (0.0, 1.0))
    return (cell - low) / (high - low)


def _mean(weighted: Iterable[tuple[float, float]]) -> float:
    pairs = list(weighted)
    return sum(w * x for w, x in pairs) / sum(w for w, _ in pairs)
