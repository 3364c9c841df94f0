"""The table of presets on slices, without compiling them."""
import dataclasses
import importlib.util
import json

import pytest

from core_jax.pod.compiled import Misfit
from core_jax.pod import estimate
from core_jax.pod.estimate import VERSION, Estimate
from core_jax.pod.plan import Plan
from core_jax.pod.topology import parse
from core_jax.remat import Remat
from videodit_jax import slices
from videodit_jax.presets import PRESETS, SLICES, preset

pytestmark = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, which knows the slices")


@pytest.fixture
def compiled(monkeypatch):
    """What is compiled; the first program of all does not fit in a test that takes remat NONE."""
    seen = []

    def plan(config, which):
        seen.append((config, which))
        misfit = Misfit(3 * 2**30, 2**30) if config.model.remat is Remat.NONE and len(seen) == 1 else None
        times = None if misfit else Estimate({"matmul": 1.0}, 1.0, 1.0, {}, 0.0, {}, ())
        hbm = {"total": 2**30, "limit": 2**31}
        flops = {"total": 1e15, "attention": 1e14, "executed": 1e15}
        return Plan(which, {"fsdp": which.chips}, flops, 1.0, misfit, hbm, (), times)

    monkeypatch.setattr(slices, "plan", plan)
    return seen


def test_each_preset_on_its_own_slice(compiled, tmp_path, capsys):
    slices.main(["--out", str(tmp_path / "slices.md"), "--json", str(tmp_path / "slices.json")])
    lines = [line.split(" | ") for line in (tmp_path / "slices.md").read_text().splitlines() if line.startswith("| ")][1:]
    for name in PRESETS:
        config, which = next((config, which) for config, which in compiled if config.preset == name)
        devices = which.chips * which.chip.devices
        assert config.mesh.shape(devices) == preset(name).mesh.shape(devices), "the preset's own mesh divides it"
    assert [(line[0].strip("| "), line[1]) for line in lines] == [(name, str(parse(SLICES[name]))) for name in PRESETS]
    assert "next: python -m videodit_jax.plan" in " ".join(capsys.readouterr().out.split())
    assert len(json.loads((tmp_path / "slices.json").read_text())["slices"]) == len(PRESETS)


def test_several_slices_are_a_table_of_what_fits_where(compiled, tmp_path, monkeypatch):
    fitting = slices.plan
    refused = lambda config, which: dataclasses.replace(fitting(config, which), misfit=Misfit(3 * 2**30, 2**30))
    monkeypatch.setattr(slices, "plan", lambda config, which: (refused if config.model.width == 512 and which.chip.name == "v5e" else fitting)(config, which))
    args = ["--presets", "0.017b", "tiny", "--topologies", "v5e-8", "v5p-16", "--out", str(tmp_path / "slices.md")]
    slices.main(args)
    page = (tmp_path / "slices.md").read_text()
    assert f"version {VERSION} of the estimate" in page and f"The estimate, version {VERSION}:" in estimate.__doc__
    assert f"Made by `python -m videodit_jax.slices {' '.join(args)}`" in page
    assert "| preset | v5e:2x4 | v5p:2x2x2 |" in page and "| 0.017b | no: 3 of 1 GiB | 2 s |" in page and "| tiny | 2 s | 2 s |" in page
    assert page.index("| tiny | 2 s | 2 s |") < page.index("| tiny | v5e:2x4 | 8 |")


def test_a_cell_tries_layouts_until_one_fits(compiled, monkeypatch):
    own = slices.preset
    monkeypatch.setattr(slices, "preset", lambda name: dataclasses.replace(own(name), model=dataclasses.replace(own(name).model, remat=Remat.NONE)))
    made = slices.cell("0.017b", parse("v5e-8"), lambda words: None)
    assert not made.found.misfit and len(compiled) == 2 and made.config is compiled[1][0]
    figures = slices.row("0.017b", parse("v5e-8"), made)
    assert len(figures) == len(slices.HEAD) and figures[6:8] == ("1.0", "2.00")


def test_what_divides_nothing_is_a_row(compiled, monkeypatch):
    own = slices.preset
    monkeypatch.setattr(slices, "preset", lambda name: dataclasses.replace(own(name), batch=3))
    made = slices.cell("tiny", parse("v5e-256"), lambda words: None)
    assert isinstance(made, ValueError) and slices.row("tiny", parse("v5e-256"), made)[3] == "none divides its batch"
    assert not compiled


def test_an_unknown_preset_is_one_sentence(fails):
    assert "no preset named 'huge'" in fails(slices.main, ["--presets", "huge"])
