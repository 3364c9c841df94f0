"""The classifier over the features: small convolutional networks along time, the same code in NumPy and in JAX.

    (1) h = relu(((x - mean) / std) W_in + b_in)                                       [P, F] → [P, E]
    (2) h ← h + relu([h_{t-d}, h_t, h_{t+d}] W_d + b_d)   for d = 1, 2, 4, 8, 16        31 pairs seen on either side
    (3) p = softmax(h W_out + b_out)                                                  class 0: within a shot; then the types
    (4) p = mean of the p of NETWORKS such networks, trained alike from other seeds

Detection needs no more than NumPy: (1) to (3) are 41,000 multiplications a pair.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from koala_jax.transitions import Type
from koala_jax.transitions.features import NAMES

if TYPE_CHECKING:
    from types import ModuleType

    from jaxtyping import Array, Float32  # whose Array is jax's, and would import it

WIDTH = 48
DILATIONS = (1, 2, 4, 8, 16)
CONTEXT = sum(DILATIONS)
"""Pairs on either side that the class of a pair depends on."""
NETWORKS = 5
CLASSES = (None, *Type)
"""What a pair of neighbours is: within a shot, or part of a transition of a type."""

Parameters = Mapping[str, "Array"]


def initial(rng: np.random.Generator, mean: Float32[np.ndarray, " F"], std: Float32[np.ndarray, " F"]) -> dict[str, np.ndarray]:
    """Parameters of one network before training, for features of this mean and standard deviation."""
    dense = lambda rows, columns: (rng.standard_normal((rows, columns)) * np.sqrt(2 / rows)).astype(np.float32)  # noqa: E731
    parameters = {"mean": mean, "std": std, "in.w": dense(len(mean), WIDTH), "in.b": np.zeros((1, WIDTH), np.float32)}
    for d in DILATIONS:
        parameters |= {f"{d}.w": dense(3 * WIDTH, WIDTH) / 2, f"{d}.b": np.zeros((1, WIDTH), np.float32)}
    return parameters | {"out.w": 0 * dense(WIDTH, len(CLASSES)), "out.b": np.zeros((1, len(CLASSES)), np.float32)}


def normalised(p: Parameters, x: Float32[np.ndarray, "P F"]) -> Float32[np.ndarray, "P F"]:
    """Features as (1) wants them; far outliers are cut off."""
    return np.clip((x - p["mean"]) / p["std"], -6, 6)


def logits(p: Parameters, x: Float32[Array, "P F"], here: Float32[Array, "P 1"] | None = None, xp: ModuleType = np) -> Float32[Array, "*N P n"]:
    """(1) to (3) before the softmax, of normalised features, by one network or, in NumPy, by each of several (`stacked`).

    `here` is 0 where a sequence is only padding, `xp` numpy or jax.numpy.
    """
    here = xp.ones_like(x[:, :1]) if here is None else here
    h = xp.maximum(x @ p["in.w"] + p["in.b"], 0) * here
    for d in DILATIONS:
        none = xp.zeros_like(h, shape=(*h.shape[:-2], d, WIDTH))
        before, after = xp.concatenate([none, h], -2)[..., : len(x), :], xp.concatenate([h, none], -2)[..., d:, :]
        h = h + xp.maximum(xp.concatenate([before, h, after], -1) @ p[f"{d}.w"] + p[f"{d}.b"], 0) * here
    return h @ p["out.w"] + p["out.b"]


def stacked(networks: Sequence[Parameters]) -> dict[str, np.ndarray]:
    """Several networks as one set of parameters, with an axis of networks in front; they share mean and standard deviation."""
    return {name: value if name in ("mean", "std") else np.stack([p[name] for p in networks]) for name, value in networks[0].items()}


def mixture(z: Float32[np.ndarray, "N P n"]) -> Float32[np.ndarray, "P n"]:
    """(4) of logits."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).mean(0)


def probabilities(p: Parameters, x: Float32[np.ndarray, "P F"]) -> Float32[np.ndarray, "P n"]:
    """(4), for features as `features` makes them and networks as `stacked` makes them."""
    return mixture(logits(p, normalised(p, x)))


def load(path: Path) -> dict[str, np.ndarray]:
    """Weights that `train` wrote.

    Raises:
      ValueError: no weights, or they were trained on other features or classes than this version of the code computes.
    """
    try:
        file = safe_open(path, "np")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    with file:
        facts = file.metadata() or {}
        if json.loads(facts.get("features", "[]")) != list(NAMES):
            raise ValueError(f"{path} was trained on other features than this version computes: train again, or take its version")
        return {name: file.get_tensor(name) for name in file.keys()}
