"""`python -m scaling_jax.benchmark`: trials an hour of a sweep, against the same trials made one by one.

Three ways to the same held-out losses, in turns: one sweep; one process of `videodit_jax.train` a trial, counted from its start to its
last held-out loss (what it draws and judges afterwards is not counted); both with their programs in the compilation cache. And, within
this process, the sweep's program against the training step that `train` compiles, both warm, on the same clips.
"""
import dataclasses
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from core_jax import cli, mesh
from core_jax.numbers import COUNT, refuse
from core_jax.race import Side, race
from core_jax.settings import to_json
from core_jax.state import compile_step, create
from core_jax.words import counted
from scaling_jax import cost, jobs, sweep, trials
from scaling_jax.flops import tokens
from scaling_jax.grid import SweepConfig
from scaling_jax.sizes import member
from scaling_jax.sweep import Size
from videodit_jax import step
from videodit_jax.run import make_model


@dataclasses.dataclass(frozen=True)
class Args:
    """Time a sweep against separate runs of its trials, on `shapes`."""

    preset: str = "tiny"
    """the family of sizes"""
    size: int = 3
    """size of the family"""
    lrs: tuple[float, ...] = (1e-3, 1.2e-3, 1.5e-3, 1.8e-3, 2e-3, 2.5e-3, 3e-3, 3.5e-3, 4e-3)
    """learning rates, one trial each and seed; by default as many as a default sweep trains of a size"""
    seeds: tuple[int, ...] = (0,)
    """seeds of the trials; on a GPU a step of a hundred small trials takes little longer than one of ten"""
    batch: int = 8
    """clips a step"""
    windows: int = 8
    """windows of 32 steps that a trial takes"""
    processes: bool = True
    """time whole processes too, not warm steps alone; on a GPU each process compiles its program for a minute in the first round"""
    rounds: int = 3
    """rounds of both sides, alternating"""
    json: str | None = None
    """also write the figures here"""

    def __post_init__(self):
        refuse(self, {COUNT: "size batch windows rounds"})


def alone(size: Size, seed: int, lr: float, out: Path) -> float:
    """Seconds to the last held-out loss of one trial as a process of `train`."""
    T, batch = size.tokens(size.rungs[-1]), size.config.batch * size.n
    config = jobs.config_of(size.sweep.preset, size.size, T=T, batch=batch, lr=lr, data=size.config.data, warmup=size.sweep.warmup)
    config, never = dataclasses.replace(config, out=str(out), seed=seed, eval_examples=size.sweep.eval_examples), config.steps + 1
    words = [*jobs.words(config), "--eval-every", str(never), "--sample-every", str(never)]
    begun = time.perf_counter()
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        said = []
        for line in run.stdout:
            said.append(line)
            if line.startswith(f"step {config.steps}: loss"):
                taken = time.perf_counter() - begun
                run.kill()
                return taken
    raise RuntimeError(f"a run of train ended without a held-out loss: {''.join(said[-1:]).strip()}")


def together(config: SweepConfig, out: Path) -> float:
    """Seconds of the sweep as a process."""
    given = to_json(config)
    flags = {name: given[name] for name in ("preset", "sizes", "budgets", "lrs", "batches", "seeds", "flops")}
    words = [word for name, value in flags.items() for word in (f"--{name}", *map(str, [value] if isinstance(value, str) else value))]
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "scaling_jax.sweep", "--out", str(out), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"the sweep failed: {''.join(done.stdout.splitlines()[-1:])}")
    return time.perf_counter() - begun


def warm(size: Size) -> dict[str, Side]:
    """As many steps of all trials either way, from untrained states; the clips are read before."""
    config, first = size.config, mesh.build(devices=jax.devices()[:1])
    made = size.trials()
    states, advance, (window, count) = trials.init(config, made, size.on), trials.advance(config, size.on), next(size.windows(0))
    state = create(lambda: make_model(config), config.optimizer.build(config.steps), first)
    one, batch = compile_step(step.make(config), state), jax.device_put(jax.tree.map(lambda x: np.asarray(x[0, : config.batch]), window), jax.devices()[0])

    def windows():
        nonlocal states
        states, _ = advance(states, made, window, count)
        return functools.partial(jax.block_until_ready, states)

    def steps():
        nonlocal state
        for _ in range(size.most * len(size.grid)):
            state, _ = one(state, batch)
        return functools.partial(jax.block_until_ready, state)

    return {"sweep": windows, "steps": steps}


def whole(size: Size, rounds: int, console: Console) -> dict[str, list[float]]:
    """Seconds a trial of the sweep and of processes of `train`, by round."""
    found = {"sweep": [], "processes": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):  # the first fills the compilation cache: to `train`, each trial is a program of its own
            console.print(f"round {number} of {rounds}" if number else "compiling")
            swept = together(size.sweep, Path(folder) / f"sweep{number}")
            runs = [alone(size, seed, lr, Path(folder) / f"run{number}_{i}") for i, (seed, _, lr) in enumerate(size.grid)]
            if number:
                found["sweep"].append(swept / len(size.grid))
                found["processes"].append(sum(runs) / len(size.grid))
    return found


def measure(args: Args, console: Console) -> dict:
    """All figures, as they go to --json."""
    mesh.use_cores(len(args.lrs) * len(args.seeds))
    mesh.start(args)
    base, steps, flops = member(args.preset, args.size), args.windows * sweep.MICROBATCHES, cost.FlopsModel.WHOLE
    budget = steps * args.batch * tokens(base) * cost.of(base, flops)
    config = SweepConfig(preset=args.preset, sizes=(args.size,), lrs=args.lrs, seeds=args.seeds, batches=(args.batch,), budgets=(budget,), flops=flops)
    size = Size(config, args.size, mesh.build())
    count, found = len(size.grid), whole(size, args.rounds, console) if args.processes else {}
    timings = race(warm(size), 1, args.rounds)
    found |= {f"warm {one.name}": [seconds / count * args.windows for seconds in one.wall] for one in timings}
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    pairs = {"sweep over processes": ("processes", "sweep"), "warm sweep over warm steps": ("warm steps", "warm sweep")}
    return {
        "N": size.N, "trials": count, "steps": steps, "clips a step": args.batch, "device": jax.devices()[0].device_kind, "devices": size.on.size,
        "seconds a trial": found, "trials an hour": {name: 3600 / seconds for name, seconds in medians.items()},
        "ratios": {name: medians[slow] / medians[fast] for name, (slow, fast) in pairs.items() if slow in medians},
    }  # fmt: skip


def main(args: list[str]) -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process and those that it starts share a GPU's memory
    parsed, console = cli.parse(Args, args, "scaling_jax.benchmark"), cli.console()
    found = measure(parsed, console)
    what = f"{counted(found['trials'], 'trial')} of {counted(found['steps'], 'step')}, N = {found['N']:,}, {found['devices']} × {found['device']}"
    shown = Table(what, "trials an hour", "seconds a trial, by round", title_justify="left")
    for name, rate in found["trials an hour"].items():
        shown.add_row(name, f"{rate:,.0f}", " ".join(f"{x:.3g}" for x in found["seconds a trial"][name]))
    console.print(shown)
    for name, ratio in found["ratios"].items():
        console.print(f"{name}: {ratio:.2f} times as many trials an hour")
    console.save(parsed.json, found)


if __name__ == "__main__":
    cli.run(main)
