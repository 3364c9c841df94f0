"""`python -m scaling_jax.sweep --out DIR`: trains a grid of sizes, budgets, batches and learning rates; one row a finished trial.

The learning rate is constant, so a run to a small budget is the beginning of a run to a large one: each (size, batch, learning rate,
seed) is trained once, to the largest budget, and its held-out loss is read off as it passes every budget. All trials of a size run in
one program (trials.py). DIR/runs.csv is the table that `fit` reads; a sweep that was stopped goes on by the same command.
"""
import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console

from core_jax import cli, mesh
from core_jax.checkpoint import Checkpoints, refuse_place
from core_jax.sharding import distribute
from core_jax.state import TrainState
from core_jax.stop import StopSignal
from core_jax.weights import fetch
from core_jax.words import counted
from scaling_jax import clips, cost, plan_runs, trials
from scaling_jax.clips import Held
from scaling_jax.cost import TokenFlops
from scaling_jax.flops import parameters, tokens
from scaling_jax.grid import SweepConfig
from scaling_jax.prune import surviving
from scaling_jax.rows import Rows
from scaling_jax.sizes import family, member
from scaling_jax.table import unit_flags
from scaling_jax.trials import Trials
from videodit_jax.data import Source, open_sources
from videodit_jax.data.loader import epoch, loader
from videodit_jax.evaluate.loss import NOISE

MICROBATCHES = 32
"""of a window, if the budgets are long enough: more make fewer copies of the states, as each trial's is taken out of the stack once a window"""
SAVE_EVERY = 300.0
"""seconds between checkpoints: what lies behind the last one is trained again, and measured again"""


