import sys

import pytest

from videodit_jax import benchmark


def test_sides_take_turns_each_step_is_waited_for_after_the_next_and_the_first_turn_is_not_timed():
    told = []

    def side(name: str):
        def start():
            told.append(name)
            return lambda: told.append(name.upper())

        return start

    ours, theirs = benchmark.race({"ours": side("a"), "torch": side("b")}, repeats=2, rounds=3)
    assert told == list("aAbB" + "aaAAbbBB" * 3)
    assert [len(timing.wall) for timing in (ours, theirs)] == [3, 3]


def test_without_torch_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"videogen-jax\[reproduce\]"):
        benchmark.measure(benchmark.Args())


def test_fewer_steps_than_rounds_are_refused(fails):
    assert "--steps 3: at least 5" in fails(benchmark.main, ["--steps", "3"])
