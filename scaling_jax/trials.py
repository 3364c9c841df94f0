"""Many trainings of one model size in one program: learning rates, batch sizes and seeds lie along a trial dim that the mesh cuts.

All trials read one stream of clips, a window of K·b at a time. A trial of batch k·b (k divides K) makes K/k steps of k microbatches
in it (before a budget a window may count in part, of all trials alike): microbatch i of step s holds rows s·k·b + j·k + i,
j = 0 … b − 1, as `core_jax.state.make_step` cuts a batch. So each trial sees the clips, the noise and the updates of `videodit_jax.train`
at --batch k·b, --optimizer.accumulate k and its learning rate.

The noise of the gradient (McCandlish et al. 2018, arXiv 1812.06162, appendix A): with g of b clips and G of k·b,
  |𝒢|² ≈ (k|G|² − |g|²)/(k − 1)      S ≈ (|g|² − |G|²)/(1/b − 1/(k·b))      B_noise = S/|𝒢|²  clips
"""
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt

from core_jax import state as training
from core_jax.compiler import jit
from core_jax.mesh import AXES, platform
from core_jax.state import TrainState
from videodit_jax.config import TrainConfig
from videodit_jax.evaluate.loss import loss_at_times
from videodit_jax.objective import loss_fn
from videodit_jax.run import make_model

ALONG = PartitionSpec(AXES)
"""trials over all devices"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trials:
    """What sets the trials apart."""

    lr: Float[Array, "trials"]
    k: Int[Array, "trials"]
    """microbatches a step"""
    seed: UInt[Array, "trials"]
    source: Int[Array, "trials"]
    """which of the window's streams of clips: one a seed"""
    alive: Bool[Array, "trials"]
    """a trial that is not keeps its state; where trials are made one after another it takes no time"""


def config_of(config: TrainConfig, trials: Trials) -> TrainConfig:
    """The settings of one trial, whose learning rate may be traced."""
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, learning_rate=trials.lr))


def init(config: TrainConfig, trials: Trials, on: Mesh) -> TrainState:
    """The untrained states, stacked over trials and made in place along the mesh."""

    def one(seed: int) -> TrainState:
        return training.init(lambda: make_model(dataclasses.replace(config, seed=seed)), config.optimizer.build(config.steps))

    def stacked() -> TrainState:
        made = {int(seed): one(int(seed)) for seed in np.unique(trials.seed)}
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(made[int(seed)] for seed in trials.seed))

    return jit(stacked, out_shardings=NamedSharding(on, ALONG))()


def no_sums(trials: Trials, on: Mesh) -> dict[str, Array]:
    """What the sums of `advance` begin with: zeros, made in place along the mesh."""
    kinds = {"micro": jnp.float32, "whole": jnp.float32, "steps": jnp.int32}
    zeros = lambda: {name: jnp.zeros(len(trials.lr), kind) for name, kind in kinds.items()}
    return jax.jit(zeros, out_shardings=NamedSharding(on, ALONG))()


def _map(function: Callable, on: Mesh) -> Callable:
    """function(state, trial, *shared) for all trials: each device takes its share, at once, or one after another on a CPU, where
    the products of a small model gain nothing from being made side by side."""

    def here(states, trials, *shared):
        if platform() == "cpu":
            return jax.lax.map(lambda both: function(*both, *shared), (states, trials))
        return jax.vmap(lambda state, trial: function(state, trial, *shared))(states, trials)

    def everywhere(states, trials, *shared):
        specs = ALONG, ALONG, *(PartitionSpec() for _ in shared)
        return jax.shard_map(here, mesh=on, in_specs=specs, out_specs=ALONG, check_vma=False)(states, trials, *shared)

    return everywhere


