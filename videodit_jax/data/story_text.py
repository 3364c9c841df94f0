"""The two texts of a clip of a story; `check_stories.said` reads them.

The full caption names everything: "in the dark room a red circle comes in from the left". The dense one tells on from what has
been told: the room at the story's beginning and at cuts alone; an actor by colour and shape where it appears for the first time,
then "it", or "the first one" and "the second one" once both have been seen. So who comes back, only memory knows.
"""

from videodit_jax.data.story_events import Event, Kind

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
