"""`python -m videodit_jax.published`: the planner's estimate against steps that others measured on real TPUs, with its error.

Each row is our model at the size of theirs, laid out as they say: parameters cut over the axis that cuts the tokens, keys gathered,
their recomputation. What differs is left as it is: our kernels, our fp32 state with a running average (theirs is bf16 without), our
text length. The formula of the estimate (core_jax/pod/estimate.py) was written before this table and is not fitted to it.
"""
import dataclasses
from pathlib import Path

import jax
from rich.console import Console
from rich.table import Table

from core_jax import cli
from core_jax.files import write_bytes, write_json
from core_jax.mesh import MeshConfig
from core_jax.pod.plan import Plan
from core_jax.pod.topology import parse
from core_jax.sharding import Rules
from videodit_jax.config import TrainConfig
from videodit_jax.model import Remat
from videodit_jax.plan import plan
from videodit_jax.presets import preset

VALID = 0.25
"""largest error with which an estimate counts as validated"""


OVER_CONTEXT = Rules(parameters=("fsdp", "context"))
"""maxdiffusion's "embed" lies over both"""


@dataclasses.dataclass(frozen=True)
class Published:
    """One measured step."""

    name: str
    topology: str
    seconds: float
    remat: Remat
    batch: int
    mesh: MeshConfig

    @property
    def config(self) -> TrainConfig:
        """Wan 14B at 81 frames of 720×1280, which its autoencoder makes 75,600 tokens: 84 frames in our patches of 4×16×16."""
        base = preset("14b")
        model = dataclasses.replace(base.model, remat=self.remat)
        return dataclasses.replace(base, frames=84, batch=self.batch, mesh=self.mesh, model=model)


PUBLISHED = (
    # README of AI-Hypercomputer/maxdiffusion, "Training": one clip over four chips, whose tokens are cut; "FULL remat"
    Published("maxdiffusion, Wan 2.1 14B", "v5p-8", 36.0, Remat.FULL, 1, MeshConfig(data=1, context=4)),
    # AI-Hypercomputer/maxdiffusion, pull request 487: attention's output and log-sum-exp saved; 0.25 clips a device
    Published("maxdiffusion PR 487, Wan 2.2 14B", "tpu7x-64", 13.57, Remat.ATTENTION, 16, MeshConfig(data=1, fsdp=16, context=4)),
    # the same, before its kernels and its recomputation
    Published("maxdiffusion PR 470, Wan 2.2 14B", "tpu7x-64", 39.70, Remat.FULL, 16, MeshConfig(data=1, fsdp=16, context=4)),
)


@dataclasses.dataclass(frozen=True)
class Args:
    """Compile each published step and compare the estimate with what was measured."""

    json: Path | None = None
    """also write the figures here"""
    out: Path | None = None
    """also write the table here, as markdown"""


def row(one: Published, found: Plan | RuntimeError) -> dict:
    """The figures of one comparison; without an error where our version of the step does not fit or cannot be read."""
    reason = str(found) if isinstance(found, RuntimeError) else found.misfit and str(found.misfit)
    made = None if reason else found.estimate.step
    error = None if reason else made / one.seconds - 1
    return {
        "name": one.name, "topology": str(parse(one.topology)), "remat": one.remat.value, "measured_seconds": one.seconds,
        "estimated_seconds": made, "error": error, "valid": error is not None and abs(error) <= VALID, "reason": reason,
    }  # fmt: skip


def cells(figures: dict) -> tuple[str, ...]:
    made = figures["reason"] or f"{figures['estimated_seconds']:.1f}"
    error = "" if figures["error"] is None else f"{figures['error']:+.0%}"
    return figures["name"], figures["topology"], figures["remat"], f"{figures['measured_seconds']:.2f}", made, error


HEAD = ("step", "slice", "recomputed", "measured, s", "estimated, s", "error")


def main(args: list[str]) -> None:
    jax.config.update("jax_platforms", "cpu")  # nothing runs: a TPU or GPU of this machine stays free
    asked, console = cli.parse(Args, args, "videodit_jax.published"), Console()
    rows, table = [], Table(*HEAD)
    for one in PUBLISHED:
        console.print(f"compiling {one.name} for {one.topology}", highlight=False)
        try:
            found = plan(one.config, parse(one.topology), rules=OVER_CONTEXT)
        except RuntimeError as error:  # the other rows are worth having
            found = error
        rows.append(row(one, found))
        table.add_row(*cells(rows[-1]))
    console.print(table)
    if asked.out:
        lines = [HEAD, ("---",) * len(HEAD), *map(cells, rows)]
        write_bytes(asked.out, "".join(f"| {' | '.join(line)} |\n" for line in lines).encode())
    if asked.json:
        write_json(asked.json, {"steps": rows})
    for path in filter(None, (asked.out, asked.json)):
        console.print(f"wrote {path}", highlight=False)


if __name__ == "__main__":
    cli.run(main)
