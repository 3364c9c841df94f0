"""A clip by the film model: o_t = D(s_t, o_{t−1})."""
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from videodit_jax import given
from videodit_jax.config import SamplingConfig, TrainConfig as FilmConfig
from videodit_jax.model import VideoDiT
from videodit_jax.objective import to_float, to_uint8
from videodit_jax.sampler import Context, from_noise


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
    return to_uint8(from_noise(film, sampling, model, contexts, known, eps, scores))
