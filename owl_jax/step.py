"""The training step of a stage: `train` runs it, `plan` compiles it for a slice elsewhere."""
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from core_jax.lmm.lora import combine
from core_jax.state import LossFn, TrainState, make_step
from owl_jax import run
from owl_jax.objective import loss_fn
from owl_jax.sequence import Batch
from owl_jax.stages import TrainConfig
from videodit_jax.config import TrainConfig as FilmConfig


def on_parts(config: TrainConfig, film: FilmConfig) -> LossFn:
    """The stage's loss of what learns; with each batch comes the rest of the model."""
    loss = loss_fn(config, film)

    def of_parts(trained: PyTree, given: tuple[Batch, PyTree], key):
        batch, rest = given
        return loss(combine(trained, rest), batch, key)

    return of_parts


def make(config: TrainConfig, film: FilmConfig) -> Callable[[TrainState, tuple[Batch, PyTree]], tuple[TrainState, dict[str, Any]]]:
    """(state, (batch, rest)) → (state, metrics). Its randomness depends on the seed and the step's number alone."""
    loss, tx = on_parts(config, film), run.optimizer(config)

    def step(state: TrainState, given: tuple[Batch, PyTree]) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.key(config.seed)  # made here: nothing outside needs a device
        return make_step(loss, tx, key=key, ema_decay=0.995)(state, given)

    return step
