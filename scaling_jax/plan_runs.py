"""A sweep as a list of separate runs: for a person to read, for a cluster to run, with hours on a TPU slice by the planner."""
import dataclasses
import itertools
from typing import Any

from rich.console import Console
from rich.table import Table as Shown

from core_jax import cli
from core_jax.files import write_bytes
from core_jax.words import counted
from scaling_jax import cost, jobs, results
from scaling_jax.flops import parameters, tokens
from scaling_jax.grid import Scale, SweepConfig
from scaling_jax.published import VIDEO
from scaling_jax.sizes import member
from videodit_jax.config import TrainConfig

PAPER_LAYERS = (4, 6, 8, 10, 14, 16)
PAPER_BUDGETS = (3e17, 6e17, 1e18, 3e18, 6e18)


def runs_of(config: SweepConfig) -> list[tuple[float, TrainConfig]]:
    """(C, run) of every run.

    Raises:
      ValueError: a batch of the sweep's own that the slice's devices do not divide; the paper's are rounded to what they do.
    """
    paper, rows = config.scale is Scale.PAPER, jobs.rows_of(config.topology)
    if not paper and (bad := [batch for batch in config.batches if batch % rows]):
        raise ValueError(f"--batches {bad[0]}: the {rows} devices of {config.topology} take multiples of {rows}")
    preset, warmup = ("0.017b", None) if paper else (config.preset, config.warmup)
    made = []
    for size in PAPER_LAYERS if paper else config.sizes:
        base = member(preset, size)
        N, n = parameters(base.model), tokens(base)
        token_flops = cost.of(base, config.flops)
        if paper:
            lengths = [(C, C / token_flops) for C in PAPER_BUDGETS]
        else:
            lengths = [(C, steps * max(config.batches) * n) for C, steps in zip(config.budgets_of(size), config.steps_of(size))]
        for C, T in lengths:
            if paper:
                grid = [(0, VIDEO.batch.law(N=N, T=T), VIDEO.lr.law(N=N, T=T))]
            else:
                grid = [(seed, clips * n, lr) for seed, clips, lr in itertools.product(config.seeds, config.batches, config.lrs)]
            for seed, batch, lr in grid:
                one = jobs.config_of(preset, size, T=T, batch=batch, lr=lr, data=config.data, rows=rows, warmup=warmup)
                out = f"{config.out}/size{size}-C{C:.2e}-{one.batch}clips-lr{lr:.2e}-seed{seed}"
                made.append((C, dataclasses.replace(one, seed=seed, eval_examples=config.eval_examples, out=out)))
    return made


def show(config: SweepConfig, console: cli.Screen) -> None:
    """Lists the runs and writes what was asked for."""
    made = runs_of(config)
    rows = [{"C": C} | jobs.figures(one) for C, one in made]
    found: dict[str, Any] = {"runs": rows, "compute": sum(C for C, _ in made)}
    if config.topology:
        found["plans"] = plans = _plans(made, config.topology, console)
        for row in rows:
            plan = plans[row["N"]]
            row["hours"] = row["T"] * plan["seconds_a_token"] / 3600 if plan["fits"] else None
        found["hours"] = sum(row["hours"] or 0 for row in rows)
    table = Shown(*rows[0], title_justify="left")
    for row in rows:
        table.add_row(*("does not fit" if x is None else f"{x:,}" if isinstance(x, int) and x < 1e6 else f"{x:.4g}" for x in row.values()))
    console.print(table)
    console.print(f"{counted(len(rows), 'run')}, {found['compute']:.3g} FLOPs in all")
    if config.topology:
        chips = next(iter(found["plans"].values()))["chips"]
        hours = f"{found['hours']:,.1f} hours on {config.topology}, {found['hours'] * chips:,.0f} chip-hours"
        console.print(f"{hours}, by the planner's estimate, which was compared with measured steps of 14B alone")
    if config.jobs:
        write_bytes(config.jobs, "".join(jobs.command(one) + "\n" for _, one in made).encode())
        console.print(
            f"wrote {config.jobs}: one command a line, for instance for xargs or a cluster's job array; "
            f"then: {cli.command('scaling_jax.collect', config.out, '--out', f'{config.out}/runs.csv', '--flops', config.flops.value)}",
        )  # fmt: skip
    console.save(config.json, results.rounded(found))
    if not config.jobs:
        here = "" if config.scale is Scale.PAPER else ", without --dry-run the sweep trains them here together"
        console.print(f"next: --jobs FILE writes the commands{here}")


def _plans(made: list[tuple[float, TrainConfig]], topology: str, console: Console) -> dict[int, dict[str, Any]]:
    """By N, seconds a token of each size on the slice, from one compilation each, at its largest batch."""
    found = {}
    for N in sorted({parameters(one.model) for _, one in made}):
        largest = max((one for _, one in made if parameters(one.model) == N), key=lambda one: one.batch)
        console.print(f"compiling {largest.model.layers} layers of width {largest.model.width} for {topology}")
        plan = jobs.hours(largest, topology)
        if plan["fits"]:
            plan["seconds_a_token"] = plan["step_seconds"] / (largest.batch * tokens(largest))
        else:
            console.print(f"  does not fit: {plan['why']}")
        found[N] = plan
    return found
