"""`python -m videodit_jax.slices`: which shipped preset fits which TPU slice, by the TPU compiler.

Each preset is compiled as `plan --search` would do it: with its own mesh if that divides the slice, then with other meshes, remat policies and
microbatches, four programs at most, until one fits. Compiled programs are kept, so an interrupted table continues.
"""
import dataclasses

from core_jax import cli
from core_jax.chips import GIB
from core_jax.files import refuse_unwritable, write_bytes
from core_jax.mesh import described
from core_jax.pod import topology
from core_jax.pod.estimate import VERSION
from core_jax.words import markdown
from videodit_jax import search
from videodit_jax.plan import json_of, on_tpu, plan
from videodit_jax.presets import PRESETS, SLICES, preset
from videodit_jax.search import Of

MOST = 4
"""programs that are compiled for one cell"""
NOTE = (
    f"Memory is what the compiler lays out; step times and MFU are version {VERSION} of the estimate. Nothing is measured ([plan.md](plan.md) says what\n"
    "the figures mean).\n"
)
HEAD = "preset", "slice", "chips", "mesh", "remat", "microbatches", "GiB a device", "available", "bound by", "estimated step, s", "estimated MFU"


@dataclasses.dataclass(frozen=True)
class Args:
    """Compile presets for TPU slices and report what fits."""

    presets: tuple[str, ...] = tuple(PRESETS)
    """presets of videodit_jax.train"""
    topologies: tuple[str, ...] = ()
    """slices that each preset is compiled for; by default the one that it is meant for"""
    out: str | None = None
    """also write the table here, as markdown"""
    json: str | None = None
    """also write the figures here"""


def cell(name: str, which: topology.Slice, say) -> search.Tried | ValueError:
    """The first layout that fits, or the one nearest to fitting; an error where none divides the slice."""
    try:
        return search.best(search.search(on_tpu(preset(name)), which, Of.TRAIN, plan, say, tries=1, most=MOST))
    except ValueError as error:
        return error


def row(name: str, which: topology.Slice, made: search.Tried | ValueError) -> tuple[str, ...]:
    first = name, str(which), str(which.chips)
    if isinstance(made, ValueError):
        return *first, "none divides its batch", *[""] * (len(HEAD) - 4)
    config, found = made
    layout = described(found.mesh), config.model.remat.value, str(config.optimizer.accumulate)
    if found.misfit:
        return *first, *layout, f"{found.misfit.needed / GIB:.1f}", f"{found.misfit.available / GIB:.2f}", "**does not fit**", "", ""
    times = f"{found.estimate.step:.3g}", f"{found.mfu:.0%}"
    return *first, *layout, f"{found.hbm['total'] / GIB:.1f}", f"{found.hbm['limit'] / GIB:.2f}", found.estimate.binds, *times


def brief(made: search.Tried | ValueError) -> str:
    """A cell of the table of all presets and slices."""
    if isinstance(made, ValueError):
        return "–"
    if misfit := made.found.misfit:
        return f"no: {misfit.needed / GIB:.0f} of {misfit.available / GIB:.0f} GiB"
    return f"{made.found.estimate.step:.3g} s"


def document(command: str, cells: dict[tuple[str, topology.Slice], search.Tried | ValueError]) -> str:
    """The page: where there are several slices first what fits where, then each cell in full."""
    parts = [f"# Presets on slices\n\nMade by `{command}`: {__doc__.split(': ', 1)[1]}", NOTE]
    names, slices = (list(dict.fromkeys(column)) for column in zip(*cells))
    if len(cells) == len(names) * len(slices) > len(names):
        table = ((name, *(brief(cells[name, which]) for which in slices)) for name in names)
        parts.append(f"## What fits, and the estimated step\n\n{markdown(('preset', *map(str, slices)), *table)}\n## Each in full\n")
    return "\n".join([*parts, markdown(HEAD, *(row(*which, made) for which, made in cells.items()))])


def main(args: list[str]) -> None:
    cli.on_cpu()
    asked, console = cli.parse(Args, args, "videodit_jax.slices"), cli.console()
    if asked.out:
        refuse_unwritable("--out", asked.out)
    for name in asked.presets:
        preset(name)
    wanted = dict.fromkeys((name, topology.parse(where)) for name in asked.presets for where in asked.topologies or (SLICES[name],))
    cells = {}
    for number, (name, which) in enumerate(wanted, 1):
        console.print(f"{number} of {len(wanted)}: {name} on {which}")
        made = cells[name, which] = cell(name, which, lambda line: console.print(f"  {line}"))
        console.print("  " + ", ".join(f"{head} {value}" for head, value in zip(HEAD[3:], row(name, which, made)[3:]) if value))
    if asked.out:
        write_bytes(asked.out, document(cli.command("videodit_jax.slices", *args), cells).encode())
        console.print(f"wrote {asked.out}")
    console.save(asked.json, {"slices": [json_of(made.config, Of.TRAIN, made.found) for made in cells.values() if not isinstance(made, ValueError)]})
    console.print("next: python -m videodit_jax.plan --preset NAME --topology SLICE, for one of them in full")


if __name__ == "__main__":
    cli.run(main)
