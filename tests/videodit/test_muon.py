"""Muon's updates against a plain twin, one matrix at a time."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core_jax.weights import named, renamed
from tests.videodit import small
from videodit_jax.muon import STEPS, matrices, muon
from videodit_jax.run import make_model

RATE, DECAY = 0.1, 0.5
HEADS = {"qkv": "LEnKD->LnKED", "kv": "LEnKD->LnKED", "q": "LEKD->LKED", "out": "LKDE->LKDE", "up": "LEF->LEF", "down": "LFE->LFE"}
"""how each kind of weight falls into matrices, the last two dims"""


@pytest.fixture(scope="module")
def moved():
    model = jax.jit(lambda: make_model(small.CONFIG))()
    rng = np.random.default_rng(0)
    grads = renamed(model, {name: jnp.asarray(rng.standard_normal(x.shape), jnp.float32) for name, x in named(model).items()})
    tx = muon(optax.constant_schedule(RATE), 0.9, 0.99, DECAY)
    updates, state = jax.jit(tx.update)(grads, jax.jit(tx.init)(model), model)
    updates, _ = jax.jit(tx.update)(jax.tree.map(lambda g: 3 * g, grads), state, model)
    return tuple(map(named, (model, grads, updates)))


def orthogonal(m: np.ndarray) -> np.ndarray:
    """Four quintic steps on the matrix over its Schatten-4 norm."""
    x = m / np.sum(np.linalg.svd(m, compute_uv=False) ** 4) ** 0.25
    for a, b, c in STEPS:
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


def test_four_steps_bring_all_but_the_smallest_singular_values_near_one():
    """As near as the five of Jordan et al., which end between 0.68 and 1.13."""
    u, _, v = np.linalg.svd(np.random.default_rng(0).standard_normal((64, 256)), full_matrices=False)
    found = np.linalg.svd(orthogonal(u * np.geomspace(1, 0.02, 64) @ v), compute_uv=False)
    assert 0.68 < found.min() and found.max() < 1.16


def test_the_blocks_matrices_move_by_orthogonal_updates_head_by_head(moved):
    model, grads, updates = moved
    of_blocks = {name for name in model if name.startswith("blocks.") and name.endswith(".w")}
    assert len(of_blocks) == 7
    for name in of_blocks:
        dims = HEADS[name.split(".")[-2]]
        update, weight, grad = (np.einsum(dims, np.asarray(x[name], np.float64)) for x in (updates, model, grads))
        rows, columns = update.shape[-2:]
        flat = [x.reshape(-1, rows, columns) for x in (update, weight, grad)]
        for u, w, g in zip(*flat):  # the second gradient is three times the first: momentum of any decay points along them
            want = -RATE * (0.2 * max(rows, columns) ** 0.5 * orthogonal(g) + DECAY * w)
            np.testing.assert_allclose(u, want, atol=2e-4)


def test_all_else_moves_as_by_adam_with_nesterovs_momentum(moved):
    model, grads, updates = moved
    tx = optax.adam(RATE, 0.9, 0.99, nesterov=True)
    rest = {name for name in model if not (name.startswith("blocks.") and name.endswith(".w"))}
    state = jax.jit(tx.init)({name: model[name] for name in rest})
    for times in (1, 3):
        want, state = jax.jit(tx.update)({name: times * grads[name] for name in rest}, state)
    for name in rest:
        np.testing.assert_allclose(updates[name], want[name], rtol=1e-5, atol=1e-7)


def test_what_has_no_dims_is_no_matrix():
    assert jax.tree.leaves(matrices({"blocks": {"w": jnp.ones((2, 3))}})) == []
