"""The training step of a stage: `train` runs it, `plan` compiles it for a slice elsewhere."""
from collections.abc import Callable
from typing import Any

from jaxtyping import PRNGKeyArray, PyTree

from core_jax.lmm.config import LMMConfig
from core_jax.lmm.flops import Flops, decoder_flops, vision_flops
from core_jax.lora import combine
from core_jax.state import LossFn, TrainState, make_step
from owl_jax import run
from owl_jax.objective import loss_fn
from owl_jax.sequence import Batch
from owl_jax.stages import Stage, TrainConfig, Tuning
from videodit_jax.config import TrainConfig as FilmConfig
from videodit_jax.model import forward_flops


def on_parts(config: TrainConfig, film: FilmConfig) -> LossFn:
    """The stage's loss of what learns, beside the rest of the model."""
    loss = loss_fn(config, film)

    def of_parts(trained: PyTree, batch: Batch, key: PRNGKeyArray, rest: PyTree):
        return loss(combine(trained, rest), batch, key)

    return of_parts


def make(config: TrainConfig, film: FilmConfig) -> Callable[[TrainState, Batch, PyTree], tuple[TrainState, dict[str, Any]]]:
    """(state, batch, rest) → (state, metrics). Its randomness depends on the seed and the step's number alone."""
    return make_step(on_parts(config, film), run.optimizer(config), seed=config.seed, ema_decay=0.995)


def flops(config: TrainConfig, film: FilmConfig, lmm: LMMConfig, given: Batch) -> dict[str, float]:
    """Model FLOPs of a step over all devices, and what is executed; connector, queries and LoRA's products, under a hundredth, are left out.

    Weights that stay take no gradient, but what stands before them does: backward is as much as forward, not twice as much. Before a
    frozen tower nothing learns. Attention's backward pass computes the scores again.
    """
    S, frozen = given.inputs.tokens.shape[1], config.tuning is Tuning.LORA
    told = given.learned.shape[1] if config.stage is Stage.WORLD else 0
    decoder, vision = decoder_flops(lmm.decoder, S, logits=told), Flops(0.0, 0.0)
    if lmm.tower:  # codes come from the host
        vision = vision_flops(lmm.tower, lmm.decoder.width, given.inputs.tiles.shape[1])
    towers = 1 if frozen else 3
    language = (2 if frozen else 3) * decoder.products + 3 * decoder.attention + towers * vision.forward
    again = decoder.attention / 2 + decoder.again(config.remat) + (0 if frozen else vision.attention / 2 + vision.again(config.remat))
    one, filmed = forward_flops(film.model, film.video), 0 if config.stage is Stage.ALIGN else min(config.filmed, config.clips)
    counts = {
        "total": language + filmed * one.train,
        "attention": 3 * decoder.attention + towers * vision.attention + filmed * 3 * one.attention,
        "executed": language + again + filmed * one.executed(film.model.remat),
    }
    return {name: config.batch * count for name, count in counts.items()}
