"""Safetensors files of weights: written one after the other, read array by array."""
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from core_jax.files import existing, remote, write_bytes, write_json
from core_jax.weights import cast, fetch, named, rename, renamed

END = ".safetensors"
INDEX = ".safetensors.index.json"
"""how the name of a file ends that says which of several files holds what, as other libraries write it"""
LARGEST = 5 * 10**9
"""bytes of a file, unless one array has more: what a host holds in memory beside what it holds anyway"""


def save_file(path: epath.PathLike, tree: PyTree, largest: int = LARGEST, metadata: dict[str, str] | None = None) -> epath.Path:
    """Writes a tree as the safetensors file STEM.safetensors, whole or not at all; a large one as several, and at last the index that names them.

    Arrays are fetched file by file. Of several hosts all must ask, and the first one writes.

    Args:
      metadata: what else each file says.

    Returns:
      What names the weights: the file, or the index.
    """
    path, arrays = epath.Path(path), named(tree)
    files, size = [{}], 0
    for name, array in arrays.items():
        if files[-1] and size + array.nbytes > largest:
            files, size = files + [{}], 0
        files[-1][name], size = array, size + array.nbytes
    index, first = path.with_name(path.stem + INDEX), jax.process_index() == 0
    places = [path] if len(files) == 1 else [path.with_name(f"{path.stem}-{i:05}-of-{len(files):05}{END}") for i in range(1, len(files) + 1)]
    if first:
        index.unlink(missing_ok=True)  # else one of an earlier run would name files of both
    for place, held in zip(places, files):
        fetched = {name: np.ascontiguousarray(fetch(array)) for name, array in held.items()}
        if first:
            write_bytes(place, save(fetched, metadata))
    if first and len(files) > 1:
        total = {"total_size": sum(array.nbytes for array in arrays.values())}  # diffusers reads no index without it
        write_json(index, {"metadata": total, "weight_map": {name: place.name for place, held in zip(places, files) for name in held}})
        path.unlink(missing_ok=True)
    return path if len(files) == 1 else index


def metadata(path: epath.PathLike) -> dict[str, str]:
    """What a safetensors file says beside its tensors."""
    with epath.Path(path).open("rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__", {})


def load_table(path: epath.PathLike) -> dict[str, np.ndarray]:
    """What a safetensors file holds, by name.

    Raises:
      ValueError: it is none, or holds numbers that numpy does not know.
    """
    try:
        return load(existing(path).read_bytes())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} holds numbers of type {error.args[0]}, and F32, F16 or integers are wanted") from error


def load_file(path: epath.PathLike, like: PyTree) -> PyTree:
    """Reads a safetensors file into the structure, and the dtypes, of `like`.

    Raises:
      ValueError: no safetensors file, or its weights do not fit (see `renamed`).
    """
    return cast(like, renamed(like, load_table(path)))


def holds(folder: epath.PathLike, stem: str) -> bool:
    """Whether `Tensors` would find something there."""
    return any((epath.Path(folder) / f"{stem}{end}").exists() for end in (END, INDEX))


def read_index(path: epath.Path) -> dict[str, str]:
    """The file that holds each tensor. Raises ValueError: it is no index."""
    try:
        match json.loads(path.read_bytes()):
            case {"weight_map": dict(files)} if all(isinstance(file, str) for file in files.values()):
                return files
    except ValueError:  # no JSON, or no UTF-8
        pass
    raise ValueError(f"{path} is no index of safetensors files: a JSON object is wanted whose weight_map names the file of each tensor")


class Tensors(Mapping[str, np.ndarray]):
    """What STEM.safetensors of a folder holds, or the files that STEM.safetensors.index.json names, each opened when it is needed.

    Each tensor is read from a disk when it is asked for; from an object store comes a whole file, which stays until another is asked for.
    """

    def __init__(self, folder: epath.PathLike, stem: str = "model", around: Mapping[str, str] = {}):
        """Raises ValueError: there is none, or it cannot be read.

        Args:
          around: rules that make a tensor's name out of that in its file.
        """
        self.folder, self._opened = (folder := existing(folder)), {}
        index, alone = folder / (stem + INDEX), folder / (stem + END)
        files = read_index(index) if index.exists() else dict.fromkeys(self._open(alone).keys(), alone.name)
        self._files = {rename(name, around): (folder / file, name) for name, file in files.items()}

    @classmethod
    def of(cls, path: epath.PathLike, table: Mapping[str, np.ndarray]) -> "Tensors":
        """What a file of any format was found to hold."""
        made = cls.__new__(cls)
        made.folder = path = epath.Path(path)
        made._opened = {path: SimpleNamespace(keys=table.keys, get_tensor=table.__getitem__)}  # as `safe_open` gives a file
        made._files = {name: (path, name) for name in table}
        return made

    def _open(self, path: epath.Path) -> Any:
        if path not in self._opened:
            try:
                if remote(path):
                    self._opened.clear()
                    with tempfile.NamedTemporaryFile() as local, path.open("rb") as file:
                        shutil.copyfileobj(file, local)
                        local.flush()
                        opened = safe_open(local.name, "np")  # which maps the file: its name may go
                else:
                    opened = safe_open(path, "np")
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
            self._opened[path] = opened
        return self._opened[path]

    def __getitem__(self, name: str) -> np.ndarray:
        path, name = self._files[name]
        try:
            return self._open(path).get_tensor(name)
        except (KeyError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read as safetensors: {error}") from error

    def __contains__(self, name: object) -> bool:
        return name in self._files  # a Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def place(self, name: str) -> str:
        """Its file and its name there, to tell a user."""
        path, name = self._files[name]
        return f"{path}: {name}"
