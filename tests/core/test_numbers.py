"""Which numbers a setting may have."""
import dataclasses
import math

import jax.numpy as jnp
import pytest

from core_jax.numbers import BELOW_1, COUNT, FINITE, FROM_0, PART, POSITIVE, SEED, SHARE, STATUS, Numbers, at_least, refuse


@dataclasses.dataclass(frozen=True)
class Settings:
    some_rate: object


def test_a_tuple_of_no_number_is_refused():
    with pytest.raises(ValueError, match="^--some-rate: at least 1 is needed$"):
        refuse(Settings(()), {COUNT: "some_rate"})


@pytest.mark.parametrize(
    "numbers, good, bad",
    [
        (COUNT, [1, 10**9], [0, -1]), (at_least(2), [2], [1]), (FROM_0, [0, 0.0, 7.5], [-1e-9]), (POSITIVE, [1e-12], [0.0, -1]), (SHARE, [0, 0.5, 1], [-0.1, 1.01]),
        (PART, [0.5], [0.0, 1.0]), (BELOW_1, [0, 0.999], [1, 1.0, -0.1]), (FINITE, [-3.0, 0], []), (SEED, [0, 2**32 - 1], [-1, 2**32]), (STATUS, [0, 143, 255], [-1, 256]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_its_flag(numbers: Numbers, good, bad):
    for value in [*good, tuple(good), None, jnp.float32(-1)]:
        refuse(Settings(value), {numbers: "some_rate"}, "optimizer")
    for value in [*bad, math.nan, math.inf, -math.inf]:
        with pytest.raises(ValueError, match=f"^--optimizer.some-rate {value:.15g}: {numbers.said}$"):
            refuse(Settings(value), {numbers: "some_rate"}, "optimizer")
        with pytest.raises(ValueError, match=f"^--some-rate {good[0]:g} {value:.15g}: "):
            refuse(Settings((good[0], value)), {numbers: "some_rate"})
