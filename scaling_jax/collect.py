"""`python -m scaling_jax.collect RUNS… --out runs.csv`: runs of `videodit_jax.train` as the table that `fit` reads.

What `sweep --jobs` wrote for a cluster, or any runs at a constant learning rate: one row each, with its last held-out loss. A run that
diverged has a row without a loss; one that is not at its end is named and left out, and collected by the same command later. Runs on
other clips than each other, or by another optimizer, are warned of.
"""
import dataclasses
import json
from typing import Annotated, Any

import tyro
from etils import epath

from core_jax import cli
from core_jax.files import existing, refuse_unwritable
from core_jax.report import HELD_OUT, LOG
from core_jax.words import counted
from scaling_jax import cost, rows
from scaling_jax.cost import FlopsModel, TokenFlops
from scaling_jax.flops import parameters, tokens
from scaling_jax.sizes import family_of
from scaling_jax.table import unit_flags
from videodit_jax.config import Schedule, TrainConfig
from videodit_jax.run import Run


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """Write finished runs of `videodit_jax.train` as a table for `fit`."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """folders of runs, or folders that hold such folders"""
    out: str = "runs.csv"
    """the table (.csv); an existing one is replaced"""
    flops: FlopsModel = FlopsModel.CROSS_DIT
    """what counts as C, as --flops of sweep"""

    def __post_init__(self):
        if not self.runs:
            raise ValueError("no folder of runs is given")
        refuse_unwritable("--out", self.out, ".csv")


def folders(given: str) -> list[epath.Path]:
    """The runs that a folder is or holds.

    Raises:
      ValueError: it is none and holds none.
    """
    path = existing(given)
    inside = [path] if (path / "config.json").exists() else sorted(one for one in path.iterdir() if (one / "config.json").exists())
    if not inside:
        raise ValueError(f"{given} is no run and no folder of runs: there is no config.json in it")
    return inside


def row_of(folder: epath.Path, config: TrainConfig, flops: FlopsModel) -> dict[str, Any] | None:
    """A run's row; None where it is not at its end.

    Raises:
      ValueError: its learning rate falls, which makes it no point of these laws.
    """
    if config.optimizer.schedule is not Schedule.CONSTANT:
        raise ValueError(f"{folder} has a {config.optimizer.schedule.value} learning rate; runs at --optimizer.schedule constant are wanted")
    measured, log = last(folder / HELD_OUT), last(folder / LOG)
    ended = measured.get("step") == config.steps
    diverged = log.get("skipped_in_row", 0) > config.optimizer.max_skipped or ended and measured["loss"] is None
    if not ended and not diverged:
        return None
    n, T = tokens(config), config.steps * config.batch * tokens(config)
    return {
        "N": parameters(config.model), "T": T, "batch": config.batch * n, "lr": config.optimizer.learning_rate,
        "loss": None if diverged else measured["loss"], "C": cost.of(config, flops) * T, "layers": config.model.layers, "width": config.model.width,
        "seed": config.seed, "steps": config.steps, "diverged": int(diverged), "noise_scale": None,
    }  # fmt: skip


def last(path: epath.Path) -> dict[str, Any]:
    """The last whole line of a log, empty where there is none."""
    lines = path.read_text().splitlines() if path.exists() else []
    for line in reversed(lines[-2:]):
        try:
            return json.loads(line)
        except json.JSONDecodeError:  # torn by a crash
            continue
    return {}


def main(args: list[str]) -> None:
    config, console = cli.parse(CollectConfig, args, "scaling_jax.collect"), cli.console()
    runs = {folder: Run.read(folder).config for given in config.runs for folder in folders(given)}
    found = {folder: row_of(folder, run, config.flops) for folder, run in runs.items()}
    done = {folder: row for folder, row in found.items() if row}
    if waiting := [str(folder) for folder in found if folder not in done]:
        console.print(f"{len(waiting)} not at their end, left out: {', '.join(waiting)}")
    if not done:
        raise ValueError(f"of {counted(len(found), 'run')} none is at its end")
    alike = [
        {"data": run.data, "video": run.video, "eval-examples": run.eval_examples, "optimizer.method": run.optimizer.method.value}
        for run in map(runs.get, done)
    ]
    for name in alike[0]:
        if len(values := {str(one[name]) for one in alike}) > 1:
            console.print(f"warning: the runs differ in {name} ({', '.join(sorted(values))}): no law holds for both")
    if config.flops is FlopsModel.CROSS_DIT and (other := [run.preset for run in map(runs.get, done) if run.model.mlp != 4 * run.model.width]):
        console.print(f"warning: of {other[0]} the MLPs are not four times as wide as the model; of other sizes --flops cross-dit takes them to be")
    counts = {str(TokenFlops(config.flops, tokens(run), run.model.width / run.model.layers, family_of(run))) for run in map(runs.get, done)}
    flags = (f" {counts.pop()}" if len(counts) == 1 else "") + unit_flags(done.values())
    rows.write(epath.Path(config.out), map(rows.as_text, done.values()))
    diverged = sum(row["diverged"] for row in done.values())
    flags += " --skip-diverged" if diverged else ""
    said = f"{counted(len(done), 'row')}{f', {diverged} of them diverged' if diverged else ''}"
    console.print(f"wrote {config.out}: {said}; next: {cli.command('scaling_jax.fit', config.out)}{flags}")


if __name__ == "__main__":
    cli.run(main)
