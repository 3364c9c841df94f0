"""The decoder's key-value cache."""
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, ArrayLike, Float, Int

from core_jax.lmm.config import DecoderConfig
from core_jax.sharding import constrain


@struct.dataclass
class Cache:
    """Keys and values of the tokens so far. Slots are filled in order, the same for the whole batch; a slot that holds padding in
    one example stays a hole that no query of it sees."""

    keys: Float[Array, "L B K slots D"] | tuple[Float[Array, "... D slots"], ...]
    """heads stand before slots, as a CPU multiplies them; a tuple for layers that are taken apart, there with slots last (`apart`)"""
    values: Float[Array, "L B K slots D"] | tuple[Float[Array, "... slots D"], ...]
    valid: Int[Array, "B slots"]
    """1 where a slot holds a token, else 0"""
    used: Int[Array, ""]
    """slots that are filled"""

    @property
    def lengths(self) -> Int[Array, "B"]:
        """Tokens of each example: the position of the next one."""
        return self.valid.sum(-1)

    def written(self, layer: Int[ArrayLike, ""], k: Float[Array, "B S K D"], v: Float[Array, "B S K D"]) -> "Cache":
        """With a layer's keys and values of the next S slots."""
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        if isinstance(self.keys, tuple):
            put = lambda old, new, axis: jax.lax.dynamic_update_slice_in_dim(old, new.reshape(*old.shape[:-2], *new.shape[-2:]), self.used, axis)
            changed = lambda each, new, axis: (*each[:layer], put(each[layer], new, axis), *each[layer + 1 :])
            return self.replace(keys=changed(self.keys, k.swapaxes(2, 3), -1), values=changed(self.values, v, -2))
        put = lambda old, new: place(jax.lax.dynamic_update_slice(old, new[None], (layer, 0, 0, self.used, 0)))
        return self.replace(keys=put(self.keys, k), values=put(self.values, v))

    def read(self, layer: Int[ArrayLike, ""]) -> tuple[Float[Array, "B slots K D"], Float[Array, "B slots K D"]]:
        """All of a layer's keys and values."""
        if isinstance(self.keys, tuple):
            one = self.keys[layer].swapaxes(-2, -1), self.values[layer]
            return tuple(x.reshape(len(self.valid), -1, *x.shape[-2:]).swapaxes(1, 2) for x in one)
        return tuple(jax.lax.dynamic_index_in_dim(x, layer, keepdims=False).swapaxes(1, 2) for x in (self.keys, self.values))

    def apart(self) -> "Cache":
        """Each layer's keys and values arrays of their own, and the keys' slots last: out of a stack, or with D last, a CPU copies them, for
        each token, before it multiplies. A batch or heads of 1 have no dim there: XLA would drop it before it multiplies, and so keep, and
        copy, what it writes with it and without."""
        alone = lambda x: tuple(x.reshape(-1, *(n for n in x.shape[1:-2] if n > 1), *x.shape[-2:]))
        return self.replace(keys=alone(self.keys.swapaxes(-2, -1)), values=alone(self.values))


def new_cache(config: DecoderConfig, batch: int, slots: int, dtype: jnp.dtype = jnp.float32) -> Cache:
    """An empty cache."""
    zeros = place(jnp.zeros((config.layers, batch, config.kv_heads, slots, config.head_dim), dtype))
    return Cache(zeros, zeros, jnp.zeros((batch, slots), jnp.int32), jnp.zeros((), jnp.int32))


def place(x: Float[Array, "L B K slots D"]) -> Float[Array, "L B K slots D"]:
    """Heads where the heads of queries lie."""
    return constrain(x, "L B K n D")
