"""What training minimises: the flow's loss, with captions and scores dropped at random."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from core_jax.sharding import constrain
from videodit_jax import flow
from videodit_jax.config import TrainConfig
from videodit_jax.given import apart, channels, counts, draw
from videodit_jax.model import VideoDiT


def to_float(clips: UInt8[Array, "*dims"] | Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """Pixels in [−1, 1], or latents as they are, or pixels that are so already, fp32."""
    x = clips.astype(jnp.float32)
    return x / 127.5 - 1 if clips.dtype == jnp.uint8 else x


def to_uint8(video: Float[Array, "B T H W 3"]) -> UInt8[Array, "B T H W 3"]:
    """The inverse of `to_float`, clipped."""
    return jnp.clip(jnp.round((video + 1) * 127.5), 0, 255).astype(jnp.uint8)


def drop_conditions(config: TrainConfig, batch: dict[str, Any], key: PRNGKeyArray) -> tuple[dict[str, Array], Array]:
    """(text tokens, scores) with captions and scores dropped at random, which is what guidance learns from.

    One draw for both: half of the clips without caption have no scores either. Guidance leads away from such clips; drawn apart they were one in a
    hundred.
    """
    lengths, scores = batch["text"]["length"], batch["scores"]
    both_key, each_key = jax.random.split(key)
    drawn = jax.random.uniform(both_key, lengths.shape)
    keep_text = drawn >= config.caption_dropout
    keep_all = ((drawn - config.caption_dropout / 2) % 1 >= config.score_dropout)[:, None]
    keep_each = jax.random.bernoulli(each_key, 1 - config.score_dropout, scores.shape)
    return {**batch["text"], "length": lengths * keep_text}, jnp.where(keep_all & keep_each, scores, jnp.nan)


def loss_fn(config: TrainConfig) -> Callable:
    """(model, batch, key) → (mean loss, no further metrics), as `core_jax.state.make_step` wants it."""

    def loss(model: VideoDiT, batch: dict[str, Any], key: PRNGKeyArray):
        cut, grid = config.model.cut, config.model.grid(batch["video"].shape[1:4])
        video, known = apart(config.model, batch["video"])
        x0 = to_float(jax.lax.optimization_barrier(cut(video)))  # cut as bytes, before they are four times as many
        time_key, noise_key, drop_key = jax.random.split(key, 3)
        given = counted = None
        if config.model.given:
            part = config.given_part if video.shape[1] > 1 or config.model.gray else 0.0  # of one frame, which would be all, none is given
            first = draw(jax.random.fold_in(key, 3), len(video), 1 if config.model.gray else video.shape[1], part)
            given = cut(channels(to_float(known), first, config.model.gray))
            counted = counts(config.model, given)
        t = flow.draw_times(config.flow.of_tokens(x0.shape[1] / config.tokens), time_key, x0.shape[0])
        eps = constrain(jax.random.normal(noise_key, x0.shape), "B S P")
        tokens, scores = drop_conditions(config, batch, drop_key)
        out = model.denoise(flow.mix(x0, eps, t).astype(config.dtype.jax), grid, t, model.text(tokens), scores, given, batch.get("picture"))
        return flow.losses(config.flow, out, x0, eps, counted).mean(), {}

    return loss
