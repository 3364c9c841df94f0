"""What the three stages minimise: (7), (8), and (8) with next-token prediction of the dynamics."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from owl_jax import history
from owl_jax.model import Owl
from owl_jax.sequence import Batch
from owl_jax.state import alignment
from owl_jax.stages import Stage, TrainConfig
from videodit_jax import flow, given
from videodit_jax.config import TrainConfig as FilmConfig
from videodit_jax.objective import to_float

Loss = Callable[[Owl, Batch, PRNGKeyArray], tuple[Float[Array, ""], dict[str, Array]]]


def mean(batch: Batch, values: Float[Array, "B n"]) -> Float[Array, ""]:
    """Over the clips of the films that count."""
    return jnp.average(values.mean(1), weights=batch.weight)


def align(config: TrainConfig, owl: Owl, batch: Batch, states: Float[Array, "B n Q C"]) -> Float[Array, ""]:
    """(7): states against the film model's own text features, which stay as they are."""
    B, n = states.shape[:2]
    flat = jax.tree.map(lambda x: x.reshape(B * n, *x.shape[2:]), batch.caption)
    text, lengths = jax.lax.stop_gradient(owl.film.text(flat))
    return mean(batch, alignment(config.owl.align, states.reshape(B * n, *states.shape[2:]), text, lengths).reshape(B, n))


def film(config: TrainConfig, film: FilmConfig, owl: Owl, batch: Batch, states: Float[Array, "B n Q C"], key: PRNGKeyArray) -> Float[Array, ""]:
    """(8), for `config.filmed` clips of each film, drawn anew each step; some states, scores and first frames are dropped."""
    pick_key, time_key, noise_key, state_key, score_key, image_key = jax.random.split(key, 6)
    B, n = states.shape[:2]
    m = min(config.filmed, n)
    chosen = jnp.argsort(jax.random.uniform(pick_key, (B, n)), axis=1)[:, :m]
    pick = lambda x: jnp.take_along_axis(x, chosen.reshape(B, m, *[1] * (x.ndim - 2)), axis=1).reshape(B * m, *x.shape[2:])
    x0, state, joined, scores = to_float(pick(batch.video)), pick(states), pick(batch.joined), pick(batch.scores)
    drop = lambda key, part: jax.random.bernoulli(key, part, (B * m,))
    state = jnp.where(drop(state_key, config.state_dropout)[:, None, None], owl.nothing(B * m).astype(state.dtype), state)
    scores = jnp.where(drop(score_key, 0.5)[:, None], jnp.nan, scores)
    first = film.model.cut(given.channels(x0, (joined & ~drop(image_key, config.image_dropout)).astype(jnp.int32)))
    grid, x0 = film.model.grid(x0.shape[1:4]), film.model.cut(x0)
    t = flow.draw_times(film.flow, time_key, B * m)
    eps = jax.random.normal(noise_key, x0.shape)
    out = owl.film.denoise(flow.mix(x0, eps, t).astype(film.dtype.jax), grid, t, owl.context(state), scores, first)
    return mean(batch, flow.losses(film.flow, out, x0, eps, given.counts(film.model, first)).reshape(B, m))


def tell(owl: Owl, batch: Batch, outputs: Float[Array, "B S E"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy of the dynamics' tokens, and the share of them that would be chosen."""
    counts, before = batch.learned > 0, jnp.maximum(batch.learned - 1, 0)
    counts = counts if batch.weight is None else counts * batch.weight[:, None]
    logits = owl.lmm.decoder.logits(jnp.take_along_axis(outputs, before[..., None], axis=1))
    target = jnp.take_along_axis(batch.inputs.tokens, batch.learned, axis=1)
    over = lambda values: (values * counts).sum() / jnp.maximum(counts.sum(), 1)
    return over(optax.softmax_cross_entropy_with_integer_labels(logits, target)), over(logits.argmax(-1) == target)


def loss_fn(config: TrainConfig, film_config: FilmConfig) -> Loss:
    """The stage's loss, as `core_jax.state.make_step` wants it."""

    def loss(owl: Owl, batch: Batch, key: PRNGKeyArray):
        key, own_key, noise_key = jax.random.split(key, 3)
        if config.stage is Stage.WORLD and config.own_history and config.clips > 1:
            batch = history.own(config, film_config, owl, batch, own_key)
        if config.stage is Stage.WORLD and config.history_noise:
            batch = history.noisy(batch, config.history_noise, noise_key)
        outputs = owl.read(batch.inputs, batch.states, film_config.dtype.jax, config.remat)
        states = owl.states(outputs, batch.states)
        if config.stage is Stage.ALIGN:
            return align(config, owl, batch, states), {}
        total = filmed = film(config, film_config, owl, batch, states, key)
        parts = {"film": filmed}
        if config.align_weight:
            parts["align"] = align(config, owl, batch, states)
            total = total + config.align_weight * parts["align"]
        if config.stage is Stage.WORLD:
            parts["text"], parts["right tokens"] = tell(owl, batch, outputs)
            total = total + config.text_weight * parts["text"]
        return total, parts

    return loss
