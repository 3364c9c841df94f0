"""Clips that are drawn, as `shapes` and `stories` are: each at once, by all cores, and held in memory, where all sizes and epochs of a sweep read it.

A device that trains hundreds of small models takes tens of thousands of clips a second, and a core draws a thousand or two. What is decoded from
files, or would fill more than half of the memory, is read as `train` reads it, by `loader`.
"""
import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from core_jax.cores import cores
from videodit_jax.config import TrainConfig
from videodit_jax.data import Source, encoder, open_sources, statistics_of
from videodit_jax.data.loader import shuffled

DRAWN = ("shapes", "stories")
"""values of --data"""
CHUNK = 1024
"""clips that a process draws before it sends them"""
LIMITS = tuple(Path("/sys/fs/cgroup") / file for file in ("memory.max", "memory/memory.limit_in_bytes"))
"""of a container's memory, as cgroup 2 and 1 tell it"""
FEW = 8 * CHUNK
"""clips that one process draws sooner than others start"""


def encoder_of(config: TrainConfig, source: Source) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """As a run on this source has it."""
    return encoder(config, statistics_of(config, source))


@dataclasses.dataclass(frozen=True)
class Held:
    """The first clips of a run's stream, encoded."""

    clips: Any
    """one row each; those that the stream repeats stand once"""
    order: Int[np.ndarray, "positions"]
    """of the stream, as rows of `clips`"""

    def batches(self, batch: int, start: int) -> Iterator[Any]:
        """As `loader` makes them."""
        for i in itertools.count(start, batch):
            yield jax.tree.map(lambda x: x[self.order[i : i + batch]], self.clips)


def memory() -> int:
    """Bytes that this machine has, or the container that the process runs in."""
    limits = [int(text) for file in LIMITS if file.exists() and (text := file.read_text()).strip().isdigit()]  # "max": none
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits])


def hold(config: TrainConfig, seeds: tuple[int, ...], count: int) -> dict[int, Held]:
    """By seed, the first `count` clips of the streams that runs of these seeds read."""
    parts = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    pool = _workers(len(seeds) * count)
    try:
        return {seed: _held(dataclasses.replace(config, seed=seed), parts, pool) for seed in seeds}
    finally:  # who stops early does not wait for all that was to be drawn
        pool.shutdown(wait=False, cancel_futures=True)


def _workers(count: int) -> concurrent.futures.Executor:
    if count <= FEW:
        return concurrent.futures.ThreadPoolExecutor(1)
    spawn = multiprocessing.get_context("spawn")  # a fork of a process that runs jax can hang
    return concurrent.futures.ProcessPoolExecutor(cores(), spawn, initializer=_begin)


def _begin() -> None:
    """Of a process that draws: it takes no accelerator, leaves Ctrl-C to the sweep, and ends with it however that ends."""
    jax.config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _held(config: TrainConfig, parts: list[range], pool: concurrent.futures.Executor) -> Held:
    order = np.concatenate(list(pool.map(_indices, itertools.repeat(config), parts)))
    indices, rows = np.unique(order, return_inverse=True)
    cut = [indices[i : i + CHUNK] for i in range(0, len(indices), CHUNK)]
    clips = None
    for at, some in zip(itertools.count(0, CHUNK), pool.map(_clips, itertools.repeat(config), cut)):
        clips = clips or jax.tree.map(lambda x: np.empty((len(indices), *x.shape[1:]), x.dtype), some)
        for whole, part in zip(jax.tree.leaves(clips), jax.tree.leaves(some)):
            whole[at : at + CHUNK] = part
    return Held(clips, rows)


@functools.cache
def _reading(config: TrainConfig) -> tuple[Source, Callable]:
    source, _ = open_sources(config)
    return source, encoder_of(config, source)


def _indices(config: TrainConfig, positions: range) -> Int[np.ndarray, "positions"]:
    stream = shuffled(len(_reading(config)[0]), config.seed)
    return np.array([int(stream[i]) for i in positions])


def _clips(config: TrainConfig, indices: Int[np.ndarray, "clips"]) -> Any:
    source, encode = _reading(config)
    return jax.tree.map(lambda *x: np.stack(x), *(encode(source[int(i)]) for i in indices))
