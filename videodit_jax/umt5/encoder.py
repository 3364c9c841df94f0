"""Captions to features on the devices of a mesh."""
import html
import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float16

from core_jax.compiler import jit
from core_jax.sharding import batch_pieces, batch_sharding, distribute
from videodit_jax.umt5.load import folders, load, load_tokenizer, read_config

SHORTEST = 16
"""places that a caption takes at least; longer ones take powers of two, so that few programs are compiled"""
BATCH = 8
"""captions at once on a device"""


class TextEncoder:
    """Every host of the mesh gives the same and gets all."""

    def __init__(self, directory: epath.PathLike, on: Mesh, dtype: jnp.dtype, words: int):
        """Raises ValueError: what `load` and `load_tokenizer` refuse.

        Args:
          dtype: of weights and computation.
          words: tokens of a caption that are read, its end among them.
        """
        self.mesh, self.words = on, words
        config, self.tokenizer = read_config(folders(directory)[0]), load_tokenizer(directory)
        largest, known, self.width = max(self.tokenizer.get_vocab().values()), config.vocabulary, config.width
        if largest >= known:
            raise ValueError(f"{directory}: the tokenizer numbers its tokens up to {largest}, and the text encoder knows {known}: they do not belong together")
        self.model = load(directory, on, dtype)
        self._encode = jit(lambda model, *text: model(*text).astype(jnp.float16), out_shardings=NamedSharding(on, PartitionSpec()))

    @property
    def batch(self) -> int:
        """Captions that the devices take at once."""
        return BATCH * batch_pieces(self.mesh)

    def tokens(self, caption: str) -> list[int]:
        """All tokens of a caption, as Wan 2.1 reads it: entities of HTML resolved, white space made one blank, the end marked."""
        return self.tokenizer.encode(" ".join(html.unescape(html.unescape(caption)).split())).ids

    def __call__(self, captions: Iterable[str]) -> Iterator[Float16[np.ndarray, "n C"]]:
        """Features of each caption's tokens; of one that is too long, of its first tokens and its end.

        So many at once take the places of the longest of them: captions of about one length belong side by side.
        """
        read = (ids if len(ids) <= self.words else [*ids[: self.words - 1], ids[-1]] for ids in map(self.tokens, captions))
        while some := list(itertools.islice(read, self.batch)):
            yield from self._some(some)

    def _some(self, read: list[list[int]]) -> list[np.ndarray]:
        lengths = np.array([len(ids) for ids in read] + [1] * (self.batch - len(read)), np.int32)
        places = max(SHORTEST, 1 << (int(lengths.max()) - 1).bit_length())
        tokens = np.zeros((self.batch, places), np.int32)
        for row, ids in zip(tokens, read):
            row[: len(ids)] = ids
        with jax.set_mesh(self.mesh):
            features = jax.device_get(self._encode(self.model, *distribute((tokens, lengths), batch_sharding(self.mesh))))
        return [row[:n] for row, n, _ in zip(features, lengths, read)]
