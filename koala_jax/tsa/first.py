"""The label branch first: gates, fusion and label branch learn to say what a ranker of the sub-metrics says, before the towers see a picture.

A step without towers costs a thousandth of one with them. The visual branches begin at zero (model.py), and what learns here stays as it is
afterwards: fitted to the pairs of a few videos it would rank others worse, while towers learn what the sub-metrics leave to be learnt.
"""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from core_jax.weights import by_name
from koala_jax.tsa import ranker
from koala_jax.tsa.degrade import LEVELS
from koala_jax.tsa.layers import gelu
from koala_jax.tsa.model import SuitabilityScorer
from koala_jax.tsa.samples import Samples, batches

LEARNING_RATE = 4e-3
BATCH = 320
HEIGHT, SPREAD = 12.0, 3.0
"""mean and standard deviation of the scores: so far up that clips worse than any seen lie on the straight part of the last GELU, which turns the
order round below −0.75"""
WITHIN, WHOLE = 3.0, 0.1
"""weights of squared errors within a group, around its mean, which are the order, and of all"""
LEARNT = ("labels.", "dynamic_gate.", "static_gate.", "fusion.", "final.")
"""how the names of the weights begin that say it"""
SHIFT, NOISE = 0.5, 0.15
"""standard deviations of what is added to the labels of all levels of one degradation alike, so that what a level changes is learnt and not
which clip it is, and to each level by itself, so that no smaller change is taken for a sign"""


def moved(labels: Float[np.ndarray, "n M"], groups: Int[np.ndarray, "n"], rng: np.random.Generator) -> Float[np.ndarray, "n M"]:
    """Labels with both added."""
    shift, noise = rng.standard_normal((2, *labels.shape), np.float32)
    return labels + SHIFT * shift[np.unique(groups, return_inverse=True)[1]] + NOISE * noise


def cost(said: Float[Array, "n"], wanted: Float[Array, "n"]) -> Float[Array, ""]:
    """Of scores, level by level of one degradation after the other: a step of one costs WHOLE where all levels make it, WITHIN more where they part."""
    error = (said - wanted).reshape(-1, LEVELS + 1)
    return jnp.mean(WITHIN * (error - error.mean(1, keepdims=True)) ** 2 + WHOLE * error**2)


def train_labels(model: SuitabilityScorer, samples: Samples, labels: Float[np.ndarray, "n M"], steps: int, seed: int) -> SuitabilityScorer:
    """The network after so many steps towards what the ranker of these samples says of the labels."""
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, min(100, steps // 2), steps)
    heads = by_name(lambda name: not name.startswith(("dynamic.", "static.")))
    tx = optax.masked(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)), heads)
    rows = np.stack(list(itertools.islice(batches(samples, min(BATCH, len(samples)), seed), steps)))
    x = np.stack([moved(labels[r], samples.groups[r], np.random.default_rng([seed, n, 2])) for n, r in enumerate(rows)])
    w = ranker.fit(labels, samples.targets, samples.groups, samples.kind_numbers)
    said = ranker.features(labels) @ w
    wanted = np.stack([HEIGHT + SPREAD * (ranker.features(one) @ w - said.mean()) / (said.std() or 1.0) for one in x]).astype(np.float32)

    def loss(model, x, wanted):
        heads = model.dynamic_head.b[...], gelu(model.static_head.layers[-1].b[...])  # what they say before they look
        d, s = (jnp.broadcast_to(head, (len(x), *head.shape)) for head in heads)
        return cost(model.fused(d, s, x), wanted)

    def step(carry, batch):
        model, opt_state = carry
        value, grads = jax.value_and_grad(loss)(model, *batch)
        updates, opt_state = tx.update(grads, opt_state, model)
        return (optax.apply_updates(model, updates), opt_state), value

    return jax.jit(lambda model, *rows: jax.lax.scan(step, (model, tx.init(model)), rows)[0][0])(model, x, wanted)
