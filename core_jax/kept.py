"""What took the compiler minutes, kept beside jax's compilation cache, so that an interrupted table goes on where it stopped."""
import gzip
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable

import jax
from etils import epath

from core_jax.files import write_bytes


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
    if path.exists():
        return json.loads(gzip.decompress(path.read_bytes()))
    result = make()
    write_bytes(path, gzip.compress(json.dumps(result).encode()))
    return result