def advance(config: TrainConfig, on: Mesh) -> Callable[[TrainState, Trials, PyTree, Int[Array, ""]], tuple[TrainState, dict[str, Array]]]:
    """(states, trials, window, count) → (states, sums over the window), compiled once for all trials of a size.

    Args:
      config: its batch is b.

    The window is a batch as `train` makes it, (streams, K·b, …), of which the first `count` microbatches are read, a multiple of every
    trial's k. Of each trial the sums are: micro and whole, |g|² of microbatches and |G|² of steps; and steps.
    """
    b, grad_fn = config.batch, jax.value_and_grad(loss_fn(config), has_aux=True)

    def one(state: TrainState, trial: Trials, window: PyTree, count: Int[Array, ""]):
        stream, k = jax.tree.map(lambda x: x[trial.source], window), trial.k
        tx = config_of(config, trial).optimizer.build(config.steps)
        key = jax.random.key(trial.seed)

        def finish(carry):
            state, total, sums = carry
            (loss, metrics), grads = jax.tree.map(lambda x: x / k, total)
            state, said = training.update(state, loss, metrics, grads, tx, config.optimizer.ema)
            sums = sums | {"whole": sums["whole"] + said["grad_norm"] ** 2, "steps": sums["steps"] + 1}
            return state, jax.tree.map(jnp.zeros_like, total), sums

        def micro(t, carry):
            state, total, sums = carry
            i = t % k
            batch = jax.tree.map(lambda x: x[t // k * k * b + jnp.arange(b) * k + i], stream)
            at = jax.random.fold_in(key, state.step)
            found = grad_fn(state.model, batch, jnp.where(k == 1, at, jax.random.fold_in(at, i)))
            sums = sums | {"micro": sums["micro"] + optax.tree.norm(found[1]) ** 2}
            carry = state, jax.tree.map(jnp.add, total, found), sums
            return jax.lax.cond(i == k - 1, finish, lambda carry: carry, carry)

        total = (jnp.zeros(()), {}), jax.tree.map(jnp.zeros_like, state.model)
        sums = {"micro": jnp.zeros(()), "whole": jnp.zeros(()), "steps": jnp.zeros((), jnp.int32)}
        train = lambda state: jax.lax.fori_loop(0, count, micro, (state, total, sums))
        state, _, sums = jax.lax.cond(trial.alive, train, lambda state: (state, total, sums), state)
        return state, sums

    return jit(_map(one, on), donate_argnums=0)


def evaluate(config: TrainConfig, on: Mesh) -> Callable[[TrainState, Trials, PyTree, Array], Float[Array, "trials times"]]:
    """(states, trials, batch, key) → held-out losses of the averaged models, summed over a batch, at each time of the flow.

    The batch is as a run reads it, but that its scores, whose places go by the training clips, lie along streams, as `Trials.source` counts them.
    """
    measure = loss_at_times(config)
    own = lambda batch, trial: batch | {"scores": batch["scores"][trial.source]}
    return jit(_map(lambda state, trial, batch, key: measure(state.ema, own(batch, trial), key), on))


def noise_scale(micro: np.ndarray, whole: np.ndarray, k: np.ndarray, b: int) -> np.ndarray:
    """B_noise in clips from the mean |g|² and |G|²; NaN at k = 1, which has one size of batch only."""
    k = np.where(k > 1, k, np.nan)
    with np.errstate(all="ignore"):  # a trial that diverged has none
        return (micro - whole) / (1 / b - 1 / (k * b)) / ((k * whole - micro) / (k - 1))


def cut(stack: PyTree, count: int, on: Mesh) -> PyTree:
    """The first `count` trials of a stack, which on any number of devices `fill` fills up again; what devices cannot share lies on each."""
    if rows(count, on) == count:
        return stack
    return jax.jit(lambda stack: jax.tree.map(lambda x: x[:count], stack), out_shardings=NamedSharding(on, PartitionSpec()))(stack)


def fill(stack: PyTree, on: Mesh) -> PyTree:
    """A stack whose last trial is repeated up to a multiple of the devices, along the mesh."""
    filled = lambda x: x[np.minimum(np.arange(rows(len(x), on)), len(x) - 1)]
    return jax.jit(lambda stack: jax.tree.map(filled, stack), out_shardings=NamedSharding(on, ALONG))(stack)


def rows(count: int, on: Mesh) -> int:
    """Trials in all when they are filled up to a multiple of the devices."""
    return -(-count // on.size) * on.size
