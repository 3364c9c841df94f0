"""`python -m scaling_jax.plot TABLE --laws laws.json --out FOLDER`: figures of a table of runs and its laws, as PNG and as one HTML page."""
import dataclasses
import json

import numpy as np
import tyro
from etils import epath
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from core_jax import cli
from core_jax.files import in_memory, refuse_unwritable, write_bytes
from core_jax.words import counted
from scaling_jax import fit, results
from scaling_jax.charts import Chart, charts
from scaling_jax.page import figures


@dataclasses.dataclass(frozen=True)
class PlotConfig:
    """Draw a table of runs and the laws that `fit` found in it; the flags that say how to read the table are fit's."""

    runs: tyro.conf.OmitArgPrefixes[fit.TableConfig]
    laws: str
    """what fit wrote with --json for this table"""
    out: str = "figures"
    """folder for the figures"""


NAMED = 10
"""names in a picture's legend, at most"""


def draw(axes: Axes, chart: Chart) -> None:
    """One chart on matplotlib's axes."""
    colours = chart.colours()
    for one in chart.series:
        colour = colours[one.group]
        if one.low is not None:
            axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.15, linewidth=0)
        if one.line:
            axes.plot(one.x, one.y, color=colour, linewidth=1.2, label=one.name if one.low is not None else None)
        else:
            axes.plot(one.x, one.y, "o", color=colour, markersize=4, label=one.name)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high / low < 1000:  # else powers of ten alone would be too few to read a value by
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high / low > 15 else (1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter("{x:.3g}")
        axes.xaxis.set_minor_locator(NullLocator())
    if chart.log_y:
        axes.set_yscale("log")
        heights = [y for one in chart.series for y in one.y]
        axes.set_ylim(min(heights) / 1.5, max(heights) * 1.5)
    axes.set(xlabel=chart.x, ylabel=chart.y, title=chart.title)
    handles, names = axes.get_legend_handles_labels()
    named = np.unique(np.linspace(0, len(names) - 1, min(len(names), NAMED)).astype(int))  # of more the page has all
    axes.legend([handles[i] for i in named], [names[i] for i in named], fontsize=8)
    axes.grid(alpha=0.3)


def png(shown: list[Chart]) -> bytes:
    """Charts beside each other."""
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    figure = Figure((6.4 * columns, 4.4 * rows), layout="constrained")
    for axes, chart in zip(figure.subplots(rows, columns, squeeze=False).flat, shown):
        draw(axes, chart)
    for axes in figure.axes[len(shown) :]:
        axes.set_axis_off()
    return in_memory(lambda file: figure.savefig(file, format="png", dpi=110))


def main(args: list[str]) -> None:
    cli.on_cpu()
    config = cli.parse(PlotConfig, args, "scaling_jax.plot")
    table, laws, out = fit.read(config.runs), results.read(config.laws), epath.Path(config.out)
    refuse_unwritable("--out", out / "figures.html")
    found = json.loads(epath.Path(config.laws).read_text())
    if found["runs"] != len(table):
        print(f"warning: {config.laws} was fitted on {found['runs']} runs, of {found['table']}, and {config.runs.table} has {len(table)}")
    ends = {name: (float(column.min()), float(column.max())) for name, column in (("N", table.N), ("T", table.T), ("C", table.C))}
    if other := [name for name, span in ends.items() if not np.allclose(span, laws.ranges[name], rtol=1e-3)]:
        spans = lambda of: ", ".join(f"{name} from {of[name][0]:.4g} to {of[name][1]:.4g}" for name in other)  # noqa: E731
        print(f"warning: {config.laws} was fitted on {spans(laws.ranges)}, and {config.runs.table} is read as {spans(ends)}: give the flags that fit had")
    if "lean" not in found.get("size", {"lean": None}):
        raise ValueError(f"{config.laws} is of an earlier fit, which knew no lean of IsoFLOP curves: fit {config.runs.table} again")
    made = charts(table, found, laws)
    if not made:
        raise ValueError(f"{config.laws} holds no law that the table {config.runs.table} could be drawn with")
    hyper = [chart for chart in made if chart.name.startswith(("loss_of_lr", "loss_of_batch"))]
    files = {f"{chart.name}.png": png([chart]) for chart in made if chart not in hyper}
    if hyper:
        files["hyper.png"] = png(hyper)
    for name, data in files.items():
        write_bytes(out / name, data)
    write_bytes(out / "figures.html", figures(made, f"Scaling laws of {config.runs.table}, {counted(len(table), 'run')}"))
    print(f"wrote {', '.join(str(out / name) for name in files)} and {out / 'figures.html'}; next: open the page in a browser")


if __name__ == "__main__":
    cli.run(main)
