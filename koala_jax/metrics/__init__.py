"""Sub-metrics of a clip: each one small file with its definition, unit and source; one pass over the decoded frames serves all.

A metric is a class with `add(frame)`, called for every frame in order, and `result()`, its columns. To add one: write the file, give
it a line in `Metric` below. These modules import numpy and OpenCV, not jax: decoding workers run them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from koala_jax.metrics.blockiness import Blockiness
from koala_jax.metrics.clarity import Clarity
from koala_jax.metrics.colour import Colour
from koala_jax.metrics.exposure import Exposure
from koala_jax.metrics.flicker import Flicker
from koala_jax.metrics.frame import Frame
from koala_jax.metrics.letterbox import Letterbox
from koala_jax.metrics.lettering import Lettering
from koala_jax.metrics.motion import Motion
from koala_jax.metrics.noise import Noise
from koala_jax.metrics.overlay import Overlay
from koala_jax.metrics.still import Still
from koala_jax.metrics.transition import TransitionLeft

__all__ = ["Frame", "Metric"]


class Metric(enum.Enum):
    """What can be measured; the columns and their units stand in each one's file."""

    MOTION = "motion"
    CLARITY = "clarity"
    EXPOSURE = "exposure"
    COLOUR = "colour"
    STILL = "still"
    FLICKER = "flicker"
    LETTERBOX = "letterbox"
    OVERLAY = "overlay"
    LETTERING = "lettering"
    NOISE = "noise"
    BLOCKINESS = "blockiness"
    TRANSITION = "transition"

    @property
    def kind(self) -> Callable:
        """Its class: kind(frames in all) starts a measurement."""
        return _KINDS[self]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what it measures."""
        return self.kind.columns


_KINDS = {
    Metric.MOTION: Motion, Metric.CLARITY: Clarity, Metric.EXPOSURE: Exposure, Metric.COLOUR: Colour, Metric.STILL: Still,
    Metric.FLICKER: Flicker, Metric.LETTERBOX: Letterbox, Metric.OVERLAY: Overlay,
    Metric.LETTERING: Lettering, Metric.NOISE: Noise, Metric.BLOCKINESS: Blockiness, Metric.TRANSITION: TransitionLeft,
}  # fmt: skip
