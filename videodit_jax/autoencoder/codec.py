"""An autoencoder on the devices of a mesh, a clip each at a time."""
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float16, UInt8

from core_jax.files import sha256
from core_jax.sharding import batch_sharding, distribute
from videodit_jax.autoencoder.load import load, weights_file
from videodit_jax.autoencoder.model import Autoencoder
from videodit_jax.objective import to_float, to_uint8


class Codec:
    """Videos to latents and back; every host of the mesh gives the same and gets all."""

    def __init__(self, directory: epath.PathLike, on: Mesh, dtype: jnp.dtype):
        """Raises ValueError: what `load` refuses.

        Args:
          dtype: of the computation.
        """
        self.directory = directory
        self.mesh, self.whole = on, NamedSharding(on, PartitionSpec())
        self.model = distribute(load(directory), self.whole)
        self._encode = jax.jit(lambda model, x: model.encode(to_float(x).astype(dtype)).astype(jnp.float16), out_shardings=self.whole)
        self._decode = jax.jit(lambda model, x: to_uint8(model.decode(x.astype(dtype)).astype(jnp.float32)), out_shardings=self.whole)

    @property
    def digest(self) -> str:
        """Of the weights' file."""
        return sha256(weights_file(self.directory))

    @property
    def batch(self) -> int:
        """Clips that the devices hold at once."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def encode(self, videos: UInt8[np.ndarray, "B 4n+1 H W 3"]) -> Float16[np.ndarray, "B n+1 H/8 W/8 C"]:
        """Their latents, about of unit variance."""
        return self._each(self._encode, videos)

    def decode(self, latents: Float16[np.ndarray, "B n+1 h w C"]) -> UInt8[np.ndarray, "B 4n+1 8h 8w 3"]:
        """The videos of latents."""
        return self._each(self._decode, latents)

    def _each(self, function, clips: np.ndarray) -> np.ndarray:
        made = []
        with jax.set_mesh(self.mesh):
            for start in range(0, len(clips), self.batch):
                rows = np.minimum(np.arange(start, start + self.batch), len(clips) - 1)
                made.append(jax.device_get(function(self.model, distribute(clips[rows], batch_sharding(self.mesh)))))
        return np.concatenate(made)[: len(clips)]
