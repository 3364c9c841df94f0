"""Captions whose features are kept in a folder, so that each is encoded once."""
import logging
from collections.abc import Iterable

import jax
import numpy as np
from etils import epath
from jaxtyping import Float16

from core_jax import cli, mesh
from core_jax.mesh import MeshConfig
from videodit_jax.config import Dtype
from videodit_jax.parts import path_of, read_array, write_array
from videodit_jax.umt5 import WORDS
from videodit_jax.umt5.encoder import TextEncoder
from videodit_jax.umt5.load import digest, folders, read_config


class Captions:
    """Of one text encoder; of none there is nothing to keep."""

    def __init__(self, directory: str | None, folder: epath.Path, dtype: Dtype):
        """Raises ValueError: the directory holds no text encoder."""
        self.directory, self.folder, self.dtype, self.encoder, self.waiting = directory, folder, dtype, None, []
        if directory:
            self.width = read_config(folders(directory)[0]).width
            self.settings = ["text", digest(directory), dtype.resolve().value]

    def load(self, captions: Iterable[str]) -> None:
        """Loads the encoder over all devices of this host, if one of these captions waits for it. Raises ValueError: what `TextEncoder` refuses."""
        if self.directory:
            waiting = [caption for caption in set(captions) - {""} if not self._path(caption).exists()]
            self.waiting = sorted(waiting, key=lambda caption: (len(caption), caption))
        if self.waiting:
            on = mesh.build(MeshConfig(data=1, fsdp=-1), devices=jax.local_devices())
            self.encoder = TextEncoder(self.directory, on, self.dtype.jax, WORDS)

    def encode(self) -> None:
        """Encodes those that wait, and lets the encoder go."""
        if self.waiting:
            full = 0
            with cli.progress("captions", len(self.waiting), cli.console()) as done:
                for one, caption in zip(self.encoder(self.waiting), self.waiting):
                    write_array(self._path(caption), one)
                    full += len(one) == WORDS
                    done()
            if full:
                said = "%d of %d captions fill the %d tokens that are read; what is longer was cut"
                logging.getLogger(__name__).warning(said, full, len(self.waiting), WORDS)
        self.encoder = None

    def features(self, caption: str) -> dict[str, Float16[np.ndarray, "n C"]]:
        """ "text" of an example, where there is a text encoder; an empty caption has no features."""
        if not self.directory:
            return {}
        return {"text": read_array(self._path(caption)) if caption else np.zeros((0, self.width), np.float16)}

    def _path(self, caption: str) -> epath.Path:
        return path_of(self.folder, [*self.settings, caption])
