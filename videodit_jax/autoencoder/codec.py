"""An autoencoder on the devices of a mesh, a clip each at a time."""
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float16, Float32, UInt8

from core_jax.sharding import batch_pieces, batch_sharding, distribute
from videodit_jax.autoencoder.load import load
from videodit_jax.objective import to_float, to_uint8


class Codec:
    """Videos to latents and back; every host of the mesh gives the same and gets all."""

    def __init__(self, directory: epath.PathLike, on: Mesh, dtype: jnp.dtype):
        """Raises ValueError: what `load` refuses.

        Args:
          dtype: of the computation.
        """
        self.mesh, self.whole = on, NamedSharding(on, PartitionSpec())
        self.model = distribute(load(directory), self.whole)
        self._encode = jax.jit(lambda model, x: model.encode(to_float(x).astype(dtype)).astype(jnp.float16), out_shardings=self.whole)
        decode = lambda model, x, number: to_uint8(model.decode(x.astype(dtype)).astype(jnp.float32))[:number]  # noqa: E731
        self._decode = jax.jit(decode, static_argnums=2, out_shardings=self.whole)

    @property
    def batch(self) -> int:
        """Clips that the devices hold at once."""
        return batch_pieces(self.mesh)

    def encode(self, videos: UInt8[np.ndarray, "B 4n+1 H W 3"] | Float32[np.ndarray, "B 4n+1 H W 3"]) -> Float16[np.ndarray, "B n+1 H/8 W/8 C"]:
        """Their latents, about of unit variance."""
        return self._each(lambda clips, number: self._encode(self.model, clips), videos)

    def decode(self, latents: Float16[np.ndarray, "B n+1 h w C"]) -> UInt8[np.ndarray, "B 4n+1 8h 8w 3"]:
        """The videos of latents."""
        return self._each(lambda clips, number: self._decode(self.model, clips, number), latents)

    def _each(self, function, clips: np.ndarray) -> np.ndarray:
        made = []
        with jax.set_mesh(self.mesh):
            for start in range(0, len(clips), self.batch):
                rows = np.minimum(np.arange(start, start + self.batch), len(clips) - 1)
                number = min(self.batch, len(clips) - start)  # of pixels no copies go to every device; of latents they do: one program is enough
                made.append(jax.device_get(function(distribute(clips[rows], batch_sharding(self.mesh)), number))[:number])
        return np.concatenate(made)
