"""Batches from a source: one global stream of examples, of which each host loads the rows that its devices hold.

The stream is the source shuffled anew each epoch, without end; global batch n is its positions n·batch … (n+1)·batch − 1. So a
batch is the same, in the same order, on every number of hosts, and a run goes on from a position alone. Where clips have several shapes each bucket
of them has such a stream, and buckets.py says whose turn batch n is.
"""
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from core_jax.mesh import AXES
from core_jax.sharding import RULES, batch_pieces, batch_sharding
from videodit_jax.data.buckets import parts, turn

OTHERS = tuple(axis for axis in AXES if axis not in RULES.B)
"""mesh axes along which lie copies of a row"""


def shuffled(length: int, seed: int) -> grain.MapDataset:
    """The indices of a source's examples, by their position in the stream."""
    return grain.MapDataset.range(length).seed(seed).shuffle().repeat()


def spaced(length: int, number: int) -> np.ndarray:
    """Up to `number` places of so many, evenly spaced from the first on: neighbours may be clips of one video."""
    number = min(length, number)
    return np.arange(number) * length // max(number, 1)


def loader(
    source: Any,
    encode: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    seed: int,
    batch: int,
    rows: Sequence[int] | None = None,
    start: int = 0,
    threads: int = 2,
) -> Iterator[Any]:
    """Numpy batches, without end.

    Args:
      source: random access, `len(source)` and `source[i]`; or `buckets.Mixed`.
      encode: example → fixed-shape arrays.
      batch: examples in a global batch.
      rows: which of its rows to load; all of them by default.
      start: how many examples all hosts together have seen.
      threads: readers, at most, each of one example at a time; two batches are read ahead, or up to four where there are readers for them.

    Raises:
      ValueError: the source is empty, or a row lies outside the batch.
    """
    if len(source) == 0:
        raise ValueError("the data holds no clip")
    rows = np.arange(batch) if rows is None else np.asarray(rows)
    if not len(rows) or rows.min() < 0 or rows.max() >= batch:
        raise ValueError(f"rows must be some of 0 … {batch - 1}, but are {rows.tolist()}")
    sources = list(parts(source).values())
    sizes = tuple(map(len, sources))
    streams = [shuffled(size, seed) for size in sizes]
    first, rest = divmod(start, batch)
    local = grain.MapDataset.range((2**62 - start) // batch * len(rows))

    def load(i: int) -> dict[str, Any]:
        k, j = turn(first + i // len(rows), sizes)
        position = rest + j * batch + rows[i % len(rows)]
        return encode(sources[k][int(streams[k][int(position)])])

    ahead = len(rows) * min(max(-(-threads // len(rows)), 2), 4)  # not more for more readers: a host of a hundred cores would hold as many clips
    options = grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead)
    return iter(local.map(load).to_iter_dataset(options).batch(len(rows)))


def epoch(
    source: Any,
    encode: Callable[[dict[str, Any]], dict[str, Any]],
    *,
    batch: int,
    rows: Sequence[int] | None = None,
    limit: int | None = None,
    threads: int = 2,
) -> Iterator[dict[str, Any]]:
    """The source once, in order, or `limit` of its examples, `spaced`, in batches with the "number" of each and a "weight" of 1, or 0 for what
    fills the last batch: the last example, read once; `rows` as `loader`, from the first to the last."""
    rows = np.arange(batch) if rows is None else np.asarray(rows)
    chosen = spaced(len(source), limit or len(source))
    number = len(chosen)
    places = np.arange(0, number, batch)[:, None] + rows
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    wanted = grain.MapDataset.source(np.unique(np.minimum(places, number - 1)))
    examples, example = iter(wanted.map(lambda i: encode(source[int(chosen[i])])).to_iter_dataset(options)), None
    for row in places:
        filled = []
        for place in row:
            example = next(examples, example)
            filled.append(example | {"number": np.int32(place), "weight": np.float32(place < number)})
        yield jax.tree.map(lambda *parts: np.stack(parts), *filled)


def global_batches(
    source: Any, encode: Callable[[Any], dict[str, Any]], on: Mesh, *, seed: int, batch: int, start: int, threads: int = 2
) -> Iterator[dict[str, Any]]:
    """Batches on the mesh, from position `start` of the stream on; each host loads the rows that its devices hold, by so many readers."""
    rows, put = _share(on, batch)
    for local in loader(source, encode, seed=seed, batch=batch, rows=rows, start=start, threads=threads):
        yield jax.tree.map(put, local)


def global_epoch(
    source: Any, encode: Callable[[Any], dict[str, Any]], on: Mesh, *, batch: int, limit: int | None = None, threads: int = 2
) -> Callable[[], Iterator[dict[str, Any]]]:
    """As `epoch`, read once; each call lays it out on the mesh, batch after batch: held there, large clips would take a device's memory while it
    trains. Each host loads the rows that its devices hold, by so many readers."""
    rows, put = _share(on, batch)
    held = list(epoch(source, encode, batch=batch, rows=rows, limit=limit, threads=threads))
    return lambda: (jax.tree.map(put, local) for local in held)


def rows_of(on: Mesh, batch: int, host: int) -> np.ndarray:
    """The rows of a batch that a host's devices hold."""
    places = batch_sharding(on).devices_indices_map((batch,)).items()
    return np.unique(np.concatenate([np.arange(batch)[place] for device, place in places if device.process_index == host]))


def _share(on: Mesh, batch: int) -> tuple[np.ndarray, Callable[[np.ndarray], jax.Array]]:
    """The rows of a batch that this host's devices hold, and what makes of an array of these rows that of the whole batch.

    Where the mesh cuts tokens or heads, several hosts hold a row. All of them take it from the one that has its first copy: one that could
    not read a clip has another in its place, and parts of two clips would be trained on as one.
    """
    sharding, rows = batch_sharding(on), rows_of(on, batch, jax.process_index())

    def put(array: np.ndarray) -> jax.Array:
        with jax.transfer_guard("allow"):  # with several hosts jax takes this transfer for an implicit one
            if _shared(on):
                return _from_first(on, rows, array, (batch, *array.shape[1:]))
            return jax.make_array_from_process_local_data(sharding, array, (batch, *array.shape[1:]))

    return rows, put


def _shared(on: Mesh) -> bool:
    """Whether several hosts hold a row."""
    held = np.array([device.process_index for device in on.devices.flat]).reshape(batch_pieces(on), -1)
    return bool((held != held[:, :1]).any())


def _from_first(on: Mesh, rows: np.ndarray, array: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    """The batch whose every row is that of its first copy, of those that lie along the mesh axes on which B does not lie."""
    number = math.prod(on.shape[axis] for axis in OTHERS)
    here = lambda place: array[np.searchsorted(rows, np.arange(shape[0])[place[1]])][None]
    copies = jax.make_array_from_callback((number, *shape), NamedSharding(on, PartitionSpec(OTHERS, RULES.B)), here)
    return _first(on)(copies)


@functools.cache
def _first(on: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Takes the first copy; the compiler makes it one all-reduce, in which the others count zero."""
    return jax.jit(lambda copies: copies[0], out_shardings=batch_sharding(on))
