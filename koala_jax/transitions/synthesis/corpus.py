"""A folder of spliced videos: one small file each, made once."""
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core_jax.cli import tracked
from core_jax.files import in_memory, unbroken, write_bytes
from koala_jax import x264
from koala_jax.transitions import thumbnail
from koala_jax.transitions.synthesis.shots import Source
from koala_jax.transitions.synthesis.splice import Splice, splice

CODE = *sorted(Path(__file__).parent.glob("*.py")), Path(thumbnail.__file__), Path(x264.__file__)
"""what a spliced video depends on beside its sources and its seed"""


def corpus(folder: Path, sources: Sequence[Source], videos: int, seed: int) -> Iterator[Splice]:
    """Video i is drawn from (seed, i) and the sources; those that this code made of the same sources before are read from their files."""
    content = hashlib.sha256(b"".join(path.read_bytes() for path in CODE))
    for source in sources:
        content.update(source.name.encode())
        content.update(np.ascontiguousarray(source.frames))
    for i in tracked(range(videos), "videos spliced"):
        path = folder / f"{content.hexdigest()[:12]}-{seed}-{i:05d}.npy"
        table = unbroken(path, np.load)
        if table is None:
            table = _packed(splice(sources, np.random.default_rng([seed, i])))
            write_bytes(path, in_memory(lambda file: np.save(file, table)))
        yield _unpacked(table)


def _packed(made: Splice) -> np.ndarray:
    """A thumbnail a row, its pair's label behind it."""
    labels = np.append(made.labels, 0).astype(np.uint8)
    return np.concatenate([made.thumbs.reshape(len(made.thumbs), -1), labels[:, None]], 1)


def _unpacked(table: np.ndarray) -> Splice:
    return Splice(table[:, :-1].reshape(len(table), 96, 64), table[:-1, -1].astype(np.int8))
