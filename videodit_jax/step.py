"""The training step of a run and what goes into it, as shapes on a mesh: `train` runs it, `plan` compiles it for a slice elsewhere."""
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from core_jax.attention import attention
from core_jax.sharding import RULES, Rules, batch_sharding, placed, shardings
from core_jax.state import TrainState, make_step
from videodit_jax.config import TrainConfig
from videodit_jax.objective import loss_fn
from videodit_jax.run import abstract_state


def make(config: TrainConfig) -> Callable[[TrainState, dict[str, Any]], tuple[TrainState, dict]]:
    """(state, batch) → (state, metrics). Its randomness depends on the seed and the step's number alone."""
    own = config.optimizer
    return make_step(loss_fn(config), own.build(config.steps), seed=config.seed, ema_decay=own.ema, accumulate=own.accumulate)


def refuse_misfit(config: TrainConfig, on: Mesh) -> None:
    """Raises ValueError where the mesh does not divide a microbatch, the tokens, the heads or a parameter."""
    microbatch, tokens = config.batch // config.optimizer.accumulate, int(np.prod(config.model.grid(config.clip)))
    q = jax.ShapeDtypeStruct((microbatch, tokens, config.model.heads, config.model.width // config.model.heads), config.dtype.jax)
    RULES.spec("B S K D", q.shape, on)
    shardings(abstract_state(config), on)
    with jax.set_mesh(on):
        jax.eval_shape(functools.partial(attention, context=config.model.context), q, q, q)


def inputs(config: TrainConfig, on: Mesh, rules: Rules = RULES) -> tuple[TrainState, dict[str, Any]]:
    """The step's arguments as `jax.ShapeDtypeStruct`s that say where they lie."""

    def rows(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.batch, *shape), dtype, sharding=batch_sharding(on))

    state = abstract_state(config)
    batch = {
        "video": rows(config.stored.shape, config.stored.dtype),
        "text": {name: rows(np.shape(x), np.asarray(x).dtype) for name, x in config.model.text.tokenize("").items()},
        "scores": rows((len(config.model.scores),), jnp.float32),
    }
    return placed(state, shardings(state, on, rules)), batch
