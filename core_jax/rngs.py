"""Keys of new weights."""
import jax
from jaxtyping import PRNGKeyArray


class Rngs:
    """One key after the other: fold_in(key, 0), fold_in(key, 1), …, those that `params` of `flax.nnx.Rngs` gives.

    flax counts in an array, and where a model is traced, jax describes that array's history to an error that flax then drops: three
    quarters of the time that tracing a new model took.
    """

    def __init__(self, seed: int | PRNGKeyArray):
        self._key, self._given = jax.random.key(seed) if isinstance(seed, int) else seed, 0

    def params(self) -> PRNGKeyArray:
        """The next key."""
        self._given += 1
        return jax.random.fold_in(self._key, self._given - 1)
