import sys

import pytest

from videodit_jax import benchmark


def test_sides_take_turns_and_the_first_turn_is_not_timed():
    turns = []
    ours, theirs = benchmark.race({"ours": lambda: turns.append("a"), "torch": lambda: turns.append("b")}, repeats=2, rounds=3)
    assert turns == ["a", "b"] + ["a", "a", "b", "b"] * 3
    assert [len(timing.wall) for timing in (ours, theirs)] == [3, 3]


def test_without_torch_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"videogen-jax\[reproduce\]"):
        benchmark.measure(benchmark.Args())


def test_fewer_steps_than_rounds_are_refused(fails):
    assert "--steps 3: at least 5" in fails(benchmark.main, ["--steps", "3"])
