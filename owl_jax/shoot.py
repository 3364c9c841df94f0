"""A clip by the film model: o_t = D(s_t, o_{t−1})."""
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from videodit_jax import flow, given
from videodit_jax.config import SamplingConfig, TrainConfig as FilmConfig
from videodit_jax.model import VideoDiT
from videodit_jax.objective import to_float, to_uint8

Context = tuple[Float[Array, "B N C"], Int[Array, "B"]]
"""what the film model's cross-attention reads: features and how many of them count"""


def filmed(
    film: FilmConfig, sampling: SamplingConfig, model: VideoDiT, contexts: tuple[Context, Context], first: UInt8[Array, "B H W 3"],
    joined: Bool[Array, "B"], eps: Float[Array, "B T H W 3"], scores: Float[Array, "B M"],
) -> UInt8[Array, "B T H W 3"]:
    """Clips from noise, to be jitted.

    Args:
      contexts: what is filmed, and what guidance moves away from.
      first: the frame that a clip goes on from, where it is `joined`.
    """
    frames = jnp.pad(to_float(first)[:, None], ((0, 0), (0, film.frames - 1), *[(0, 0)] * 3))
    known = given.channels(frames, joined.astype(jnp.int32))
    size, cut = eps.shape[1:4], film.model.cut
    grid = film.model.grid(size)

    def v(x, t, condition, scores):
        context, known = condition
        t = jnp.full((x.shape[0],), t)
        out = model.denoise(x.astype(film.dtype.jax), grid, t, context, scores, known)
        return flow.velocity(film.flow, out, x, t)

    conditions = [(context, cut(known)) for context in contexts]
    x0 = flow.sample(flow.guided(v, *conditions, scores, sampling.guidance), cut(eps), flow.grid(film.flow, sampling.steps), sampling.solver)
    return to_uint8(given.keep(film.model.join(x0, size), known))
