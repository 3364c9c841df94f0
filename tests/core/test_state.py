"""The one update: skipped when not finite, the same in microbatches, its randomness by the step, made in place on a mesh."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from core_jax import mesh
from core_jax.mesh import MeshConfig
from core_jax.state import TrainState, compile_step, create, init, make_step, telling


class Line(nnx.Module):
    """y = x·w; small, but cut by fsdp and with a non-trivial initial value."""

    def __init__(self):
        self.w = nnx.Param(jax.random.normal(jax.random.key(3), (16, 8)), dims="E C")


def squared(model, batch, key):
    error = batch["x"] @ model.w[...] - batch["y"]
    return (error * error).mean(), {"largest": jnp.abs(error).mean()}


TX = optax.adamw(1e-2)
STEP = make_step(squared, TX, seed=0, ema_decay=0.9)
JITTED = jax.jit(STEP)


def batch(seed: int, examples: int = 8) -> dict:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((examples, 16), np.float32), "y": rng.standard_normal((examples, 8), np.float32)}


def same(a, b) -> bool:
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


def test_what_stays_is_whole_in_every_microbatch():
    beside = lambda w, batch, key, rest: squared(jax.tree.map(jnp.add, w, rest), batch, key)
    model, rest = Line(), jax.tree.map(lambda x: 0.3 * x, Line())
    whole, pieces = (jax.jit(make_step(beside, TX, seed=0, ema_decay=0.9, accumulate=n))(init(lambda: model, TX), batch(0), rest) for n in (1, 4))
    np.testing.assert_allclose(whole[1]["loss"], pieces[1]["loss"], rtol=1e-6)
    np.testing.assert_allclose(whole[0].model.w[...], pieces[0].model.w[...], rtol=1e-6)


@pytest.fixture(scope="module")
def state() -> TrainState:
    return JITTED(init(Line, TX), batch(0))[0]


def test_a_step_is_adam_and_a_running_average(state):
    loss, grads = jax.value_and_grad(lambda model: squared(model, batch(1), None)[0])(state.model)
    updates, opt_state = TX.update(grads, state.opt_state, state.model)
    model = optax.apply_updates(state.model, updates)
    new, metrics = JITTED(state, batch(1))
    np.testing.assert_allclose(new.model.w[...], model.w[...], rtol=1e-5, atol=1e-7)
    decay = (1 + 1) / (10 + 1)
    np.testing.assert_allclose(new.ema.w[...], decay * state.ema.w[...] + (1 - decay) * model.w[...], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], jnp.linalg.norm(grads.w[...]), rtol=1e-5)
    assert set(metrics) == {"loss", "grad_norm", "largest", "skipped", "skipped_in_row"}


def test_a_loss_that_is_not_finite_changes_nothing_but_the_counts(state):
    bad = batch(1)
    bad["x"][3, 5] = np.nan
    skipped, metrics = JITTED(state, bad)
    assert same((skipped.model, skipped.opt_state, skipped.ema), (state.model, state.opt_state, state.ema))
    assert (skipped.step, skipped.skipped, skipped.skipped_in_row) == (state.step + 1, 1, 1)
    assert metrics["skipped_in_row"] == 1
    again, _ = JITTED(skipped, bad)
    good, _ = JITTED(again, batch(2))
    assert (good.skipped, good.skipped_in_row) == (2, 0)
    assert not same(good.model, state.model)


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_skipped_too(state):
    step = make_step(lambda model, batch, key: (jnp.sqrt(0 * model.w[...].sum()), {}), TX, seed=0, ema_decay=0.9)
    skipped, metrics = jax.jit(step)(state, batch(1))
    assert metrics["loss"] == 0 and not jnp.isfinite(metrics["grad_norm"])
    assert skipped.skipped == 1 and same(skipped.model, state.model)


def test_microbatches_give_the_gradient_of_the_whole(state):
    """For a loss without randomness; each microbatch has its own key otherwise."""
    halves = make_step(squared, TX, seed=0, ema_decay=0.9, accumulate=2)
    whole, a = JITTED(state, batch(1))
    cut, b = jax.jit(halves)(state, batch(1))
    np.testing.assert_allclose(cut.model.w[...], whole.model.w[...], rtol=1e-5, atol=1e-6)
    for name in ("loss", "grad_norm", "largest"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5)


def test_randomness_is_the_steps_and_each_microbatchs_own(state):
    def drawn(model, batch, key):
        return (model.w[...] * 0).sum(), {"number": jax.random.uniform(key)}

    key = jax.random.key(7)
    one = jax.jit(make_step(drawn, TX, seed=7, ema_decay=0.9))
    want = jax.random.uniform(jax.random.fold_in(key, state.step))
    later, metrics = one(state, batch(1))
    np.testing.assert_allclose(metrics["number"], want)
    assert one(later, batch(1))[1]["number"] != want

    two = jax.jit(make_step(drawn, TX, seed=7, ema_decay=0.9, accumulate=2))
    keys = [jax.random.fold_in(jax.random.fold_in(key, state.step), i) for i in range(2)]
    np.testing.assert_allclose(two(state, batch(1))[1]["number"], np.mean([jax.random.uniform(key) for key in keys]), rtol=1e-6)


def test_a_step_is_one_program_for_a_new_and_a_restored_state():
    """Where a model has an array of Python's numbers too, whose type jax calls weak."""

    class Weak(Line):
        def __init__(self):
            super().__init__()
            self.gain = nnx.Param(jnp.full(8, 0.5), dims="C")

    on = mesh.build(devices=jax.devices()[:1])
    with jax.set_mesh(on):
        state = create(Weak, TX, on)
        assert not any(x.weak_type for x in jax.tree.leaves(state))
        step = compile_step(STEP, state)
        for seed in range(2):
            state, _ = step(state, batch(seed))
    assert step._cache_size() == 1


def test_made_in_place_the_state_is_cut_and_stays_cut():
    on = mesh.build(MeshConfig(data=1, fsdp=8))
    with jax.set_mesh(on):
        made = create(Line, TX, on)
        new, _ = compile_step(STEP, made)(made, batch(0))
    for array in (new.model.w[...], new.ema.w[...], new.opt_state[0].mu.w[...]):
        assert array.addressable_shards[0].data.shape == (2, 8)
    whole, _ = JITTED(init(Line, TX), batch(0))
    np.testing.assert_allclose(new.model.w[...], whole.model.w[...], rtol=1e-5, atol=1e-6)


def test_it_is_told_before_a_step_is_compiled_for_another_shape_of_batch_than_the_first():
    compiled, told = [], []
    one = jax.jit(lambda state, batch: (compiled.append(batch["x"].shape) or state + batch["x"].sum(), {}))  # what python sees is traced, once a shape
    step, state = telling(one, lambda: told.append(len(compiled))), jnp.zeros(())
    for rows in (4, 4, 2, 4, 3, 2):
        state, _ = step(state, {"x": np.ones((rows, 2), np.float32)})
    assert told == [1, 2] and compiled == [(4, 2), (2, 2), (3, 2)] and state == 38
