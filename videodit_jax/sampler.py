"""Videos from captions and scores, by a trained model."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float16, Int, Shaped

from core_jax.compiler import jit
from core_jax.sharding import RULES, Rules, batch_pieces, batch_sharding, distribute, placed, shardings
from videodit_jax import flow
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import SamplingConfig, TrainConfig
from videodit_jax.model import VideoDiT, abstract_model
from videodit_jax.given import channels, keep
from videodit_jax.objective import to_float, to_uint8
from videodit_jax.run import maps_in

Context = tuple[Float[Array, "B N C"], Int[Array, "B"]]
"""what cross-attention reads: features and how many of them count"""


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Samples of one run's models. Clip i depends on its own seed, caption and scores, not on its place in the batch."""

    config: TrainConfig
    statistics: ScoreStatistics
    mesh: Mesh
    batch: int = 32
    """clips sampled at once, rounded up to what the devices divide"""

    @property
    def rows(self) -> int:
        """Clips of one call of the program."""
        pieces = batch_pieces(self.mesh)
        return -(-self.batch // pieces) * pieces

    def __call__(
        self, model: VideoDiT, texts: list[str | Float16[np.ndarray, "n C"]], scores: list[dict[str, float]], seeds: list[int],
        sampling: SamplingConfig | None = None, first: Shaped[np.ndarray, "B t H W C"] | None = None, away: str | Float16[np.ndarray, "n C"] = "",
        steps: range | None = None, states: list[flow.State] | None = None, picture: Float16[np.ndarray, "B N C"] | None = None,
    ) -> Shaped[np.ndarray, "B T H W C"] | list[flow.State]:
        """One clip for each text (what the model's text config reads), its scores (any may be left out) and its seed: uint8 pixels or, of a run on
        latents, these in float16. Of several hosts all must ask; what the first one gives counts.

        Args:
          away: a text that guidance leads away from; none by default.
          first: the first frames of each clip, which stay as they are and go on; for a model with `given`. For one with `gray` the latents of a
            first frame and gray ones.
          picture: features of each clip's first frame, for a model that reads them.
          steps: those that this model makes, by default all; before the last, what is returned are the `states` from which another model goes on.
        """
        config = dataclasses.replace(self.config, out="", init=None, seed=0)  # on which no program depends: runs that differ in them have one
        first = np.zeros((len(texts), 0, *config.clip[1:], config.model.channels), config.stored.dtype) if first is None else first
        sampling = sampling or config.sampling
        steps = steps or range(sampling.steps)
        last = steps.stop == sampling.steps
        tokenize = config.model.text.tokenize
        tokens = jax.tree.map(lambda *rows: np.stack(rows), *map(tokenize, texts))
        given = tokens, tokenize(away), np.stack([self.statistics.vector(known) for known in scores]), first, picture
        tokens, away, places, first, picture = multihost_utils.broadcast_one_to_all(given)  # a host may have read another clip, where one broke
        if np.isnan(places).all():
            sampling = sampling.unscored
        starts = range(0, len(texts), self.rows)
        made = []
        for start, state in zip(starts, states or [None] * len(starts), strict=True):
            rows = [min(start + i, len(texts) - 1) for i in range(self.rows)]
            each = lambda tree: jax.tree.map(lambda x: x[rows], tree)
            inputs = each(tokens), away, places[rows], np.asarray(seeds, np.uint32)[rows], first[rows], each(picture)
            inputs = distribute(inputs, NamedSharding(self.mesh, PartitionSpec()))
            out = _sample(config, sampling, self.mesh, steps, model, *inputs, state)
            made.append(jax.device_get(out)[: len(texts) - start] if last else out)
        return np.concatenate(made) if last else jax.block_until_ready(made)


@functools.partial(jit, static_argnums=(0, 1, 2, 3))
def _sample(
    config: TrainConfig, sampling: SamplingConfig, mesh: Mesh, steps: range, model: VideoDiT, tokens: dict[str, Array], away: dict[str, Array],
    scores: Array, seeds: Array, first: Shaped[Array, "B t H W C"], picture: Float16[Array, "B N C"] | None, state: flow.State | None,
) -> Shaped[Array, "B T H W C"] | flow.State:
    shape = *config.clip, config.model.channels
    frames = jnp.pad(to_float(first), ((0, 0), (0, shape[0] - first.shape[1]), *[(0, 0)] * 3))
    number = min(first.shape[1], 1) if config.model.gray else first.shape[1]
    given = channels(frames, jnp.full(len(first), number), config.model.gray)
    away = jax.tree.map(lambda one, all: jnp.broadcast_to(one[None], all.shape), away, tokens)
    eps = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), shape))(seeds)
    eps = jax.lax.with_sharding_constraint(eps, batch_sharding(mesh))
    made = from_noise(config, sampling, model, (model.text(tokens), model.text(away)), given, eps, scores, steps, state, picture)
    if steps.stop < sampling.steps:
        return jax.lax.with_sharding_constraint(made, batch_sharding(mesh))
    return jax.lax.with_sharding_constraint(made.astype(jnp.float16) if config.autoencoder else to_uint8(made), NamedSharding(mesh, PartitionSpec()))


