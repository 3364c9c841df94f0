"""Words of messages."""


def counted(number: int, noun: str) -> str:
    """1 clip, 2 clips, 1,000 clips."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
