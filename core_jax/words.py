"""Words of messages and pages."""
from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """1 clip, 2 clips, 1,000 clips."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def markdown(head: Sequence[str], *rows: Sequence[str]) -> str:
    """A table for a page of documentation."""
    first, *rest = (f"| {' | '.join(line)} |\n" for line in (head, *rows))
    return "".join((first, f"|{'---|' * len(head)}\n", *rest))
