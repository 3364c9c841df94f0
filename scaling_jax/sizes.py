"""Model sizes as a family: L layers of width a·L with L heads and an MLP of four widths, so N = 16·a²·L³ (Yin et al.: a = 128)."""
import dataclasses

from scaling_jax.flops import PAPER_ASPECT
from videodit_jax.config import Method, Schedule, TrainConfig
from videodit_jax.presets import preset

ASPECT = {"tiny": 16, "stories": 16}
"""a of a preset's family; 128 where nothing is said"""


def aspect(name: str) -> int:
    """Width of a layer's head, and width over layers."""
    return ASPECT.get(name, PAPER_ASPECT)


def member(name: str, layers: int) -> TrainConfig:
    """A preset's settings at this many layers, with AdamW at a constant learning rate, on which all the laws rest."""
    if layers < 1:
        raise ValueError(f"a model of {layers} layers: at least 1 is needed")
    config = preset(name)
    width = aspect(name) * layers
    model = dataclasses.replace(
        config.model, layers=layers, width=width, heads=layers, mlp=4 * width, unroll=1 if config.model.unroll == 1 else layers
    )
    optimizer = dataclasses.replace(config.optimizer, method=Method.ADAMW, schedule=Schedule.CONSTANT)
    return dataclasses.replace(config, model=model, optimizer=optimizer)


def layers_of(N: float, name: str = "0.017b") -> int:
    """Layers of the member nearest to N."""
    return max(round((N / (16 * aspect(name) ** 2)) ** (1 / 3)), 1)


def family_size(N: float, name: str = "0.017b") -> float:
    """N of the member nearest to N."""
    return float(16 * aspect(name) ** 2 * layers_of(N, name) ** 3)
