"""Frames that are given: image-to-video and continuation, by further channels or in place (Wan 2.2's TI2V-5B).

  (1) x' = [x_t, m, m ∘ x₀]                               m = 1 on the frames that are given, else 0
  (2) x' = m ∘ x₀ + (1 − m) ∘ x_t,  t' = (1 − m) t        each token has the time of its frame, and where m = 1 no loss counts
  (3) x' = [x_t, m, E(m ∘ video)]                         of latents by an encoder E, 0 being gray (Wan 2.2's I2V-A14B)

In training the number of first frames that are given is drawn for each clip: none, one (an image), or more (a clip to go on from). So
one model does all three. By (3) it is always one.
"""
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from core_jax.pictures import cover, read_image
from videodit_jax.model import ModelConfig


def channels(x0: Float[Array, "B T H W C"], first: Int[Array, "B"], gray: bool = False) -> Float[Array, "B T H W D"]:
    """m and m ∘ x₀, D = 1 + C, with the `first` frames of each clip given; of (3) x₀ itself, which is then E(m ∘ video)."""
    m = (jnp.arange(x0.shape[1])[None] < first[:, None]).astype(x0.dtype)[..., None, None, None]
    return jnp.concatenate([jnp.broadcast_to(m, (*x0.shape[:-1], 1)), x0 if gray else m * x0], -1)


def then_gray(first: UInt8[np.ndarray, "B t H W 3"], frames: int) -> Float[np.ndarray, "B T H W 3"]:
    """m ∘ video of (3): pixels in [−1, 1]."""
    return np.pad(first / np.float32(127.5) - 1, ((0, 0), (0, frames - first.shape[1]), *[(0, 0)] * 3))


def apart(model: ModelConfig, stored: Array) -> tuple[Array, Array]:
    """Of clips as they are stored the video, and what `channels` takes of them."""
    return (stored[..., : model.channels], stored[..., model.channels :]) if model.gray else (stored, stored)


def draw(key: PRNGKeyArray, batch: int, frames: int, part: float) -> Int[Array, "B"]:
    """How many first frames are given: any in `part` of the clips, and of those in one half the first alone, in the other any number."""
    any_key, many_key, number_key = jax.random.split(key, 3)
    number = jax.random.randint(number_key, (batch,), 1, max(frames, 2))
    number = jnp.where(jax.random.bernoulli(many_key, 0.5, (batch,)), number, 1)
    return jnp.where(jax.random.bernoulli(any_key, part, (batch,)), number, 0)


def counts(model: ModelConfig, given: Float[Array, "B S D"]) -> Bool[Array, "B S 1"] | None:
    """The tokens that a loss counts, by what `model.cut` made of m and m ∘ x₀; None: all, as by (1)."""
    return given[..., :1] == 0 if model.in_place else None


def keep(model: ModelConfig, video: Array, given: Float[Array, "B T H W D"]) -> Array:
    """The video with the given frames as they were; of (3) as the model made them, as in diffusers."""
    return video if model.gray else jnp.where(given[..., :1] > 0, given[..., 1:], video)


def first_frame(path: epath.PathLike, height: int, width: int) -> tuple[UInt8[np.ndarray, "H W 3"], str]:
    """An image at a clip's size, its middle cut out where the aspect differs, and a notice if more than 2 % was cut off ("" if not).

    Raises:
      ValueError: it cannot be read.
    """
    image = read_image(path)
    H, W = image.shape[:2]
    tall, wide = height / H, width / W
    cut = 1 - min(tall, wide) / max(tall, wide)
    said = f"{path} has {H}×{W} pixels and the model makes {height}×{width}: {cut:.0%} is cut off at the borders"
    return cover(image, height, width), said if cut > 0.02 else ""
