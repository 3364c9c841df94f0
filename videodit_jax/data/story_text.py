"""The two texts of a clip of a story, and the event that such a text names.

The full caption names everything: "in the dark room a red circle comes in from the left". The dense one tells on from what has
been told: the room at the story's beginning and at cuts alone; an actor by colour and shape where it appears for the first time,
then "it", or "the first one" and "the second one" once both have been seen. So who comes back, only memory knows.
"""

import re

from videodit_jax.data.shapes import COLOURS, SHAPES
from videodit_jax.data.story_events import Event, Kind, Way

ORDINALS = ("first", "second")


def tell(event: Event, subject: str, room: str | None, returns: bool = False) -> str:
    """The text of a clip, at most 12 words; `room` only where it is named, `returns` of one who comes back where it was before."""
    if event.kind is Kind.EMPTY:
        return " ".join(["the", *([room] if room else []), "room", str(event)])
    predicate = str(event).replace("comes in", "comes back") if returns else str(event)
    return (f"in the {room} room " if room else "") + f"{subject} {predicate}"


def subject(actor: int, known: int) -> str:
    """How the dense text calls one who was seen before, where `known` actors have been seen."""
    return "it" if known == 1 else f"the {ORDINALS[actor]} one"


_SUBJECT = rf"(?:it|the (?P<nth>{'|'.join(ORDINALS)}) one|a (?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)}))"
_TOLD = [
    (kind, re.compile(rf"(?:in the \w+ room )?{_SUBJECT} {kind.value.replace('comes in', 'comes (?:in|back)').format('(?P<way>%s)' % ways)}"))
    for kind, ways in ((Kind.RESTS, ""), (Kind.MOVES, "left|right|up|down"), (Kind.LEAVES, "left|right"), (Kind.COMES, "left|right"))
] + [(Kind.EMPTY, re.compile(rf"the (?:\w+ )?room {Kind.EMPTY.value}"))]


def said(text: str) -> Event | None:
    """The event that a text names, full or dense, None where it is not of this language; `actor` where the text numbers it."""
    for kind, pattern in _TOLD:
        if match := pattern.fullmatch(text.strip()):
            named = match.groupdict()
            way, nth = named.get("way"), named.get("nth")
            return Event(kind, Way(way) if way else None, ORDINALS.index(nth) if nth else None)
    return None
