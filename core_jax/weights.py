"""Names for arrays: a model, an optimizer state or a whole training state as a flat table name → array, and safetensors files."""
import hashlib

import jax
import numpy as np
from etils import epath
from jaxtyping import Array, PyTree
from safetensors import SafetensorError
from safetensors.numpy import load, save

from core_jax.files import existing, write_bytes


def path_name(path) -> str:
    """"blocks.mlp.up.w": attributes, keys and places joined by dots, without nnx's `value` leaf."""
    parts = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path]
    return ".".join(part for part in parts if part != "value")


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


def save_file(path: epath.PathLike, tree: PyTree) -> None:
    """Writes a tree as one safetensors file, whole or not at all."""
    arrays = {name: np.ascontiguousarray(jax.device_get(array)) for name, array in named(tree).items()}
    write_bytes(path, save(arrays))


def load_table(path: epath.PathLike) -> dict[str, np.ndarray]:
    """What a safetensors file holds, by name.

    Raises:
      ValueError: it is none.
    """
    try:
        return load(existing(path).read_bytes())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error


def load_file(path: epath.PathLike, like: PyTree) -> PyTree:
    """Reads a safetensors file into the structure, and the dtypes, of `like`.

    Raises:
      ValueError: no safetensors file, or its weights do not fit (see `renamed`).
    """
    return cast(like, renamed(like, load_table(path)))


def cast(like: PyTree, tree: PyTree) -> PyTree:
    """A tree in the dtypes of another one of its structure."""
    return jax.tree.map(lambda want, array: array.astype(want.dtype), like, tree)


def digest(tree: PyTree) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of every array; the same for every mesh that holds the same values."""
    sha = hashlib.sha256()
    for name, array in sorted(named(tree).items()):
        value = np.asarray(fetch(array))
        sha.update(f"{name} {value.dtype} {value.shape}".encode())
        sha.update(np.ascontiguousarray(value).tobytes())
    return sha.hexdigest()


def fetch(array: Array) -> np.ndarray:
    """An array whole, on every host of those that hold its parts; all of them must ask."""
    if getattr(array, "is_fully_addressable", True):
        return jax.device_get(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


def count(tree: PyTree) -> int:
    """How many numbers a tree of parameters holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