class Size:
    """All trials of one model size."""

    def __init__(self, config: SweepConfig, size: int, on: Mesh):
        b, largest = min(config.batches), max(config.batches)
        base = member(config.preset, size)
        optimizer = dataclasses.replace(base.optimizer, warmup=config.warmup)
        self.config = dataclasses.replace(base, data=config.data or base.data, batch=b, eval_examples=config.eval_examples, optimizer=optimizer)
        self.sweep, self.size, self.on = config, size, on
        self.N, self.n = parameters(self.config.model), tokens(self.config)
        self.token_flops = cost.of(base, config.flops)
        self.grid = list(itertools.product(config.seeds, config.batches, config.lrs))
        ends = config.steps_of(size)
        self.most = max(MICROBATCHES * b // largest, 1)
        """steps of the largest batch that a window has room for; the last one before a budget makes fewer"""
        self.steps = np.concatenate([*(np.arange(begun, end, self.most) for begun, end in zip([0, *ends], ends)), ends[-1:]])
        """of the largest batch, after so many windows"""
        self.rungs = np.searchsorted(self.steps, ends).tolist()
        """windows after which the held-out loss is read"""
        self.sources = [self._source(seed) for seed in sorted(config.seeds)]
        self.held: dict[int, Held] = {}
        """of each seed, where the clips are drawn, by `hold`"""

    def trials(self) -> Trials:
        """The grid, filled up to a multiple of the devices by repeating its last trial."""
        filled = self.grid + self.grid[-1:] * (trials.rows(len(self.grid), self.on) - len(self.grid))
        seeds, batches, lrs = (np.array(column) for column in zip(*filled))
        source = np.searchsorted(np.unique(self.sweep.seeds), seeds)
        alive = np.ones(len(filled), bool)
        return Trials(np.float32(lrs), np.int32(batches // self.config.batch), np.uint32(seeds), np.int32(source), alive)

    def tokens(self, windows: int) -> int:
        """T after so many windows."""
        return self.clips(windows) * self.n

    def clips(self, windows: int) -> int:
        """Of each stream, after so many windows."""
        return int(self.steps[windows]) * max(self.sweep.batches)

    def losses(self, rows: Rows, rungs: list[int]) -> np.ndarray:
        """Held-out losses in the table, (rungs, trials)."""
        grid = [(seed, batch * self.n, lr) for seed, batch, lr in self.grid]
        return np.array([rows.losses(self.N, self.tokens(rung), grid) for rung in rungs])

    def done(self, rows: Rows) -> bool:
        """Whether nothing is left to train, by the table: it was trained to its largest budget, or none of its trials goes on."""
        measured = [rung for rung in self.rungs if rows.measured(self.N, self.tokens(rung))]
        return measured[-1:] == self.rungs[-1:] or not self.alive(rows, measured).any()

    def alive(self, rows: Rows, rungs: list[int]) -> np.ndarray:
        """Which trials go on after these rungs, by the table alone: not those that diverged, nor those that `prune` drops,
        with all seeds of their (batch, lr) or none: a mean over those that did well would be too low."""
        if not rungs:
            return np.ones(len(self.grid), bool)
        losses = self.losses(rows, rungs)
        if not self.sweep.prune:
            return np.isfinite(losses[-1])
        seeds = len(self.sweep.seeds)  # they vary slowest in the grid
        mean = losses.reshape(len(rungs), seeds, -1).mean(1)
        return np.tile(surviving(np.array([self.tokens(rung) for rung in rungs], float), mean, self.tokens(self.rungs[-1])), seeds)

    def living(self, made: Trials, alive: np.ndarray) -> Trials:
        """The trials with those marked that go on; what fills up the devices does not."""
        return dataclasses.replace(made, alive=np.concatenate([alive, np.zeros(len(made.lr) - len(alive), bool)]))

    def windows(self, start: int) -> Iterator[tuple[Any, np.int32]]:
        """Windows from number `start` on: clips, one stream a seed, on every device, and how many microbatches of them count."""
        batch, begun = max(self.sweep.batches), self.clips(start)
        held = self.held
        loaders = [
            held[seed].batches(batch, begun) if held else loader(source, encode, seed=seed, batch=batch, start=begun)
            for seed, source, _, encode in self.sources
        ]
        for steps in np.diff(self.steps[start:]).tolist():
            streams = []
            for one in loaders:
                made = [next(one) for _ in range(steps)]
                streams.append(jax.tree.map(lambda *x: np.concatenate(x), *made, *made[-1:] * (self.most - steps)))
            window = jax.tree.map(lambda *x: np.stack(x), *streams)
            yield distribute(window, NamedSharding(self.on, PartitionSpec())), np.int32(steps * batch // self.config.batch)

    def _source(self, seed: int) -> tuple[int, Source, Source, Callable]:
        """(seed, clips to train on, held-out clips, encoder), as a run of this seed has them."""
        config = dataclasses.replace(self.config, seed=seed)
        source, held_out = open_sources(config, epath.Path(self.sweep.out) / "sweep.json")
        return seed, source, held_out, clips.encoder_of(config, source)

    def evaluation(self) -> Callable[[TrainState, Trials], np.ndarray]:
        """states → held-out loss of each trial, the mean over times of the flow; all see the same clips and noise, each with its own run's scores."""
        held_out = self.sources[0][2]
        batch = min(64, self.sweep.eval_examples)
        count = min(self.sweep.eval_examples, len(held_out))
        runs = zip(*(epoch(held_out, encode, batch=batch, limit=count) for *_, encode in self.sources))
        batches = [of[0] | {"scores": np.stack([one["scores"] for one in of])} for of in runs]
        measure, key = trials.evaluate(self.config, self.on), jax.random.key(NOISE)

        def losses(states: TrainState, made: Trials) -> np.ndarray:
            sums = sum(fetch(measure(states, made, one, key)) for one in batches)
            return sums.mean(1) / count

        return losses

    def run(self, out: epath.Path, rows: Rows, console: Console) -> bool:
        """Trains from the last checkpoint to the largest budget; False if it was stopped before."""
        if self.done(rows):
            console.print(f"size {self.size}: done before")
            return True
        made, on = self.trials(), self.on
        checkpoints = Checkpoints(out / "states" / f"size{self.size}", keep=1)
        states, none = trials.init(self.config, made, on), trials.no_sums(made, on)
        sums, start = none, checkpoints.latest or 0
        if start:
            kept = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trials.cut((states, sums), len(self.grid), on))
            kept, position = checkpoints.restore(kept, on)
            states, sums = trials.fill(kept, on)
            if start >= len(self.steps) or position != self.clips(start):
                raise ValueError(f"{checkpoints.folder} holds trials that were read at other token counts, by another version: take another --out")
        console.print(
            f"size {self.size}: N = {self.N:,}, {counted(len(self.grid), 'trial')} to {self.tokens(self.rungs[-1]):,} tokens"
            + (f"; resuming at {start / self.rungs[-1]:.0%}" if start else ""),
        )
        advance, losses, windows = trials.advance(self.config, on), self.evaluation(), self.windows(start)
        alive = self.alive(rows, [rung for rung in self.rungs if rung <= start])
        made = self.living(made, alive)
        before = ()
        begun = saved = said = time.monotonic()
        with StopSignal() as stop:
            for done in range(start + 1, self.rungs[-1] + 1):
                if not alive.any():
                    break
                states, found = advance(states, made, *next(windows))
                stop.arm()
                sums = jax.tree.map(jnp.add, sums, found)
                jax.block_until_ready(before)  # one window ahead of the devices and no more, so that a stop is soon heeded
                before, now, stopping = found, time.monotonic(), stop.reached(done)  # by the number that Orbax asks by too when it saves
                if done in self.rungs:
                    diverged = fetch(states.skipped_in_row)[: len(self.grid)] > self.config.optimizer.max_skipped
                    found = self._rows(done, losses(states, made), jax.tree.map(fetch, sums), diverged)
                    rows.add([row for row, lives in zip(found, alive) if lives])
                    if jax.process_index() == 0:
                        rows.write()
                    alive = self.alive(rows, [rung for rung in self.rungs if rung <= done])
                    made, sums = self.living(made, alive), none
                    best, rate = np.nanmin(self.losses(rows, [done]), initial=np.inf), (done - start) * len(self.grid) / (now - begun) * 3600 / self.rungs[-1]
                    console.print(
                        f"  {done / self.rungs[-1]:.0%}: best held-out loss {best:.5g}; {alive.sum()} of {len(alive)} trials go on; {rate:,.0f} trials an hour"
                    )
                elif now - said >= cli.SAY_SECONDS:
                    console.print(f"  {done / self.rungs[-1]:.0%}, {now - begun:.0f} s")
                    said = now
                if stopping or not alive.any() or agreed(now - saved > SAVE_EVERY):  # of trials that all diverged the table has no last row to go by
                    checkpoints.save(done, trials.cut((states, sums), len(self.grid), on), self.clips(done))
                    saved = now
                if stopping:
                    checkpoints.close()
                    return False
        checkpoints.close()
        return True

    def _rows(self, done: int, loss: np.ndarray, sums: dict[str, np.ndarray], diverged: np.ndarray) -> list[dict[str, Any]]:
        b, T = self.config.batch, self.tokens(done)
        k = np.array([batch // b for _, batch, _ in self.grid])
        micro, whole, steps = (sums[name][: len(self.grid)] for name in ("micro", "whole", "steps"))
        noise = trials.noise_scale(micro / np.maximum(steps * k, 1), whole / np.maximum(steps, 1), k, b)
        return [
            {
                "N": self.N, "T": T, "batch": batch * self.n, "lr": lr, "loss": None if bad or not np.isfinite(value) else float(value),
                "C": self.token_flops * T, "layers": self.config.model.layers, "width": self.config.model.width, "seed": seed, "steps": T // (batch * self.n),
                "diverged": int(bad or not np.isfinite(value)), "noise_scale": float(scale * self.n) if np.isfinite(scale) and scale > 0 else None,
            }
            for (seed, batch, lr), value, bad, scale in zip(self.grid, loss, diverged, noise)
        ]  # fmt: skip


def hold(sizes: list[Size], console: Console) -> None:
    """Gives sizes of one sweep the clips that they read, where these are drawn and half of the first host's memory has room for them."""
    config, (_, source, _, encode), seeds = sizes[0].config, sizes[0].sources[0], sizes[0].sweep.seeds
    if config.data not in clips.DRAWN:
        return
    count = max(size.clips(size.rungs[-1]) for size in sizes)
    number = len(seeds) * min(count, len(source))
    need = number * sum(np.asarray(x).nbytes for x in jax.tree.leaves(encode(source[0])))
    if agreed(need > clips.memory() / 2):
        console.print(f"{number:,} clips take {need / 1e9:.1f} GB, more than half of the memory, and are not held: each is drawn as it is read")
        return
    console.print(f"drawing {number:,} clips, {need / 1e9:.2g} GB")
    held = clips.hold(config, seeds, count)
    for size in sizes:
        size.held = held


def agreed(mine: bool) -> bool:
    """What the first host says, on all of them: their clocks differ, and a checkpoint is saved by all or by none."""
    return bool(multihost_utils.broadcast_one_to_all(mine))


def main(args: list[str]) -> None:
    config = cli.parse(SweepConfig, args, "scaling_jax.sweep")
    if config.dry_run or config.jobs:
        cli.on_cpu()
        plan_runs.show(config, cli.console())
        return
    mesh.use_cores(len(config.seeds) * len(config.batches) * len(config.lrs))  # a small model gains less from a second core than a second trial does
    mesh.start(config, saves=True)
    on, out, console = mesh.build(), epath.Path(config.out), cli.console(quiet=jax.process_index() != 0)
    refuse_place(out)
    sizes = [Size(config, size, on) for size in config.sizes]
    source = sizes[0].sources[0][1]
    config.claim(out, source.fingerprint, getattr(source, "unused", ()))
    rows = Rows(out / "runs.csv")
    if left := [size for size in sizes if not size.done(rows)]:
        hold(left, console)
    for size in sizes:
        if not size.run(out, rows, console):
            console.print("stopped and saved; run the same command again to go on")
            if config.stopped_status:
                sys.exit(config.stopped_status)
            return
    flags = TokenFlops(config.flops, tokens(member(config.preset, 1)), family(config.preset).a, config.preset)
    units = unit_flags(rows.held.values())
    skip = " --skip-diverged" if any(row["diverged"] == "1" for row in rows.held.values()) else ""
    console.print(f"wrote {rows.path}: {counted(len(rows), 'row')}; next: {cli.command('scaling_jax.fit', rows.path)} {flags}{units}{skip}")


if __name__ == "__main__":
    cli.run(main)
