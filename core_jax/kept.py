"""What took long to find, as what the compiler made, kept beside jax's compilation cache, so that an interrupted table goes on where it stopped."""
import hashlib
import importlib.metadata
import os
from collections.abc import Callable

import jax
from etils import epath

from core_jax.files import keep, read_kept


def place(kind: str, key: str, end: str = ".json") -> epath.Path | None:
    """The file, in the folder of this kind in `jax_compilation_cache_dir`, of what is kept by this key; None without such a directory."""
    folder = jax.config.jax_compilation_cache_dir
    return epath.Path(folder) / kind / f"{hashlib.sha256(key.encode()).hexdigest()}{end}" if folder else None


def kept(kind: str, key: str, make: Callable[[], dict]) -> dict:
    """The result of `make`, which JSON can hold, or of an earlier time with the same key, jax, libtpu, flags of libtpu and level of optimisation."""
    if not jax.config.jax_compilation_cache_dir:
        return make()
    versions = [jax.__version__, importlib.metadata.version("libtpu"), os.environ.get("LIBTPU_INIT_ARGS", "")]
    versions += [level] if (level := jax.config.jax_optimization_level) != "UNKNOWN" else []
    path = place(kind, "\n".join([*versions, key]), ".json.gz")
    if not (result := read_kept(path)):
        result = make()
        keep(path, result)
    return result
