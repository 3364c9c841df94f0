"""Muon (Jordan et al. 2024) for stacked transformer blocks: momentum whose singular values are all made about 1.

For a matrix W of a block, with momentum M and M = U S Vᵀ,

  W ← W − η · 0.2·√max(fan_in, fan_out) · U Vᵀ

where the factor gives an update AdamW's size, so that AdamW's learning rates hold (Liu et al. 2025, arXiv 2502.16982). U Vᵀ comes from
four Newton–Schulz steps, the last of the five that optax calls "dion": dividing by the Schatten-4 norm, which the first of them computes on
its way, makes up for the one left out. Each head is a matrix of its own, and so are its q, k and v: small ones cost less, and heads that a mesh
holds apart need not meet. Embeddings, the modulation, biases, norms and both ends of the model are moved by Adam
with Nesterov's momentum, as optax does it.
"""
import jax
import optax
from flax import nnx
from jaxtyping import PyTree
from optax.contrib import MuonDimensionNumbers

from core_jax.weights import path_name

STEPS = (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012)
"""coefficients of X, XXᵀX and (XXᵀ)²X"""
SIDES = "E", "F", "D"
"""dims that a block's matrix reads and makes; over its others (heads, q k v, layers) lie matrices side by side"""


def muon(rates: optax.Schedule, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformation:
    """
    Args:
      rates: learning rate by step, of Muon and Adam alike.
      b1, b2: of Adam; Muon's momentum is 0.95.
      weight_decay: on the blocks' matrices.
    """
    return optax.contrib.muon(
        rates, ns_coeffs=STEPS, preconditioning="schatten", weight_decay=weight_decay, adam_b1=b1, adam_b2=b2,
        muon_weight_dimension_numbers=matrices, consistent_rms=0.2,
    )


def matrices(params: PyTree) -> PyTree:
    """For each array, which two of its dims are a matrix for Muon; None for those that Adam moves."""
    leaves = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: isinstance(x, nnx.Variable))[0]
    found = [_matrix(path_name(path), leaf, array.ndim) for path, leaf in leaves for array in jax.tree.leaves(leaf)]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def _matrix(name: str, leaf, ndim: int) -> MuonDimensionNumbers | None:
    letters = leaf.get_metadata().get("dims", "").split() if isinstance(leaf, nnx.Variable) else []
    sides = [ndim - len(letters) + place for place, letter in enumerate(letters) if letter in SIDES]
    hidden = name.startswith("blocks.") and name.endswith(".w")
    return MuonDimensionNumbers(*sides) if hidden and len(sides) == 2 else None
