"""The Video DiT against its PyTorch twin on the same weights and inputs: how far apart outputs, gradients and losses lie."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Float, PyTree

from core_jax.layers import rotary_angles
from core_jax.rngs import Rngs
from core_jax.state import init, make_step
from core_jax.weights import named, renamed
from videodit_jax import flow
from videodit_jax.config import Dtype, OptimizerConfig, TrainConfig
from videodit_jax.model import Block, ModelConfig, VideoDiT
from videodit_jax.text import TextConfig
from videodit_jax.torch_step import Drawn, TorchStep
from videodit_jax.torch_twin import TorchBlock, TorchDiT, rotary_table, twin_weights

MODEL = ModelConfig(
    width=64, layers=3, heads=4, mlp=160, patch=(2, 4, 4), absolute=True, wiener=True, frequencies=32,
    text=TextConfig(words=6, width=24),
)
VIDEO = (4, 8, 12)
BATCH = 5
STEPS = 20


@dataclasses.dataclass(frozen=True)
class Difference:
    """One row of the table: the largest differences, each divided by the largest value of its array."""

    name: str
    outputs: float | None = None
    gradients: float | None = None
    """the worst of all parameters"""
    losses: float | None = None
    """the worst of all steps, divided by the loss itself"""
    weights: float | None = None
    """the worst of all averaged (EMA) parameters after the last step"""


def random_weights(shapes: PyTree, seed: int = 0, size: float = 0.1) -> PyTree:
    """A model of these shapes (`jax.eval_shape`) in which no gate, bias or last layer is zero: 1 + noise for a norm's scale, else noise."""
    rng = np.random.default_rng(seed)
    draw = lambda name, shape: name.endswith("scale") + size * rng.standard_normal(shape, np.float32)
    return renamed(shapes, {name: jnp.asarray(draw(name, leaf.shape), jnp.float32) for name, leaf in named(shapes).items()})


def random_model() -> VideoDiT:
    return random_weights(jax.eval_shape(lambda: VideoDiT(MODEL, rngs=Rngs(0))))


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over largest value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _pull(function, pull: np.ndarray, *args: PyTree) -> tuple[Array, tuple[PyTree, ...]]:
    """The output, and the gradients of its product with `pull`."""

    def both(*args):
        out, pullback = jax.vjp(function, *args)
        return out, pullback(jnp.asarray(pull))

    return jax.jit(both)(*args)


def _gradients(twin: torch.nn.Module, grads: PyTree) -> float:
    ours = twin_weights(twin, {name: np.asarray(g) for name, g in named(grads).items()})
    return max(relative(ours[name], parameter.grad) for name, parameter in twin.named_parameters())


def twin_of(model: VideoDiT) -> TorchDiT:
    """The twin with our model's weights."""
    twin = TorchDiT(MODEL, VIDEO)
    twin.load_state_dict(twin_weights(twin, named(model)))
    return twin


def inputs(seed: int = 1, steps: int | None = None) -> dict[str, np.ndarray]:
    """Everything that a step takes, all of it drawn here; captions of every length, none among them; scores partly unknown."""
    rng = np.random.default_rng(seed)
    lead = (BATCH,) if steps is None else (steps, BATCH)
    scores = rng.random((*lead, len(MODEL.scores)), np.float32)
    lengths = rng.integers(0, MODEL.text.words + 1, lead).astype(np.int32)
    lengths[..., 0] = 0
    return {
        "x0": rng.standard_normal((*lead, *VIDEO, 3), np.float32),
        "eps": rng.standard_normal((*lead, *VIDEO, 3), np.float32),
        "t": rng.random(lead, np.float32),
        "codes": rng.integers(0, 256, (*lead, MODEL.text.words, 12)).astype(np.int32),
        "lengths": lengths,
        "scores": np.where(rng.random(scores.shape) < 0.3, np.float32(np.nan), scores),
    }


def _tensors(batch: dict[str, np.ndarray]) -> Drawn:
    return Drawn(**{name: torch.from_numpy(array) for name, array in batch.items()})


