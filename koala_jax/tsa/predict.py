"""Raw scores of many clips, in batches over every device of this host."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from core_jax.sharding import batch_sharding, in_batches
from koala_jax.tsa.fragments import normalised

MOST_CORES = 16
"""of a CPU that are devices: each holds the network, and the pictures of its clips"""


class Predictor:
    """A network on a mesh; `per_device` clips at a time on each device."""

    def __init__(self, model: nnx.Module, mesh: Mesh, per_device: int = 1):
        self.model, self.mesh, self.batch = model, mesh, per_device * mesh.size
        self.sharding = batch_sharding(mesh)
        self.dtype = jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)

    def __call__(
        self, clips: UInt8[np.ndarray, "n T H W 3"], images: UInt8[np.ndarray, "n h w 3"], labels: Float[np.ndarray, "n M"] | None,
    ) -> Float[np.ndarray, "n"]:
        """One score a clip."""
        labels = None if labels is None else labels.astype(np.float32)
        with jax.set_mesh(self.mesh):
            return in_batches(lambda batch: self.scores(*batch), self.batch, self.sharding, [clips, images, labels])

    def scores(
        self, clips: UInt8[Array, "B T H W 3"], images: UInt8[Array, "B h w 3"], labels: Float[Array, "B M"] | None,
    ) -> Float[Array, "B"]:
        """The scores of one batch that lies on the devices, not waited for; call it where the mesh is set."""
        return _predict(self.model, clips, images, labels, self.dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def _predict(model: nnx.Module, clips: Array, images: Array, labels: Array | None, dtype: jnp.dtype) -> Float[Array, "n"]:
    return model(normalised(clips).astype(dtype), normalised(images).astype(dtype), labels)
