"""Tile sizes of the TPU kernel, from the call's own shape, dtype and chip."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import DTypeLike

_log = logging.getLogger(__name__)

LANES = 128
LARGEST_BYTES = 2048
"""Itemsize × side of the largest tile: 1,024 in bf16, or 4,096 cycles of a v5e's matrix units at head dim 128. An fp32
product takes six bf16 passes, so that there a side of 512 hides the cost of a step and keeps the program small. The
forward pass in bf16 takes twice as many keys, and both take twice as many again (forward queries, backward keys) where the matrix units are
256 wide and through with a tile in a third of the time: the beginning and the end of a tile, when not every unit works, weigh less."""
CHUNKS = 16, 8, 4, 3, 2
"""Tiles that a step of a kernel works off, as many as fit: to begin a step costs 2 to 5 % of a tile."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """`q` queries × `k` keys: the scores that a kernel makes at a time."""

    q: int
    k: int


PART = Tile(256, LANES)
"""The scores that a v5e and a v5p do well to work off at a time, as their compiled schedules say: smaller parts feed the matrix units worse,
larger ones do not stay in registers."""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The tile of the forward pass, that of the backward pass, the part of its scores that the forward pass works off at a time, how many
    tiles come in one step, of keys forward and of queries backward, and whether the backward pass turns scores before the matrix units take
    them in."""

    forward: Tile
    backward: Tile
    part: Tile
    key_chunk: int
    query_chunk: int
    turned: bool = False


def slices(length: int, size: int) -> list[slice]:
    """`length` cut into slices of `size`; the last one may be shorter."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


@functools.lru_cache(maxsize=None)
def plan(rows: int, columns: int, dim: int, dtype: DTypeLike, vmem: int, mxu: int = LANES, bias: int = 0, part: Tile = PART) -> Tiles:
    """Tiles for `rows` queries and `columns` keys of head dim `dim` on a chip with `vmem` bytes of vector memory and matrix units of
    `mxu` columns; a score's bias takes `bias` bytes, 0 without one.

    Each length is cut into equal tiles of at most 1,024 (512 in fp32; in bf16 2,048 keys forward, and, where `mxu` is 256, 2,048 queries forward
    and 2,048 keys backward), rounded up to whole lanes, so that 512 text tokens make one tile of 512 and 1,100 queries two of 640. Where
    that does not fit half of the memory (three fifths backward), the longer side is halved. A step takes as many tiles as fit too.
    """
    dtype = jnp.dtype(dtype)
    side = LARGEST_BYTES // dtype.itemsize
    largest = Tile(side * mxu // LANES, side * 2) if dtype.itemsize == 2 else Tile(side, side)
    forward_bytes, backward_bytes = (functools.partial(f, dim=dim, itemsize=dtype.itemsize, bias=bias) for f in (_forward_bytes, _backward_bytes))
    most = vmem // 5 * 3  # backward: the gradients of queries want the rest
    forward = _fit(rows, columns, largest, lambda tile: forward_bytes(tile) <= vmem // 2)
    backward = _fit(rows, columns, Tile(side, side * mxu // LANES) if dtype.itemsize == 2 else largest, lambda tile: backward_bytes(tile) <= most)
    chunks = () if bias else CHUNKS
    key_chunk = next((n for n in chunks if forward_bytes(forward, chunk=n) <= vmem), 1)
    query_chunk = next((n for n in chunks if backward_bytes(backward, chunk=n) <= most), 1)
    described = rows, columns, dim, dtype.name, forward, key_chunk, backward, query_chunk
    _log.info("attention of %d×%d, head dim %d, %s: tiles %s, %d a step, %s, %d a step", *described)
    turned = round_up(dim, LANES) < mxu  # a unit of 256 columns takes a turned tile in while 256 rows pass through
    return Tiles(forward, backward, part, key_chunk, query_chunk, turned)


def _fit(rows: int, columns: int, largest: Tile, fits: Callable[[Tile], bool]) -> Tile:
    while True:
        tile = Tile(_even(rows, largest.q), _even(columns, largest.k))
        if fits(tile) or max(tile.q, tile.k) == LANES:
            return tile
        if tile.q >= tile.k:
            largest = Tile(tile.q // 2, largest.k)
        else:
            largest = Tile(largest.q, tile.k // 2)


def _even(length: int, largest: int) -> int:
    """The smallest whole number of lanes that covers `length` in as few tiles as `largest` does."""
    largest = max(largest // LANES, 1) * LANES
    return round_up(-(-length // -(-length // largest)), LANES)


def _forward_bytes(tile: Tile, *, dim: int, itemsize: int, bias: int, chunk: int = 1) -> int:
    """Vector memory of one step: scores in fp32 and their bias twice; queries and results, and a chunk of keys and values, twice; the values of
    the tile before; accumulators in fp32."""
    dim = round_up(dim, LANES)
    operands = itemsize * dim * (4 * tile.q + 4 * chunk * tile.k + tile.k)
    return (4 + 2 * bias) * tile.q * tile.k + operands + 4 * tile.q * (dim + LANES)


def _backward_bytes(tile: Tile, *, dim: int, itemsize: int, bias: int, chunk: int = 1) -> int:
    """As above, without the gradients of a block of queries: four figures a score; keys, values and their gradients, and a chunk of queries,
    of the results' gradients and of the queries' own, twice."""
    dim = round_up(dim, LANES)
    operands = itemsize * dim * (8 * tile.k + 6 * chunk * tile.q + tile.k)
    return (16 + 2 * bias) * tile.q * tile.k + operands + 4 * tile.k * 2 * dim + 16 * chunk * tile.q * 8


def even_chunk(tiles: int, most: int) -> int:
    """Tiles of a step, at most `most`: as many in each as are needed for the fewest steps."""
    return -(-tiles // -(-tiles // most))


def query_block(tiles: int, heads: int, dim: int, dtype: DTypeLike, tile: Tile, chunk: int, vmem: int, bias: int = 0) -> int:
    """How many tiles of queries the backward kernel takes in one go, in whole chunks, so that their gradients of `heads` heads, in fp32, fit
    beside what a step needs: as many for every go as are needed for the fewest."""
    room = vmem - _backward_bytes(tile, dim=dim, itemsize=jnp.dtype(dtype).itemsize, bias=bias, chunk=chunk)
    chunks = -(-tiles // chunk)
    goes = -(-chunks // max(room // (4 * heads * dim * tile.q * chunk), 1))
    return -(-chunks // goes) * chunk


def round_up(x: int, multiple: int) -> int:
    return -(-x // multiple) * multiple
