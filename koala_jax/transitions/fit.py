"""Fits the network to labelled pairs: weighted cross-entropy, AdamW, one cosine, crops of spliced videos."""
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float32, Int8

from koala_jax.transitions import Type, network
from koala_jax.transitions.runs import runs

Example = tuple[Float32[np.ndarray, "P F"], Int8[np.ndarray, " P"]]
"""Features of a video's pairs, and their classes."""

CROP, BATCH = 256, 8
RATE, DECAY = 3e-3, 1e-2
NOISE, DROP = 0.3, 0.2
"""Noise on normalised features, and how often a feature is missing for a whole crop: no decision shall hang on one of them."""


def weights(labels: Int8[np.ndarray, " P"]) -> Float32[np.ndarray, " P"]:
    """What an error at each pair costs: a cut is one pair only, and the first and last of a slow mixture cannot be seen."""
    cut, gradual = network.CLASSES.index(Type.CUT), (labels > 0) & (labels != network.CLASSES.index(Type.CUT))
    weight = np.where(labels == cut, 4.0, 1.0)
    for i, j in runs(gradual):
        if j - i > 8:
            weight[[i, j - 1]] = 0.3
    return weight.astype(np.float32)


def fit(examples: Sequence[Example], steps: int, seed: int, say: Callable[[int, float], None]) -> dict[str, np.ndarray]:
    """The trained parameters; `say` is told the step and the loss now and then."""
    rng = np.random.default_rng(seed)
    table = np.concatenate([x for x, _ in examples])
    std = table.std(0) + 1e-2
    parameters = network.initial(rng, table.mean(0), std)
    fixed = {name: parameters.pop(name) for name in ("mean", "std")}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_onecycle_schedule(steps, RATE), weight_decay=DECAY))
    state = optimizer.init(parameters)

    def loss(parameters, x, labels, weight):
        here = (weight > 0).astype(jnp.float32)[..., None]
        z = jax.vmap(lambda x, here: network.logits(parameters, x, here, jnp))(x, here)
        return (optax.softmax_cross_entropy_with_integer_labels(z, labels) * weight).sum() / weight.sum()

    @jax.jit
    def step(parameters, state, x, labels, weight, key) -> tuple[dict, optax.OptState, Array]:
        one, other = jax.random.split(key)
        x = x + NOISE * jax.random.normal(one, x.shape)
        x = x * jax.random.bernoulli(other, 1 - DROP, (x.shape[0], 1, x.shape[2]))
        value, slope = jax.value_and_grad(loss)(parameters, x, labels, weight)
        change, state = optimizer.update(slope, state, parameters)
        return optax.apply_updates(parameters, change), state, value

    normalised = [network.normalised(fixed, x) for x, _ in examples]
    costs = [weights(labels) for _, labels in examples]
    key, losses = jax.random.key(seed), []
    for i in range(steps):
        x, labels, weight = np.zeros((BATCH, CROP, table.shape[1]), np.float32), np.zeros((BATCH, CROP), np.int32), np.zeros((BATCH, CROP), np.float32)
        for b, e in enumerate(rng.integers(len(examples), size=BATCH)):
            start = rng.integers(max(1, len(costs[e]) - CROP + 1))
            n = min(CROP, len(costs[e]) - start)
            x[b, :n], labels[b, :n], weight[b, :n] = (part[start : start + n] for part in (normalised[e], examples[e][1], costs[e]))
        parameters, state, value = step(parameters, state, x, labels, weight, jax.random.fold_in(key, i))
        losses.append(value)
        if i % 100 == 99:
            say(i + 1, float(np.mean([float(v) for v in losses[-100:]])))
    return fixed | {name: np.asarray(value) for name, value in parameters.items()}
