"""`python -m scaling_jax.benchmark`: what is timed is the work of the same trials, and the ratios are of their medians."""
import json
import time

import pytest

from scaling_jax import benchmark, cost, sweep
from scaling_jax.grid import SweepConfig


def test_ratios(tmp_path, monkeypatch, capsys):
    swept, alone = iter([99.0, 4.0, 8.0, 6.0]), iter([99.0] * 2 + [9.0] * 6)
    monkeypatch.setattr(sweep, "MICROBATCHES", 2)
    monkeypatch.setattr(benchmark, "together", lambda config, out: next(swept))
    monkeypatch.setattr(benchmark, "alone", lambda size, seed, lr, out: next(alone))
    out = tmp_path / "race.json"
    benchmark.main(["--size", "1", "--lrs", "1e-3", "2e-3", "--batch", "2", "--windows", "1", "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["seconds a trial"]["sweep"] == [2.0, 4.0, 3.0] and found["ratios"]["sweep over processes"] == 3.0, "the round that compiles does not count"
    assert found["seconds a trial"]["processes"] == [9.0] * 3, "nor one of its trials"
    assert found["trials an hour"]["sweep"] == 1200 and found["ratios"]["warm sweep over warm steps"] > 0
    assert "sweep over processes: 3.00 times as many trials an hour" in " ".join(capsys.readouterr().out.split())


def test_a_sweep_that_fails_says_why(tmp_path, monkeypatch):
    (tmp_path / "python").write_text("#!/bin/sh\necho size 1\necho error: no room >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(benchmark.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RuntimeError, match="the sweep failed: error: no room"):
        benchmark.together(SweepConfig(preset="narrow", sizes=(1,), budgets=(1e8,), flops=cost.FlopsModel.WHOLE), tmp_path)


def test_warm_steps_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "whole", None)
    monkeypatch.setattr(benchmark, "warm", lambda size: {"sweep": lambda: lambda: None, "steps": lambda: lambda: time.sleep(0.01)})
    out = tmp_path / "race.json"
    benchmark.main("--preset narrow --size 1 --lrs 1e-3 --seeds 0 1 2 --batch 2 --rounds 1 --no-processes --json".split() + [str(out)])
    found = json.loads(out.read_text())
    assert found["trials"] == 3 and list(found["ratios"]) == ["warm sweep over warm steps"] and found["ratios"]["warm sweep over warm steps"] > 1


@pytest.mark.parametrize("given", ["--rounds 0", "--windows 0", "--batch 0", "--size 0"])
def test_nothing_to_race_is_refused(given, fails):
    assert f"{given}: at least 1 is needed" in fails(benchmark.main, given.split())
