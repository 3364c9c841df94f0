"""`python -m scaling_jax.plot`: every figure of a whole table, as pictures and as data of the page."""
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from scaling_jax import fit, plot
from scaling_jax.charts import COLOURS, OVER, Chart, Series, loss_of_tokens
from scaling_jax.table import Table
from tests.scaling import runs


def test_all_figures(tmp_path, fails, capsys, monkeypatch):
    table = runs.write(tmp_path / "runs.csv", runs.grid())
    laws, out = tmp_path / "laws.json", tmp_path / "figures"
    fit.main([str(table), "--json", str(laws), "--bootstraps", "100"])
    plot.main([str(table), "--laws", str(laws), "--out", str(out)])
    names = {"loss_of_tokens", "extrapolation", "isoflop", "sizes", "hyper"}
    assert {path.name for path in out.iterdir()} == {f"{name}.png" for name in names} | {"figures.html"}
    for name in names:
        assert np.asarray(Image.open(out / f"{name}.png").convert("L")).std() > 5, "not an empty picture"
    page = (out / "figures.html").read_text()
    charts = json.loads(re.search(r"const charts=(.*), W=", page)[1])
    assert names - {"hyper"} < {chart["name"] for chart in charts} and "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert [chart["name"] for chart in charts][:4] == ["loss_of_tokens", "extrapolation", "isoflop", "sizes"], "the laws before single runs"
    assert f"<h1>Scaling laws of {table}, " in page
    isoflop = next(chart for chart in charts if chart["name"] == "isoflop")
    assert [series["name"] for series in isoflop["series"]].count("minimum") == 1
    sizes = next(chart for chart in charts if chart["name"] == "sizes")
    assert any(series["low"] and max(series["high"]) > max(series["y"]) for series in sizes["series"])
    held = json.loads(laws.read_text())
    del held["loss"], held["size"]["params"]
    for budget in held["size"]["budgets"]:
        budget["flags"] = ["no minimum"]
    laws.write_text(json.dumps(held))
    plot.main([str(table), "--laws", str(laws), "--out", str(tmp_path / "few")])
    assert (tmp_path / "few" / "isoflop.png").exists() and not (tmp_path / "few" / "sizes.png").exists()
    laws.write_text(json.dumps(json.loads(laws.read_text()) | {"runs": 3}))
    monkeypatch.setattr(plot, "charts", lambda *_: [])
    assert "holds no law" in fails(plot.main, [str(table), "--laws", str(laws)]) and "was fitted on 3 runs" in capsys.readouterr().out
    laws.write_text(json.dumps(json.loads(laws.read_text()) | {"size": {"budgets": []}}))
    assert "laws.json is of an earlier fit" in fails(plot.main, [str(table), "--laws", str(laws)])
    laws.write_text("{}")
    assert "is no file of laws" in fails(plot.main, [str(table), "--laws", str(laws)])


@pytest.mark.parametrize("x, least", [((1.2e-3, 4.8e-3), 3), ((64, 256), 4), ((2e3, 3.5e4), 3), ((1e10, 1e13), 4), ((1e6, 1e15), 4)])
def test_an_axis_has_numbers_enough_to_read_a_value_by(x, least):
    axes = Figure((6.4, 4.4), dpi=110, layout="constrained").subplots()
    plot.draw(axes, Chart("a", "a", "x", "y", [Series("a", 0, x, [1.0, 2.0])]))
    axes.figure.canvas.draw()
    labels = [label for which in ("major", "minor") for label in axes.xaxis.get_ticklabels(which=which) if label.get_text()]
    low, high = axes.get_xlim()
    boxes = [label.get_window_extent() for label in labels if low <= label.get_position()[0] <= high]
    assert len(boxes) >= least and len({label.get_fontsize() for label in labels}) == 1
    edges = sorted((box.x0, box.x1) for box in boxes)
    assert all(one[1] < next_[0] for one, next_ in zip(edges, edges[1:])), "none lies on another"


@pytest.mark.parametrize("groups", [2, 7, 8, 35])
def test_every_group_has_a_colour_of_its_own_and_a_legend_is_there(groups):
    series = [Series(f"C = {i}", i, [1.0, 9.0], [1.0, 2.0]) for i in range(groups)]
    chart = Chart("a", "a", "x", "y", [*series, Series("minimum", OVER, [2.0], [1.0])])
    colours = chart.colours()
    assert len(set(colours.values())) == groups + 1 and colours[OVER] == COLOURS[-1]
    assert groups > 7 or [colours[i] for i in range(groups)] == list(COLOURS[:groups])
    axes = Figure((6.4, 4.4)).subplots()
    plot.draw(axes, chart)
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert (names[0], names[-1]) == ("C = 0", "minimum") and len(names) == min(groups + 1, plot.NAMED)


def test_a_chart_of_some_sizes_says_of_how_many(tmp_path):
    """Chinchilla's table has a size for almost every run."""
    N = np.geomspace(1e8, 1e10, 20)
    table = Table(N=N, T=np.full(20, 1e10), loss=1.8 + 400 * N**-0.34, C=6e10 * N)
    fitted = SimpleNamespace(laws=SimpleNamespace(loss=SimpleNamespace(law=lambda N, T: 2 + 0 * T)))
    assert loss_of_tokens(table, fitted).title.endswith("the law, 8 of 20 sizes") and loss_of_tokens(table[:8], fitted).title.endswith("and the law")


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_drawn(tmp_path, fails, monkeypatch):
    table = runs.write(tmp_path / "runs.csv", {name: column[:25] for name, column in runs.grid().items()})
    fit.main([str(table), "--law", "hyper", "--json", str(tmp_path / "laws.json"), "--bootstraps", "100"])
    monkeypatch.delattr(plot, "png")
    assert "runs.csv" in fails(plot.main, [str(table), "--laws", str(tmp_path / "laws.json"), "--out", str(table / "figures")])


def test_runs_of_one_size_alone_are_drawn(tmp_path, capsys):
    table = runs.write(tmp_path / "runs.csv", {name: column[:25] for name, column in runs.grid().items()})
    laws, out = tmp_path / "laws.json", tmp_path / "figures"
    for more in ([], ["--json", str(laws)]):
        fit.main([str(table), "--law", "hyper", *more, "--bootstraps", "100"])
        said = capsys.readouterr().out
        assert "python -m scaling_jax.plot" in said and "predict" not in said, "which no size follows from"
    plot.main([str(table), "--laws", str(laws), "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"hyper.png", "figures.html"}


def test_a_table_that_is_not_read_as_it_was_fitted_is_told(tmp_path, capsys):
    """Else the runs would be drawn at other tokens than the laws."""
    held = runs.simple()
    held["C"] = 6 * held["N"] * held.pop("T")
    table, laws = runs.write(tmp_path / "runs.csv", held), tmp_path / "laws.json"
    fit.main([str(table), "--law", "loss", "--flops", "6n", "--json", str(laws), "--bootstraps", "100"])
    for flags, warning in (
        (["--flops", "6n"], None), ([], "T from 2e+09 to 1.2e+10, and "), (["--flops", "6n", "--unit-N", "2"], "N from 1.678e+07 to 2.621e+08"),
        (["--flops", "6n", "--drop-highest", "1"], "fitted on 24 runs, of"),
    ):  # fmt: skip
        capsys.readouterr()
        plot.main([str(table), "--laws", str(laws), "--out", str(tmp_path / "out"), *flags])
        said = capsys.readouterr().out
        assert (warning in said if warning else "warning" not in said), said
