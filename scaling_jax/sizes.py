"""Model sizes as families: size s has width a·s, an MLP of four widths, and as many heads as layers.

There are s layers, so N = 16·a²·s³ (Yin et al. 2024: a = 128); or one number L for all sizes, so N = 16·L·a²·s²: small models whose sizes
lie close to each other.
"""
import dataclasses

from scaling_jax.flops import PAPER_ASPECT
from videodit_jax.config import Method, Schedule, TrainConfig
from videodit_jax.presets import preset


@dataclasses.dataclass(frozen=True)
class Family:
    """Which members there are; all else is the preset's."""

    preset: str
    aspect: int = PAPER_ASPECT
    """a, width over size"""
    layers: int | None = None
    """L; None: s"""

    def parameters(self, size: float) -> float:
        """N."""
        return 16 * (self.layers or size) * (self.aspect * size) ** 2

    def size(self, N):
        """The inverse, between two members too."""
        return (N / self.parameters(1)) ** (1 / (2 if self.layers else 3))


OWN = {"tiny": Family("tiny", 16), "stories": Family("stories", 16), "tiny-width": Family("tiny", 4, layers=2)}
"""families that are not the paper's"""


def family(name: str) -> Family:
    """That of a preset, or one of OWN."""
    return OWN.get(name) or Family(name)


def member(name: str, size: int) -> TrainConfig:
    """The settings of one size of a family, with AdamW at a constant learning rate, on which all the laws rest."""
    if size < 1:
        raise ValueError(f"a model of size {size}: at least 1 is needed")
    kind = family(name)
    config, layers, width = preset(kind.preset), kind.layers or size, kind.aspect * size
    model = dataclasses.replace(
        config.model, layers=layers, width=width, heads=layers, mlp=4 * width, unroll=1 if config.model.unroll == 1 else layers
    )
    optimizer = dataclasses.replace(config.optimizer, method=Method.ADAMW, schedule=Schedule.CONSTANT)
    return dataclasses.replace(config, model=model, optimizer=optimizer)


def size_of(N: float, name: str = "0.017b") -> int:
    """Size of the member nearest to N."""
    return max(round(family(name).size(N)), 1)


def family_size(N: float, name: str = "0.017b") -> float:
    """N of the member nearest to N."""
    return float(family(name).parameters(size_of(N, name)))
