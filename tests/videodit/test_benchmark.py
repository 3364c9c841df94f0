import sys

import pytest

from videodit_jax import benchmark


def test_without_torch_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"videogen-jax\[reproduce\]"):
        benchmark.measure(benchmark.Args())


def test_fewer_steps_than_rounds_are_refused(fails):
    assert "--steps 3: at least 5" in fails(benchmark.main, ["--steps", "3"])
