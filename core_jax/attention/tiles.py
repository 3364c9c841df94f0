"""Tile sizes of the TPU kernel, from the call's own shape, dtype and chip, and what padding to tiles costs."""

from __future__ import annotations

import dataclasses
import functools
import logging

import jax.numpy as jnp
from jax.typing import DTypeLike

_log = logging.getLogger(__name__)

LANES = 128
LARGEST_BYTES = 2048
"""Itemsize × side of the largest tile: 1,024 in bf16, or 4,096 cycles of a v5e's matrix units at head dim 128. An fp32
product takes six bf16 passes, so that there a side of 512 hides the cost of a step and keeps the program small. The
forward pass in bf16 takes twice as many keys, and twice as many queries where the matrix units are 256 wide and through with a
tile in a third of the time: the beginning and the end of a step, when not every unit works, weigh less."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """`q` queries × `k` keys: the scores that one step of a kernel makes."""

    q: int
    k: int


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The tile of the forward pass, that of the backward pass, and the part of its scores that the forward pass works off at a time."""

    forward: Tile
    backward: Tile
    part: Tile


def slices(length: int, size: int) -> list[slice]:
    """`length` cut into slices of `size`; the last one may be shorter."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


@functools.lru_cache(maxsize=None)
def plan(rows: int, columns: int, dim: int, dtype: DTypeLike, vmem: int, mxu: int = LANES, bias: int = 0) -> Tiles:
    """Tiles for `rows` queries and `columns` keys of head dim `dim` on a chip with `vmem` bytes of vector memory and matrix units of
    `mxu` columns; a score's bias takes `bias` bytes, 0 without one.

    Each length is cut into equal tiles of at most 1,024 (512 in fp32; in the bf16 forward pass 2,048 keys, and as many queries where
    `mxu` is 256), rounded up to whole lanes, so that 512 text tokens make one tile of 512 and 1,100 queries two of 640. Where that does
    not fit half of the memory, the longer side is halved.
    """
    dtype = jnp.dtype(dtype)
    side = LARGEST_BYTES // dtype.itemsize
    largest = Tile(side * mxu // LANES, side * 2) if dtype.itemsize == 2 else Tile(side, side)
    forward = _fit(rows, columns, dim, dtype.itemsize, vmem // 2, 4 + 2 * bias, largest)
    backward = _fit(rows, columns, dim, dtype.itemsize, vmem // 2, 16 + 2 * bias, Tile(side, side))
    _log.info("attention of %d×%d, head dim %d, %s: tiles %s, %s", rows, columns, dim, dtype.name, forward, backward)
    return Tiles(forward, backward, Tile(2 * mxu, 512))  # the part as compiled schedules say: NOTES.md


def _fit(rows: int, columns: int, dim: int, itemsize: int, budget: int, score_bytes: int, largest: Tile) -> Tile:
    while True:
        tile = Tile(_even(rows, largest.q), _even(columns, largest.k))
        if _bytes(tile, dim, itemsize, score_bytes) <= budget or max(tile.q, tile.k) == LANES:
            return tile
        if tile.q >= tile.k:
            largest = Tile(tile.q // 2, largest.k)
        else:
            largest = Tile(largest.q, tile.k // 2)


def _even(length: int, largest: int) -> int:
    """The smallest whole number of lanes that covers `length` in as few tiles as `largest` does."""
    largest = max(largest // LANES, 1) * LANES
    return _round_up(-(-length // -(-length // largest)), LANES)


def _bytes(tile: Tile, dim: int, itemsize: int, score_bytes: int) -> int:
    """Vector memory of one step: what lies there for each score (its fp32 value, one in the forward and four in the backward pass, and
    its bias twice), double-buffered operands and results, fp32 accumulators."""
    dim = _round_up(dim, LANES)
    operands = 2 * itemsize * dim * 4 * max(tile.q, tile.k)
    accumulators = 4 * 2 * tile.q * LANES + 4 * dim * 2 * max(tile.q, tile.k)
    return score_bytes * tile.q * tile.k + operands + accumulators


def query_block(tiles: int, heads: int, dim: int, dtype: DTypeLike, tile: Tile, vmem: int, bias: int = 0) -> int:
    """How many tiles of queries the backward kernel takes in one go, so that their gradients of `heads` heads, in fp32, fit beside what a
    step needs: as many for every go as are needed for the fewest."""
    room = vmem - _bytes(tile, dim, jnp.dtype(dtype).itemsize, 16 + 2 * bias)
    goes = -(-tiles // max(room // (4 * heads * dim * tile.q), 1))
    return -(-tiles // goes)


@dataclasses.dataclass(frozen=True)
class Work:
    """Floating-point operations of attention's matrix products: those that the call asks for, and those executed."""

    useful: int
    executed: int


def forward_work(
    batch: int, heads: int, rows: int, columns: int, dim: int, tile: Tile, *, causal: bool = False, q_offset: int = 0
) -> Work:
    """FLOPs of the two forward products (the backward pass has 5, of the same shape, on its own tile).

    Executed are whole tiles, with the head dim padded to lanes: a head dim of 80 is multiplied as 128, one of 64 too.
    Only tiles that hold a visible score are counted.
    """
    seen = [min(columns, max(0, i + 1 + q_offset)) if causal else columns for i in range(rows)]
    last_rows = [min(start + tile.q, rows) - 1 for start in range(0, rows, tile.q)]
    key_tiles = sum(-(-seen[last] // tile.k) for last in last_rows)
    flops = 4 * batch * heads
    return Work(flops * dim * sum(seen), flops * _round_up(dim, LANES) * key_tiles * tile.q * tile.k)


def _round_up(x: int, multiple: int) -> int:
    return -(-x // multiple) * multiple
