"""Weights of safetensors files streamed into place: our own, or a directory of another library, under that library's names.

A model's arrays and another library's tensors differ in names, in that torch keeps a matrix as (out, in), and in that a stack over layers, or
matrices that are applied at once, lie there one by one.
"""
import contextlib
import hashlib
import itertools
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from core_jax.files import existing, remote
from core_jax.sharding import shardings
from core_jax.tensors import Tensors
from core_jax.weights import named, renamed

Model = TypeVar("Model")


def on_disk(directory: epath.PathLike) -> epath.Path:
    """The path of a directory of another library. Raises ValueError: nothing is there, or it lies in an object store."""
    if remote(directory):
        raise ValueError(f"{directory} lies in an object store, and weights are read from a disk, piece by piece: copy the directory to this machine")
    return existing(directory)


@contextlib.contextmanager
def held_config(directory: epath.PathLike, what: str, of: str) -> Iterator[dict[str, Any]]:
    """config.json, for a block that takes it apart. Raises ValueError: there is none, so that the directory holds no `what`, or not that `of` one."""
    path = epath.Path(directory) / "config.json"
    if not path.exists():
        raise ValueError(f"{directory} holds no {what}: there is no config.json in it")
    try:
        yield json.loads(path.read_text())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not the config.json of {of}: {error!r}") from error


def digest_of(folder: epath.Path, beside: bytes) -> str:
    """A digest of `model*.safetensors`, by their names, sizes and 64 pieces, evenly spaced, since as a whole they may be 11 GB, and of what lies beside."""
    told = hashlib.sha256(beside)
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            told.update(f"{path.name} {(size := path.stat().length)} ".encode())
            for piece in range(64):
                file.seek(piece * size // 64)
                told.update(file.read(2**16))
    return told.hexdigest()


def from_torch(name: str, tensors: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """A torch array in our shape, dims of 1 aside, or as it is where that cannot be."""
    (array,) = tensors
    if name.endswith(".w"):
        array = array.reshape(len(array), -1).T
    array = np.atleast_1d(array.squeeze())
    fits = array.size == math.prod(shape) and len(array) in itertools.accumulate(shape, operator.mul)
    return array.reshape(shape) if fits else array


def stream(
    tensors: Tensors, shapes: Model, names: Callable[[str], list[str]],
    turn: Callable[[str, list[np.ndarray], tuple[int, ...]], np.ndarray] = from_torch, *, unused: str = "(?!)",
    given: Mapping[str, np.ndarray] = {}, mesh: Mesh | None = None, dtype: jnp.dtype | None = None, exact: Callable[[str], bool] = lambda name: False,
) -> Model:
    """The model with these weights; on a mesh each device gets its share. Beside it a host holds no more than one of our arrays.

    Args:
      shapes: of the model.
      names: the tensors that one of our arrays holds, mostly one; where {} stands for a number in them, as many of each as the array is long.
      turn: makes the array, or one layer of it, out of those tensors: (our name, tensors, shape that it should have).
      unused: pattern of tensors that the model does without.
      given: arrays of ours that are not read.
      dtype: of the weights; as in the files by default.
      exact: which of them, by our names, lie in fp32 all the same.

    Raises:
      ValueError: tensors that are missing, left over or of another shape, each named.
    """
    ours = {name: leaf for name, leaf in named(shapes).items() if name not in given}
    layers = {name: len(leaf) if "{}" in names(name)[0] else None for name, leaf in ours.items()}
    wanted = {name: [[part.format(i) for part in names(name)] for i in range(layers[name] or 1)] for name in ours}
    asked = {part for rows in wanted.values() for row in rows for part in row}
    missing, left = sorted(asked - tensors.keys()), sorted(name for name in tensors.keys() - asked - given.keys() if not re.match(unused, name))
    if missing or left:
        raise ValueError(f"{tensors.folder} does not hold the weights of the model: missing {_some(missing)}, left over {_some(left)}")

    def one(name: str, parts: list[str], shape: tuple[int, ...]) -> np.ndarray:
        array = turn(name, [tensors[part] for part in parts], shape)
        if array.shape != shape:
            raise ValueError(f"{tensors.place(parts[0])} is, inputs first, {array.shape}, and the model wants {shape}")
        return array

    places, table = named(shardings(shapes, mesh)) if mesh else {}, {}

    def put(name: str, array: np.ndarray) -> jax.Array:
        place = places.get(name)
        return jax.make_array_from_callback(array.shape, place, lambda i: array[i]) if place else jnp.asarray(array)

    for name, leaf in ours.items():
        kind = jnp.float32 if exact(name) else dtype
        shape = leaf.shape if layers[name] is None else leaf.shape[1:]
        first = one(name, wanted[name][0], shape)
        if layers[name] is None:
            array = np.ascontiguousarray(first, kind or first.dtype)
        else:
            array = np.empty(leaf.shape, kind or first.dtype)
            array[0] = first
            for i, parts in enumerate(wanted[name][1:], 1):
                array[i] = one(name, parts, shape)
        table[name] = put(name, array)
    return renamed(shapes, table | {name: put(name, array) for name, array in given.items()})


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}" if names else "nothing"
