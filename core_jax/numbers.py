"""Which numbers the settings of a command may have; one that cannot work is refused where it is defined, before any work."""
import dataclasses
import math
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A set of numbers, and how it is told."""

    said: str
    holds: Callable[[float], bool]


def at_least(number: int) -> Numbers:
    return Numbers(f"at least {number} is needed", lambda x: number <= x < math.inf)


def within(least: float, most: float) -> Numbers:
    return Numbers(f"a number from {least} to {most} is wanted", lambda x: least <= x <= most)


COUNT = at_least(1)
FROM_0 = Numbers("a number from 0 on is wanted", lambda x: 0 <= x < math.inf)
POSITIVE = Numbers("a positive number is wanted", lambda x: 0 < x < math.inf)
SHARE = within(0, 1)
PART = Numbers("a share between 0 and 1 is wanted", lambda x: 0 < x < 1)
BELOW_1 = Numbers("a number from 0 to below 1 is wanted", lambda x: 0 <= x < 1)
FINITE = Numbers("a finite number is wanted", math.isfinite)
SEED = within(0, 2**32 - 1)
STATUS = within(0, 255)
"""exit status, of which a system keeps 8 bits"""


def refuse(settings: Any, wanted: dict[Numbers, str], part: str = "") -> None:
    """Raises ValueError for the first number of a dataclass, alone or in a tuple, that cannot be, or a tuple of none.

    Args:
      wanted: names of settings, with a space between them, by what they may be; what is no number (None, a traced array) may be anything.
      part: the dataclass's own name among the settings of the command.
    """
    for numbers, names in wanted.items():
        for name in names.split():
            value = getattr(settings, name)
            values = value if isinstance(value, tuple) else (value,)
            if values == () or not all(numbers.holds(x) for x in values if isinstance(x, (int, float))):
                flag = ".".join(filter(None, (part, name))).replace("_", "-")
                raise ValueError(f"{' '.join([f'--{flag}', *(f'{x:.15g}' for x in values)])}: {numbers.said}")
