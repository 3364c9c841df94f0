"""Arrays that a long job keeps as it goes, a file each, by what they were made of."""
import hashlib
import io
import json

import numpy as np
from etils import epath

from core_jax.files import in_memory, write_bytes


def path_of(folder: epath.Path, key: list) -> epath.Path:
    """Where the array lies that was made of what this key tells, JSON."""
    return folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.npy"


def write_array(path: epath.Path, array: np.ndarray) -> None:
    """Whole or not at all."""
    write_bytes(path, in_memory(lambda file: np.save(file, array)))


def read_array(path: epath.Path) -> np.ndarray:
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
