"""Muon's updates against a plain twin, one matrix at a time."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from einops import rearrange

from core_jax.weights import named, renamed
from tests.videodit import small
from videodit_jax.muon import STEPS, methods, muon, orthogonal
from videodit_jax.run import make_model

RATE, DECAY = 0.1, 0.5
CONFIG = dataclasses.replace(small.CONFIG, model=dataclasses.replace(small.MODEL, mlp=128))
OF_HEADS = "l e n k d -> (l n k) d e"
MATRICES = {
    "qkv": OF_HEADS, "kv": OF_HEADS, "q": "l e k d -> (l k) d e", "out": "l k d e -> (l k) d e",
    "up": "l e (two f) -> (l two) f e", "down": "l (two f) e -> (l two) f e",
}  # fmt: skip
"""how each kind of weight falls into matrices; of 128 hidden units 64 are one"""


@pytest.fixture(scope="module")
def moved():
    model = jax.jit(lambda: make_model(CONFIG))()
    rng = np.random.default_rng(0)
    first, second = (renamed(model, {name: jnp.asarray(rng.standard_normal(x.shape), jnp.float32) for name, x in named(model).items()}) for _ in range(2))
    tx = muon(optax.constant_schedule(RATE), 0.9, 0.99, DECAY)
    _, state = jax.jit(tx.update)(first, jax.jit(tx.init)(model), model)
    updates, _ = jax.jit(tx.update)(second, state, model)
    return tuple(map(named, (model, first, second, updates)))


def twin(m: np.ndarray) -> np.ndarray:
    """Four quintic steps on the matrix over its Schatten-4 norm."""
    x = m / np.sum(np.linalg.svd(m, compute_uv=False) ** 4) ** 0.25
    for a, b, c in STEPS:
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x


def test_four_steps_bring_all_but_the_smallest_singular_values_near_one():
    """As near as the five of Jordan et al., which end between 0.68 and 1.13."""
    u, _, v = np.linalg.svd(np.random.default_rng(0).standard_normal((64, 256)), full_matrices=False)
    m = u * np.geomspace(1, 0.02, 64) @ v
    found = np.linalg.svd(orthogonal(jnp.asarray(m[None], jnp.float32))[0], compute_uv=False)
    assert 0.68 < found.min() and found.max() < 1.16


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (7, 7)])
@pytest.mark.parametrize("size", [1.0, 1e-15, 1e12])
def test_products_of_polynomials_are_the_steps_one_by_one(shape, size):
    m = np.random.default_rng(1).standard_normal((3, *shape))
    m[1] = np.outer(m[1][:, 0], m[1][0])  # of rank 1
    found = orthogonal(jnp.asarray(size * m, jnp.float32))
    for one, original in zip(found, m):
        np.testing.assert_allclose(one, twin(original), atol=1e-4)


def test_where_nothing_was_learned_nothing_moves():
    assert not np.any(orthogonal(jnp.zeros((2, 8, 32))))


def test_the_blocks_matrices_move_by_orthogonal_updates_head_by_head_and_group_by_group(moved):
    model, first, second, updates = moved
    of_blocks = {name for name in model if name.startswith("blocks.") and name.endswith(".w")}
    assert len(of_blocks) == 7
    for name in of_blocks:
        pattern = MATRICES[name.split(".")[-2]]
        sizes = {"two": 2} if "two" in pattern else {}
        apart = [rearrange(np.asarray(x[name], np.float64), pattern, **sizes) for x in (updates, model, first, second)]
        for u, w, g1, g2 in zip(*apart):
            ahead = g2 + 0.95 * (g2 + 0.95 * g1)
            want = -RATE * (0.2 * max(w.shape) ** 0.5 * twin(ahead) + DECAY * w)
            np.testing.assert_allclose(u, want, atol=1e-5)


def test_all_else_moves_as_by_adam_with_nesterovs_momentum(moved):
    model, first, second, updates = moved
    tx = optax.adam(RATE, 0.9, 0.99, nesterov=True)
    rest = {name for name in model if not (name.startswith("blocks.") and name.endswith(".w"))}
    state = jax.jit(tx.init)({name: model[name] for name in rest})
    for grads in (first, second):
        want, state = jax.jit(tx.update)({name: grads[name] for name in rest}, state)
    for name in rest:
        np.testing.assert_allclose(updates[name], want[name], rtol=1e-5, atol=1e-7)


def test_what_has_no_dims_is_no_matrix():
    assert jax.tree.leaves(methods({"blocks": {"w": jnp.ones((2, 3))}})) == ["adam"]
