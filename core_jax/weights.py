"""Names for arrays: a model, an optimizer state or a whole training state as a flat table name → array."""
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, PyTree

from core_jax.files import each

PIECE = 2**17
"""numbers that `content` works on at a time"""
GOLDEN = 0x9E3779B97F4A7C15
"""2⁶⁴ over the golden ratio, whose multiples modulo 2⁶⁴ lie far apart"""


def path_name(path) -> str:
    """"blocks.mlp.up.w": attributes, keys and places joined by dots, without nnx's `value` leaf."""
    return ".".join(part for key in path if (part := jax.tree_util.keystr((key,), simple=True)) != "value")


def named(tree: PyTree) -> dict[str, Array]:
    """The arrays (or shapes) of a tree by name, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def renamed(tree: PyTree, table: dict[str, Array]) -> PyTree:
    """The tree with its leaves taken from the table.

    Raises:
      ValueError: a name that is missing, unknown, or of another shape, each named.
    """
    want = named(tree)
    missing, unknown = sorted(want.keys() - table.keys()), sorted(table.keys() - want.keys())
    if missing or unknown:
        raise ValueError(f"weights do not fit the model: missing {missing[:5] or 'none'}, unknown {unknown[:5] or 'none'}")
    shapes = [(name, tuple(table[name].shape), tuple(leaf.shape)) for name, leaf in want.items()]
    if wrong := [f"{name} has shape {given}, and the model wants {wanted}" for name, given, wanted in shapes if given != wanted]:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"weights do not fit the model: {'; '.join(wrong[:5])}{more}")
    return jax.tree.unflatten(jax.tree.structure(tree), [table[name] for name in want])


def rename(name: str, rules: Mapping[str, str | Callable[[re.Match], str]]) -> str:
    """A name by all rules in their order, each a pattern and what takes its place: ours in another library's words."""
    for pattern, new in rules.items():
        name = re.sub(pattern, new, name)
    return name


def by_name(choose: Callable[[str], Any]) -> Callable[[PyTree], PyTree]:
    """What makes masks and labels as optax takes them: a tree's own structure, in the place of each array what its name is to `choose`."""
    return lambda tree: jax.tree.unflatten(jax.tree.structure(tree), map(choose, named(tree)))


def cast(like: PyTree, tree: PyTree) -> PyTree:
    """A tree in the dtypes of another one of its structure."""
    return jax.tree.map(lambda want, array: array.astype(want.dtype), like, tree)


def digest(tree: PyTree) -> str:
    """SHA-256 over the names, dtypes, shapes and `content`s of all arrays: the same on every mesh that holds the same values.

    A large model's state fits no host, so each looks at the parts that it holds; all hosts must ask.
    """
    arrays = {name: jnp.asarray(array) for name, array in sorted(named(tree).items())}
    sums = np.array(list(each(content, arrays.values())), np.uint64)
    if jax.process_count() > 1:
        sums = multihost_utils.process_allgather(sums.view(np.uint32)).view(np.uint64).sum(0)  # jax would cut 64 bits to 32
    described = [(name, str(array.dtype), array.shape, int(one)) for (name, array), one in zip(arrays.items(), sums)]
    return hashlib.sha256(repr(described).encode()).hexdigest()


def content(array: Array) -> int:
    """Σ h(c·place + bits) modulo 2⁶⁴ over those numbers of an array of which this host has the first copy.

    A place counts in the whole array, so the sum over all hosts is the same however the array is cut. h is a bijection, the last step of
    SplitMix64 (Steele et al. 2014): one number that differs shows for certain, several but for one case in 2⁶⁴.
    """
    strides = [GOLDEN * math.prod(array.shape[dim + 1 :]) for dim in range(array.ndim)]
    firsts = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    return sum(_content(np.asarray(x.data), [cut.start or 0 for cut in x.index], strides) for x in firsts) % 2**64


def _content(part: np.ndarray, start: list[int], strides: list[int]) -> int:
    """Of a part that starts at these coordinates."""
    if part.size > PIECE:  # halves stay in a core's cache, and take no memory
        dim = int(np.argmax(part.shape))
        half = part.shape[dim] // 2
        then = [at + half * (i == dim) for i, at in enumerate(start)]
        return sum(_content(piece, at, strides) for piece, at in zip(np.split(part, [half], dim), (start, then)))
    x = part.view(f"u{part.itemsize}").astype(np.uint64)
    for dim, (at, size, stride) in enumerate(zip(start, part.shape, strides)):
        places = np.arange(at, at + size, dtype=np.uint64) * np.uint64(stride % 2**64)
        x += places.reshape(-1, *[1] * (part.ndim - 1 - dim))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x ^= x >> np.uint64(shift)
        x *= np.uint64(factor)
    return int((x ^ x >> np.uint64(31)).sum(dtype=np.uint64))


def fetch(array: Array, most: int = 2**30) -> np.ndarray:
    """An array whole, on every host of those that hold its parts; all of them must ask.

    Args:
      most: bytes that are gathered at once on every device, which need not have room for all layers of a large model.
    """
    if getattr(array, "is_fully_addressable", True):
        return jax.device_get(array)
    if array.nbytes > most and array.ndim > 1:
        whole = np.empty(array.shape, array.dtype)
        for i in range(len(array)):
            whole[i] = fetch(_row(array, i), most)
        return whole
    return multihost_utils.process_allgather(array, tiled=True)


@jax.jit
def _row(array: Array, i: int) -> Array:
    return jax.lax.dynamic_index_in_dim(array, i, keepdims=False)


def count(tree: PyTree) -> int:
    """How many numbers a tree of parameters holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
