"""Model sizes as families of one number s, the size.

  by depth   s layers of width a·s with s heads:             N = 16·a²·s³      Yin et al.: a = 128
  by width   always L layers of width a·s with as many heads: N = 16·L·a²·s²    for models so small that one layer more is a jump

The MLP has four widths. By width text is as wide as the model: its table would else be most of the smallest.
"""
import dataclasses

from videodit_jax.config import Dtype, Method, Schedule, TrainConfig
from videodit_jax.presets import PRESETS, preset


@dataclasses.dataclass(frozen=True)
class Family:
    """What its members share."""

    preset: str
    """whose settings they take"""
    a: int
    """width of size 1"""
    layers: int | None = None
    """L of a family by width; None for one by depth"""

    @property
    def power(self) -> int:
        """N ∝ s^power."""
        return 2 if self.layers else 3

    def N(self, s):
        """N of size s."""
        return 16 * self.a**2 * (self.layers or 1) * s**self.power

    def s(self, N):
        """The size, not rounded, that has N parameters."""
        return (N / self.N(1)) ** (1 / self.power)


NAMED = {"tiny": Family("tiny", 16), "stories": Family("stories", 16), "narrow": Family("tiny", 4, layers=2)}
"""by the preset's name; "narrow" is a family alone, of `tiny`'s settings. Where nothing is said, by depth with a = 128"""


EMA = 0.9999
"""of a family by width: a tenth of the steps made, up to 90,000. A short average leaves the noise of the last steps in the loss, and more of it
the longer the run. And float32: products so small gain nothing by bfloat16, and its casts take longer than they"""


def family(name: str) -> Family:
    """Raises ValueError where there is neither a family nor a preset of this name."""
    if name not in NAMED and name not in PRESETS:
        raise ValueError(f"no preset named {name!r}; there are {', '.join(dict.fromkeys([*NAMED, *PRESETS]))}")
    return NAMED.get(name) or Family(name, 128)


def member(name: str, size: int) -> TrainConfig:
    """A family's settings at this size, with AdamW at a constant learning rate, on which all the laws rest."""
    if size < 1:
        raise ValueError(f"a model of size {size}: at least 1 is needed")
    of = family(name)
    config = preset(of.preset)
    layers, width = of.layers or size, of.a * size
    model = dataclasses.replace(
        config.model, layers=layers, width=width, heads=layers, mlp=4 * width, unroll=1 if config.model.unroll == 1 else layers
    )
    optimizer = dataclasses.replace(config.optimizer, method=Method.ADAMW, schedule=Schedule.CONSTANT)
    if of.layers:
        config, model = dataclasses.replace(config, dtype=Dtype.FLOAT32), dataclasses.replace(model, text=dataclasses.replace(model.text, width=width))
        optimizer = dataclasses.replace(optimizer, ema=EMA)
    return dataclasses.replace(config, model=model, optimizer=optimizer)


def size_of(N: float, name: str = "0.017b") -> int:
    """Size of the member nearest to N."""
    return max(round(family(name).s(N)), 1)


def family_size(N: float, name: str = "0.017b") -> float:
    """N of the member nearest to N."""
    return float(family(name).N(size_of(N, name)))


def family_of(config: TrainConfig) -> str:
    """The family that a run belongs to: a named one that has its model as a member, or else its preset's."""
    model, N = config.model, 16 * config.model.layers * config.model.width**2
    shape = lambda one: (one.layers, one.width, one.text.width)
    return next((name for name in NAMED if shape(member(name, size_of(N, name)).model) == shape(model) and NAMED[name].preset == config.preset), config.preset)
