"""What took the compiler minutes, kept beside jax's compilation cache, so that an interrupted table goes on where it stopped."""
import hashlib
import importlib.metadata
import os
from collections.abc import Callable

import jax
from etils import epath

from core_jax.files import keep, read_kept


def kept(kind: str, key: str, make: Callable[[], dict]) -> dict:
    """The result of `make`, or of an earlier time with the same key, jax, libtpu and flags of libtpu.

    Args:
      kind: folder in `jax_compilation_cache_dir`; without such a directory nothing is kept.
      make: gives what JSON can hold.
    """
    folder = jax.config.jax_compilation_cache_dir
    if not folder:
        return make()
    versions = [jax.__version__, importlib.metadata.version("libtpu"), os.environ.get("LIBTPU_INIT_ARGS", "")]
    digest = hashlib.sha256("\n".join([*versions, key]).encode()).hexdigest()
    path = epath.Path(folder) / kind / f"{digest}.json.gz"
    if not (result := read_kept(path)):
        result = make()
        keep(path, result)
    return result
