"""The backends that look at no frame: sentences about the table's metrics, and the table's own captions."""
import math

from koala_jax.captions.backend import Failure, Request
from koala_jax.captions.clips import Clip
from koala_jax.captions.schema import Part

SENTENCES = {
    Part.ACTIONS: (("motion", "things move {:.2f} pixels a frame"),),
    Part.VISUAL_LANGUAGE: (("aesthetic", "the aesthetic score is {:.1f} of 10"), ("clarity", "the clarity is {:.2f} of 1")),
}
"""for the parts of which a metric tells something: column and sentence"""

METRICS = tuple(name for sentences in SENTENCES.values() for name, _ in sentences)


def template(requests: list[Request]) -> list[str | Failure]:
    """States what the metrics of the row say, and that nobody looked. Parts of which no metric tells anything stay empty.

    Raises:
      ValueError: a metric that is no number.
    """
    return [_measured(request.part, request.clip) for request in requests]


def _measured(part: Part, clip: Clip) -> str:
    known = [text.format(value) for name, text in SENTENCES.get(part, ()) if (value := _number(clip, name)) is not None]
    return f"Measured, not seen: {' and '.join(known)}." if known else ""


def _number(clip: Clip, name: str) -> float | None:
    value = clip.row.get(name)
    try:
        number = math.nan if value in (None, "") else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{clip.file} has the {name} {value!r}, which is not a number") from None
    return number if math.isfinite(number) else None


def given(requests: list[Request]) -> list[str | Failure]:
    """The row's own text: from the part's column."""
    return [str(request.clip.row.get(request.part.value) or "") for request in requests]
