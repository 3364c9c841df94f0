"""Two ways to do the same work, timed in turns in one process."""
import dataclasses
import math
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.cores import cores

ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one step, one figure a round."""

    name: str
    wall: list[float]
    cpu: list[float]
    """of all threads of this process"""

    @property
    def seconds(self) -> float:
        return statistics.median(self.wall)

    @property
    def cores(self) -> float:
        """How many it kept busy."""
        return sum(self.cpu) / sum(self.wall)


Side = Callable[[], Callable[[], object]]
"""starts a piece of work and returns what waits for its end"""


def race(sides: dict[str, Side], repeats: int, rounds: int = ROUNDS) -> list[Timing]:
    """Times the sides in turns, the first turn of each (compilation) not counted. As in training (`core_jax.loop`), a piece of work is
    waited for when the next one has been started."""
    timings = [Timing(name, [], []) for name in sides]
    for side in sides.values():
        side()()
    for _ in range(rounds):
        for timing, side in zip(timings, sides.values()):
            wall, cpu, wait = time.perf_counter(), time.process_time(), lambda: None
            for _ in range(repeats):
                wait, last = side(), wait
                last()
            wait()
            timing.wall.append((time.perf_counter() - wall) / repeats)
            timing.cpu.append((time.process_time() - cpu) / repeats)
    return timings


def race_calls(ours: Callable[[], object], theirs: Callable[[], object], seconds: float, device) -> list[Timing]:
    """Times calls in turns, in each as many, sent off one after another, as fill these seconds of ours; a figure is of one call. `device` is torch's."""
    import torch

    jax.block_until_ready(ours())
    begun = time.perf_counter()
    jax.block_until_ready(ours())
    repeats = math.ceil(seconds / (time.perf_counter() - begun))

    def burst():
        for _ in range(repeats):
            found = ours()
        return lambda: jax.block_until_ready(found)

    def torch_burst():
        for _ in range(repeats):
            theirs()
        return torch.cuda.synchronize if device.type == "cuda" else lambda: None

    timings = race({"ours": burst, "torch": torch_burst}, 1)
    return [Timing(one.name, *([x / repeats for x in turns] for turns in (one.wall, one.cpu))) for one in timings]


def matmuls(dtype: jnp.dtype, size: int, device) -> dict[str, Side]:
    """A square matrix product in both frameworks: what the device, torch's name of it, can do."""
    import torch

    numbers = np.random.default_rng(0).standard_normal((size, size), np.float32)  # ones or zeros would take less power, and time
    x, y = jnp.asarray(numbers, dtype), torch.from_numpy(numbers).to(device, getattr(torch, jnp.dtype(dtype).name))
    product = jax.jit(lambda x: x @ x)
    return {"ours": lambda: product(x).block_until_ready, "torch": lambda: (y @ y)[0, 0].item}


def unfair(had: float | None, threads: int) -> str | None:
    """A warning where the matrix product had clearly fewer cores than there are threads."""
    if had is None or had >= 0.9 * threads:
        return None
    return (
        f"not a fair race: the matrix product got {had:.1f} of {threads} cores, other work has the rest; "
        "PyTorch's threads wait for each other many times a step and lose more by that"
    )


def torch_device():
    """torch's name of the device that jax runs on; torch gets as many threads as there are cores.

    Raises:
      ValueError: no torch, or one that cannot use jax's device.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ValueError("torch is not installed, and the benchmark races it: pip install 'videogen-jax[reproduce]'") from error
    backend = jax.default_backend()
    if backend not in ("cpu", "gpu") or (backend == "gpu" and not torch.cuda.is_available()):
        raise ValueError(f"jax runs on {backend} and this torch cannot: run both on one CPU (JAX_PLATFORMS=cpu) or one GPU")
    torch.set_num_threads(cores())
    return torch.device("cuda" if backend == "gpu" else "cpu")