def from_noise(
    config: TrainConfig, sampling: SamplingConfig, model: VideoDiT, contexts: tuple[Context, Context], given: Float[Array, "B T H W D"],
    eps: Float[Array, "B T H W C"], scores: Float[Array, "B M"], steps: range | None = None, state: flow.State | None = None,
    picture: Float[Array, "B N C"] | None = None,
) -> Float[Array, "B T H W C"] | flow.State:
    """x₀, with the given frames as they were, or the state after steps that are not the last; a part of what is jitted.

    Args:
      contexts: what conditions the videos, and what guidance moves away from.
      steps, state, picture: as of `Sampler`; with a state the noise is not used.
    """
    size, cut = eps.shape[1:4], config.model.cut
    grid, known, steps = config.model.grid(size), cut(given), steps or range(sampling.steps)

    def v(x, t, context, scores):
        t = jnp.full((x.shape[0],), t)
        out = model.denoise(x.astype(config.dtype.jax), grid, t, context[0], scores, *context[1:])
        return flow.velocity(config.flow, out, x, t)

    guided = flow.guided(v, *[(context, known, picture) for context in contexts], scores, sampling.guidance)
    state = flow.advance(guided, state or flow.begin(cut(eps), sampling.solver), flow.grid(config.flow, sampling.steps), sampling.solver, steps)
    return state if steps.stop < sampling.steps else keep(config.model, config.model.join(state[0], size), given)


def lower(config: TrainConfig, on: Mesh, rules: Rules = RULES) -> tuple[jax.stages.Lowered, VideoDiT]:
    """The program that samples `config.batch` clips, lowered for a mesh that need not be there, and the shapes of its model, which lies by `rules`."""

    def whole(x: np.ndarray, *rows: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*rows, *np.shape(x)), np.asarray(x).dtype, sharding=NamedSharding(on, PartitionSpec()))

    def rows(x: np.ndarray) -> jax.ShapeDtypeStruct:
        return whole(x, config.batch)

    model = jax.eval_shape(functools.partial(maps_in, config.dtype.jax), abstract_model(config.model))
    model = placed(model, shardings(model, on, rules))
    text = config.model.text.tokenize("")
    tokens, away = jax.tree.map(rows, text), jax.tree.map(whole, text)
    scores, seeds = rows(np.zeros(len(config.model.scores), np.float32)), rows(np.uint32(0))
    first = rows(np.zeros((0, *config.clip[1:], config.model.channels), config.stored.dtype))
    picture = rows(np.zeros(config.model.picture, np.float16)) if any(config.model.picture) else None
    every = range(config.sampling.steps)
    return _sample.lower(config, config.sampling, on, every, model, tokens, away, scores, seeds, first, picture, None), model
