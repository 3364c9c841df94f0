"""What is minimised in training and measured on held-out clips."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from videodit_jax import flow
from videodit_jax.config import TrainConfig
from videodit_jax.model import VideoDiT

EVAL_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""fixed times of the held-out loss, so that two evaluations can be compared"""


def to_float(video: UInt8[Array, "B T H W 3"]) -> Float[Array, "B T H W 3"]:
    """Pixels in [−1, 1], fp32."""
    return video.astype(jnp.float32) / 127.5 - 1


def to_uint8(video: Float[Array, "B T H W 3"]) -> UInt8[Array, "B T H W 3"]:
    """The inverse of `to_float`, clipped."""
    return jnp.clip(jnp.round((video + 1) * 127.5), 0, 255).astype(jnp.uint8)


def drop_conditions(config: TrainConfig, batch: dict[str, Any], key: PRNGKeyArray) -> tuple[dict[str, Array], Array]:
    """(text tokens, scores) with captions and scores dropped at random, which is what guidance learns from."""
    lengths, scores = batch["text"]["length"], batch["scores"]
    text_key, all_key, each_key = jax.random.split(key, 3)
    keep_text = jax.random.bernoulli(text_key, 1 - config.caption_dropout, lengths.shape)
    keep_all = jax.random.bernoulli(all_key, 1 - config.score_dropout, lengths.shape)[:, None]
    keep_each = jax.random.bernoulli(each_key, 1 - config.score_dropout, scores.shape)
    return {**batch["text"], "length": lengths * keep_text}, jnp.where(keep_all & keep_each, scores, jnp.nan)


def loss_fn(config: TrainConfig) -> Callable:
    """(model, batch, key) → (mean loss, no further metrics), as `core_jax.state.make_step` wants it."""

    def loss(model: VideoDiT, batch: dict[str, Any], key: PRNGKeyArray):
        x0 = to_float(batch["video"])
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        t = flow.draw_times(config.flow, time_key, x0.shape[0])
        eps = jax.random.normal(noise_key, x0.shape)
        tokens, scores = drop_conditions(config, batch, drop_key)
        out = model(flow.mix(x0, eps, t).astype(config.dtype.jax), t, tokens, scores)
        return flow.losses(config.flow, out, x0, eps).mean(), {}

    return loss


def eval_noise(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "B T H W C"]:
    """The noise of a held-out batch: the same in every evaluation of a run."""
    return jax.random.normal(key, shape)


def eval_fn(config: TrainConfig) -> Callable:
    """(model, batch, key) → summed loss and weight at each of EVAL_TIMES, with all conditions given."""

    def evaluate(model: VideoDiT, batch: dict[str, Any], key: PRNGKeyArray) -> tuple[Float[Array, "times"], Float[Array, ""]]:
        x0 = to_float(batch["video"])
        eps = eval_noise(key, x0.shape)

        def at(time):
            t = jnp.full((x0.shape[0],), time)
            out = model(flow.mix(x0, eps, t).astype(config.dtype.jax), t, batch["text"], batch["scores"])
            return (flow.losses(config.flow, out, x0, eps) * batch["weight"]).sum()

        return jax.lax.map(at, jnp.asarray(EVAL_TIMES)), batch["weight"].sum()

    return evaluate


def baselines(
    config: TrainConfig, train: UInt8[np.ndarray, "n T H W 3"], held_out: UInt8[np.ndarray, "m T H W 3"], seed: int
) -> dict[str, np.ndarray]:
    """Held-out losses at EVAL_TIMES of two predictors fitted on training clips.

    Returns:
      "constant": the best single colour, whatever the input; "linear": the least-squares linear map (with offset) from a noisy
      patch to its target, the patch being one token of the model.
    """
    from core_jax.layers import patchify

    rng = np.random.default_rng(seed)

    def pairs(video, t):
        x0 = np.asarray(video, np.float32) / 127.5 - 1
        eps = rng.standard_normal(x0.shape, np.float32)
        target = flow.TARGET_OF[config.flow.target](x0, eps)
        return [np.asarray(patchify(y, config.model.patch)).reshape(-1, np.prod(config.model.patch) * 3) for y in ((1 - t) * x0 + t * eps, target)]

    result = {"constant": [], "linear": []}
    for t in EVAL_TIMES:
        (x, y), (x_new, y_new) = pairs(train, t), pairs(held_out, t)
        colour = y.reshape(len(y), 3, -1).mean((0, 2))
        result["constant"].append(((y_new.reshape(len(y_new), 3, -1) - colour[None, :, None]) ** 2).mean())
        one = np.ones((len(x), 1), np.float32)
        weights, *_ = np.linalg.lstsq(np.concatenate([x, one], 1), y, rcond=None)
        result["linear"].append(((np.concatenate([x_new, one[: len(x_new)]], 1) @ weights - y_new) ** 2).mean())
    return {name: np.asarray(values) for name, values in result.items()}
