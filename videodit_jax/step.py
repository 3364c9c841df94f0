"""The training step of a run and what goes into it, as shapes on a mesh: `train` runs it, `plan` compiles it for a slice elsewhere."""
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from core_jax.attention import attention
from core_jax.lora import combine
from core_jax.sharding import RULES, Rules, batch_sharding, placed, shardings
from core_jax.state import TrainState, make_step, telling
from videodit_jax.config import TrainConfig, named
from videodit_jax.model import forward_flops
from videodit_jax.objective import loss_fn
from videodit_jax.run import abstract_parts, abstract_state


def make(config: TrainConfig) -> Callable[..., tuple[TrainState, dict]]:
    """(state, batch, rest) → (state, metrics); `rest` is what stays beside what learns (`run.parts`), which where all learns may be left out.
    Its randomness depends on the seed and the step's number alone."""
    own, loss = config.optimizer, loss_fn(config)

    def of_parts(trained: PyTree, batch: dict[str, Any], key: PRNGKeyArray, rest: PyTree = None):
        return loss(combine(trained, rest), batch, key)

    return make_step(of_parts, own.build(config.steps), seed=config.seed, ema_decay=own.ema, accumulate=own.accumulate)


def of_shapes(config: TrainConfig, update: Callable, rest: PyTree, compiles: Callable[[], None]) -> Callable[..., tuple[TrainState, dict]]:
    """(state, batch) → (state, metrics): `update` with `rest`, which jax compiles once for each shape of clips. Of several shapes the metrics tell the
    batch's as `bucket`, its place among them, and `compiles` is called before one is compiled that is not the first: that is no part of a step's time."""
    if not config.buckets:
        return lambda state, batch: update(state, batch, rest)
    places, update = {config.at(shape).clip: k for k, shape in enumerate(config.shapes)}, telling(update, compiles)

    def advance(state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, dict]:
        state, metrics = update(state, batch, rest)
        return state, metrics | {"bucket": places[batch["video"].shape[1:4]]}

    return advance


def flops(config: TrainConfig) -> Callable[[dict], float]:
    """Model FLOPs of one clip of a step, forward and backward, by the step's metrics."""
    each = [forward_flops(config.model, config.at(shape).clip, config.lora.rank > 0).train for shape in config.shapes]
    return lambda metrics: each[int(metrics.get("bucket", 0))]


def refuse_misfit(config: TrainConfig, on: Mesh) -> None:
    """Raises ValueError where the mesh does not divide a microbatch, the tokens of a shape of clips, the heads or a parameter."""
    for shape in config.shapes:
        microbatch, tokens = config.batch // config.optimizer.accumulate, config.at(shape).tokens
        q = jax.ShapeDtypeStruct((microbatch, tokens, config.model.heads, config.model.width // config.model.heads), config.dtype.jax)
        try:
            RULES.spec("B S K D", q.shape, on)
            with jax.set_mesh(on):
                jax.eval_shape(functools.partial(attention, context=config.model.context), q, q, q)
        except ValueError as error:
            raise error if shape == config.video else ValueError(f"--buckets {named(shape)}: {error}") from error
    shardings((abstract_state(config), abstract_parts(config)), on)


def inputs(config: TrainConfig, on: Mesh, rules: Rules = RULES) -> tuple[TrainState, dict[str, Any], PyTree]:
    """The step's arguments as `jax.ShapeDtypeStruct`s that say where they lie."""

    def rows(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.batch, *shape), dtype, sharding=batch_sharding(on))

    state, (_, rest) = abstract_state(config), abstract_parts(config)
    batch = {
        "video": rows(config.stored.shape, config.stored.dtype),
        "text": {name: rows(np.shape(x), np.asarray(x).dtype) for name, x in config.model.text.tokenize("").items()},
        "scores": rows((len(config.model.scores),), jnp.float32),
    } | ({"picture": rows(config.model.picture, jnp.float16)} if any(config.model.picture) else {})
    return placed(state, shardings(state, on, rules)), batch, placed(rest, shardings(rest, on, rules))
