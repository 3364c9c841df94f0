"""Raw scores of many clips, in batches over every device of this host."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from core_jax.sharding import batch_sharding
from koala_jax.tsa.fragments import normalised


class Predictor:
    """A network on a mesh; `per_device` clips at a time on each device."""

    def __init__(self, model: nnx.Module, mesh: Mesh, per_device: int = 1):
        self.model, self.mesh, self.batch = model, mesh, per_device * mesh.size
        self.sharding = batch_sharding(mesh)
        self._predict = jax.jit(functools.partial(_predict, dtype=jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16))

    def __call__(
        self, clips: UInt8[np.ndarray, "n T H W 3"], images: UInt8[np.ndarray, "n h w 3"], labels: Float[np.ndarray, "n M"] | None,
    ) -> Float[np.ndarray, "n"]:
        """One score a clip. A last batch that is not full is filled with copies, whose scores fall away."""
        scores = []
        with jax.set_mesh(self.mesh):
            for start in range(0, len(clips), self.batch):
                rows = np.minimum(np.arange(start, start + self.batch), len(clips) - 1)
                batch = [clips[rows], images[rows], None if labels is None else labels[rows].astype(np.float32)]
                scores.append(self._predict(self.model, *jax.device_put(batch, self.sharding)))
            return np.concatenate([np.asarray(x) for x in scores])[: len(clips)]


def _predict(model: nnx.Module, clips: Array, images: Array, labels: Array | None, dtype: jnp.dtype) -> Float[Array, "n"]:
    return model(normalised(clips).astype(dtype), normalised(images).astype(dtype), labels)
