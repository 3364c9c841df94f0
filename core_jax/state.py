"""What training carries from step to step, and the one update that every trainer makes."""
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from core_jax.compiler import jit, options
from core_jax.sharding import shardings


@struct.dataclass
class TrainState:
    """One frozen pytree, saved and restored whole."""

    step: Int[Array, ""]
    """updates tried so far, skipped ones among them"""
    skipped: Int[Array, ""]
    """updates skipped in all because the loss or a gradient was not finite"""
    skipped_in_row: Int[Array, ""]
    """of those, how many lie directly behind"""
    model: PyTree
    opt_state: PyTree
    ema: PyTree
    """running average of the model's parameters, which sampling uses"""


def adamw(peak: float, steps: int) -> optax.GradientTransformation:
    """For fine-tuning: the rate climbs to its peak over a twentieth of the steps, then falls by a cosine to a hundredth of it."""
    warm = max(1, steps // 20)
    return optax.adamw(optax.warmup_cosine_decay_schedule(0.0, peak, warm, max(steps, warm + 1), peak / 100), b2=0.98, weight_decay=0.01)


def init(make_model: Callable[[], PyTree], tx: optax.GradientTransformation) -> TrainState:
    """A new state; under `jax.eval_shape` its shapes."""
    strong = lambda x: x.astype(x.dtype)  # jnp.full(n, 0.5) is weak, a checkpoint's array is not, and a step of both would be compiled twice
    model, zero = jax.tree.map(strong, make_model()), jnp.zeros((), jnp.int32)
    return TrainState(zero, zero, zero, model, tx.init(model), jax.tree.map(jnp.copy, model))


def create(make_model: Callable[[], PyTree], tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """As `init`, made in place on the mesh: no device ever holds more than its share."""
    make = functools.partial(init, make_model, tx)
    return jit(make, out_shardings=shardings(jax.eval_shape(make), mesh))()


def begin(model: PyTree, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """As `create`, from a model that lies on the mesh: of copies, for a step gives its state's memory away."""
    make = lambda model: init(lambda: jax.tree.map(jnp.copy, model), tx)
    return jit(make, out_shardings=shardings(jax.eval_shape(make, model), mesh))(model)


def update(
    state: TrainState, loss: Float[Array, ""], metrics: dict[str, Array], grads: PyTree, tx: optax.GradientTransformation, ema_decay: float
) -> tuple[TrainState, dict[str, Array]]:
    """The state after one gradient: optimizer and running average, or nothing if a number is not finite; see `make_step`."""
    grad_norm = optax.tree.norm(grads)
    ok = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    def move(state: TrainState) -> TrainState:
        updates, opt_state = tx.update(grads, state.opt_state, state.model)
        model = optax.apply_updates(state.model, updates)
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema = jax.tree.map(lambda average, new: average + (1 - decay) * (new - average), state.ema, model)
        return state.replace(model=model, opt_state=opt_state, ema=ema, skipped_in_row=jnp.zeros_like(state.skipped_in_row))

    def skip(state: TrainState) -> TrainState:
        return state.replace(skipped=state.skipped + 1, skipped_in_row=state.skipped_in_row + 1)

    state = jax.lax.cond(ok, move, skip, state)
    state = state.replace(step=state.step + 1)
    extra = {"skipped": state.skipped, "skipped_in_row": state.skipped_in_row}
    return state, {"loss": loss, "grad_norm": grad_norm, **metrics, **extra}


LossFn = Callable[..., tuple[Float[Array, ""], dict[str, Array]]]


def make_step(
    loss_fn: LossFn, tx: optax.GradientTransformation, *, seed: int, ema_decay: float, accumulate: int = 1
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """The update: gradient (over `accumulate` microbatches), optimizer, running average, or nothing if a number is not finite.

    Args:
      loss_fn: (model, batch, key, *rest) → (mean loss, further mean metrics).
      tx: its updates are added to the model.
      seed: the step's randomness is fold_in(key(seed), step), so a resumed run draws what it would have drawn.
      ema_decay: 0.999 remembers about 1,000 steps; early on it remembers a tenth of the steps made.
      accumulate: divides the batch.

    Returns:
      (state, batch, *rest) → (state, metrics), the metrics being loss, grad_norm (L2, before clipping), skipped and skipped_in_row. `rest` is what else
      the loss needs, no part of the batch: weights that stay.
    """
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)

    def gradient(model, batch, key, *rest):
        if accumulate == 1:
            return grad_fn(model, batch, key, *rest)
        cut = jax.tree.map(lambda x: x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total, piece):
            i, microbatch = piece
            return jax.tree.map(jnp.add, total, grad_fn(model, microbatch, jax.random.fold_in(key, i), *rest)), None

        first = jax.eval_shape(grad_fn, model, jax.tree.map(lambda x: x[0], cut), key, *rest)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)
        total, _ = jax.lax.scan(add, zeros, (jnp.arange(accumulate), cut))
        return jax.tree.map(lambda x: x / accumulate, total)

    def step(state: TrainState, batch: PyTree, *rest: PyTree) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)  # made here: nothing outside needs a device
        (loss, metrics), grads = gradient(state.model, batch, key, *rest)
        return update(state, loss, metrics, grads, tx, ema_decay)

    return step


def compile_step(step: Callable, state: TrainState) -> Callable:
    """Jits a step for the mesh on which the state lies: the state is donated and comes back where it lay.

    What is given and not used counts in the program's memory too, as it does on the devices.
    """
    where = jax.tree.map(lambda x: x.sharding, state)
    (device, *_) = jax.tree.leaves(where)[0].device_set
    return jax.jit(step, donate_argnums=0, out_shardings=(where, None), keep_unused=True, compiler_options=options(device))


def telling(step: Callable, compiles: Callable[[], None]) -> Callable:
    """`step`, before which `compiles` is called where jax is about to compile it for another shape of batch: that is no part of a step's time. The
    first shape is every run's beginning."""
    seen = set()

    def advance(state: TrainState, batch: PyTree, *rest: PyTree) -> tuple[TrainState, dict[str, Array]]:
        shapes = tuple(x.shape for x in jax.tree.leaves(batch))
        if seen and shapes not in seen:
            compiles()
        seen.add(shapes)
        return step(state, batch, *rest)

    return advance
