import json
import statistics
import sys

import pytest

from core_jax import race
from core_jax.remat import Remat
from tests.videodit import small
from videodit_jax import benchmark, benchmark_attention
from videodit_jax.presets import preset


def test_without_torch_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"videogen-jax\[reproduce\]"):
        benchmark.measure(benchmark.Args())


def test_fewer_steps_than_rounds_are_refused(fails):
    assert "--steps 3: at least 5" in fails(benchmark.main, ["--steps", "3"])


def test_flags_beside_the_preset_reach_the_run_that_is_timed():
    config = benchmark.timed_config(benchmark.Args(preset="0.017b", frames=4, size="32x16", batch=2, remat=Remat.PRODUCTS, unroll=4))
    assert config.video == (4, 32, 16) and config.batch == 2 and config.model.remat is Remat.PRODUCTS and config.model.unroll == 4
    assert benchmark.timed_config(benchmark.Args(preset="0.017b")).model == preset("0.017b").model


def test_the_step_is_raced_against_torchs(tmp_path, capsys, monkeypatch):
    """With smaller sizes, and torch by one thread: two would wait for each other where other tests have the cores."""
    products = benchmark.matmuls
    monkeypatch.setattr(race, "cores", lambda: 1)
    monkeypatch.setattr(benchmark, "preset", lambda name: small.CONFIG)
    monkeypatch.setattr(benchmark, "matmuls", lambda dtype, size, device: products(dtype, 64, device))
    benchmark.main(["--steps", "5", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    ours, theirs = (statistics.median(step["wall"]) for step in found["steps"])
    assert found["ratio"] == theirs / ours and found["ratios"][0] <= found["ratio"] <= found["ratios"][-1] and len(found["ratios"]) == 5
    assert [step["name"] for step in found["steps"]] == ["ours", "torch, eager"] and found["model_flops"] > 0
    assert f"ours is {found['ratio']:.2f} times as fast" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["--seqs 0", "--head-dims", "--tokens 0", "--seconds 0"])
def test_nothing_to_race_is_refused(given, fails):
    assert given in fails(benchmark_attention.main, given.split())


def test_attention_is_raced_forward_and_back_and_both_agree(tmp_path, capsys):
    sizes = "--seqs 24 --head-dims 8 16 --tokens 48 --heads 2 --words 6 --seconds 0.001".split()
    benchmark_attention.main([*sizes, "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())["cases"]
    assert [(row["case"], row["q"], row["pass"]) for row in found] == [
        (name, [2, 24, 2, D], which) for name, D in (("self", 8), ("self", 16), ("causal", 8), ("to text", 8)) for which in ("forward", "both")
    ]
    assert all(row["apart"] < 1e-4 and row["ratio"] == statistics.median(row["torch_s"]) / statistics.median(row["ours_s"]) for row in found)
    assert found[0]["flops"] == 4 * 2 * 24 * 24 * 2 * 8 and found[4]["flops"] == found[0]["flops"] / 2
    assert "to text" in capsys.readouterr().out
