"""Muon (Jordan et al. 2024) for stacked transformer blocks: momentum whose singular values are all made about 1.

For a matrix W of a block, with momentum M and M = U S Vᵀ,

  W ← W − η · 0.2·√max(fan_in, fan_out) · U Vᵀ

where the factor gives an update AdamW's size, so that AdamW's learning rates hold (Liu et al. 2025, arXiv 2502.16982). Each head is a matrix of its
own, so are its q, k and v, and so are every 64 hidden units of an MLP: small ones cost less, and what a mesh holds apart need not meet. Embeddings,
the modulation, biases, norms and both ends of the model are moved by Adam with Nesterov's momentum.
"""
import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, PyTree

from core_jax.layers import precision
from core_jax.weights import path_name

STEPS = (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012)
"""coefficients of X, XXᵀX and (XXᵀ)²X"""
GROUP = 64
"""rows of a matrix, at most, where it divides them: hidden units, or the dims of a head, which has two matrices if it has 128"""
SIDES = "D", "F", "E"
"""dims of a matrix: what a head has or the hidden units, and the model's width; over others (heads, q k v, layers) lie matrices side by side"""


def muon(rates: optax.Schedule, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformation:
    """
    Args:
      rates: learning rate by step, of Muon and Adam alike.
      b1, b2: of Adam; Muon's momentum is 0.95.
      weight_decay: on the blocks' matrices.
    """
    blocks = optax.chain(
        optax.trace(0.95, nesterov=True), optax.stateless(lambda momentum, _: jax.tree.map(_update, momentum, is_leaf=_is_variable)),
        optax.add_decayed_weights(weight_decay), optax.scale_by_learning_rate(rates),
    )  # fmt: skip
    return optax.partition({"muon": blocks, "adam": optax.adam(rates, b1, b2, nesterov=True)}, methods)


def orthogonal(m: Float[Array, "n r c"]) -> Float[Array, "n r c"]:
    """About U Vᵀ of each M = U S Vᵀ: four Newton–Schulz steps, the last of the five that optax calls "dion".

    Dividing by the Schatten-4 norm makes up for the one left out. A step is X ← p(XXᵀ)·X with a polynomial p, and all of these are polynomials
    of MMᵀ, which commute: the steps are products of r × r matrices, and M, where r < c the larger one, is multiplied twice.
    """
    times = functools.partial(jnp.matmul, precision=precision(m))
    m = m / jnp.maximum(jnp.linalg.norm(m, axis=(-2, -1), keepdims=True), 1e-30)  # so that the squares of small gradients are not 0
    square = times(m, m.mT)
    size = jnp.maximum(jnp.linalg.norm(square, axis=(-2, -1), keepdims=True), 1e-30)
    square, one, factors = square / size, jnp.eye(m.shape[-2], dtype=m.dtype)[None], []
    for a, b, c in STEPS:
        p = a * one + b * square + c * times(square, square)
        square = times(times(p, square), p)
        factors.append(p)
    return times(functools.reduce(times, factors) / jnp.sqrt(size), m)


def methods(params: PyTree) -> PyTree:
    """For each array, "muon" or "adam"."""

    def method(path, leaf) -> PyTree:
        name = path_name(path)
        hidden = name.startswith("blocks.") and name.endswith(".w") and _is_variable(leaf)
        return jax.tree.map(lambda array: "muon" if hidden and len(_sides(leaf, array.ndim)) == 2 else "adam", leaf)

    return jax.tree_util.tree_map_with_path(method, params, is_leaf=_is_variable)


def _update(momentum: nnx.Variable) -> nnx.Variable:
    """Nothing where Adam moves it: optax leaves no array there."""
    return jax.tree.map(lambda m: _orthogonal(m, *_sides(momentum, m.ndim)), momentum)


def _orthogonal(m: Array, hidden: int, width: int) -> Array:
    wide = jnp.moveaxis(m, (hidden, width), (-2, -1))
    *_, units, columns = wide.shape
    rows = GROUP if units % GROUP == 0 else units
    update = 0.2 * max(rows, columns) ** 0.5 * orthogonal(wide.reshape(-1, rows, columns))
    return jnp.moveaxis(update.reshape(wide.shape), (-2, -1), (hidden, width))


def _sides(variable: nnx.Variable, ndim: int) -> list[int]:
    """Where its SIDES lie."""
    letters = variable.get_metadata().get("dims", "").split()
    return [ndim - len(letters) + letters.index(letter) for letter in SIDES if letter in letters]


def _is_variable(leaf) -> bool:
    return isinstance(leaf, nnx.Variable)
