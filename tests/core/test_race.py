from core_jax.race import race


def test_sides_take_turns_each_step_is_waited_for_after_the_next_and_the_first_turn_is_not_timed():
    told = []

    def side(name: str):
        def start():
            told.append(name)
            return lambda: told.append(name.upper())

        return start

    ours, theirs = race({"ours": side("a"), "torch": side("b")}, repeats=2, rounds=3)
    assert told == list("aAbB" + "aaAAbbBB" * 3)
    assert [len(timing.wall) for timing in (ours, theirs)] == [3, 3]