def compare_block() -> Difference:
    """One block: output, and gradients of every parameter and of all that flows in."""
    block = random_weights(jax.eval_shape(lambda: Block(MODEL, rngs=Rngs(0))))
    twin = TorchBlock(MODEL.width, MODEL.heads, MODEL.mlp)
    twin.load_state_dict(twin_weights(twin, named(block)))
    rng, S, E = np.random.default_rng(2), 12, MODEL.width
    x, text, modulation, pull = (rng.standard_normal((BATCH, n, E), np.float32) for n in (S, MODEL.text.words, 6, S))
    lengths = np.array([0, 1, 3, 6, 5], np.int32)

    angles = rotary_angles((2, 2, 3), E // MODEL.heads)[None, :, None]
    run = lambda block, *flows: block(*flows, jnp.asarray(lengths), (jnp.cos(angles), jnp.sin(angles)))
    out, (grads, *flow_grads) = _pull(run, pull, block, x, modulation, text)

    flows = [torch.from_numpy(y).requires_grad_() for y in (x, modulation, text)]
    theirs = twin(*flows, torch.from_numpy(lengths), rotary_table((2, 2, 3), E // MODEL.heads))
    theirs.backward(torch.from_numpy(pull))
    worst = max(relative(ours, y.grad) for ours, y in zip(flow_grads, flows))
    return Difference("one block", relative(out, theirs.detach()), max(worst, _gradients(twin, grads)))


def predict(model: VideoDiT, batch: dict[str, Array]) -> Float[Array, "B T H W C"]:
    x = flow.mix(batch["x0"], batch["eps"], batch["t"])
    return model(x, batch["t"], {"bytes": batch["codes"], "length": batch["lengths"]}, batch["scores"])


def compare_model() -> Difference:
    """The whole model: prediction, and gradients of every parameter."""
    model, batch = random_model(), inputs()
    twin = twin_of(model)
    pull = np.random.default_rng(3).standard_normal(batch["x0"].shape, np.float32)
    out, (grads,) = _pull(lambda model: predict(model, batch), pull, model)

    drawn = _tensors(batch)
    t = drawn.t[:, None, None, None, None]
    theirs = twin((1 - t) * drawn.x0 + t * drawn.eps, drawn.t, drawn.codes, drawn.lengths, drawn.scores)
    theirs.backward(torch.from_numpy(pull))
    return Difference("the whole model", relative(out, theirs.detach()), _gradients(twin, grads))


def compare_training(target: flow.Target = flow.Target.V) -> Difference:
    """20 updates from the same start with the same noise, times, clips and dropped conditions: losses, and the averaged weights.

    The clip is always reached and weight decay strong, so that neither hides.
    """
    config = TrainConfig(
        steps=STEPS, batch=BATCH, frames=VIDEO[0], size=f"{VIDEO[1]}x{VIDEO[2]}", dtype=Dtype.FLOAT32, model=MODEL,
        flow=flow.FlowConfig(target=target),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=5, weight_decay=1.0, clip=0.5, ema=0.9),
    )

    def loss(model, batch, key):
        return flow.losses(config.flow, predict(model, batch), batch["x0"], batch["eps"]).mean(), {}

    tx = config.optimizer.build(STEPS)
    state = jax.jit(lambda model: init(lambda: model, tx))(random_model())
    peer = TorchStep(config, twin_of(state.model))
    batches = inputs(steps=STEPS)
    step = make_step(loss, tx, seed=0, ema_decay=config.optimizer.ema)
    state, metrics = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches))(state, batches)
    theirs = [peer(_tensors({name: array[i] for name, array in batches.items()})).item() for i in range(STEPS)]
    worst = np.abs(np.asarray(metrics["loss"]) / theirs - 1).max()
    average = twin_weights(peer.average, named(state.ema))
    weights = max(relative(average[name], parameter.detach()) for name, parameter in peer.average.named_parameters())
    return Difference(f"{STEPS} steps of AdamW, target {target.value}", losses=float(worst), weights=weights)
