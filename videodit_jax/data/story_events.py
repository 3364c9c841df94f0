"""What may happen next in a story of `stories`: a small grammar of events, one a clip, whose probabilities are all known.

An actor stands in one of the picture's four corners: at a side (left, right) and in a half (up, down). On screen:

    it came in              → crosses to the other side 8/10, crosses to the other half 1/10, rests 1/10
    it crossed to a side    → crosses to the other half 8/10, leaves 1/10, rests 1/10
    it crossed to a half    → leaves by the side where it stands 8/10, crosses to the other side 1/10, rests 1/10
    it rested               → crosses to the other half 8/10, leaves 2/10
Off screen, where who was away longest comes back, from the side that it left by:
    one actor known, it left        → the room stays empty 3/4, a second actor comes in from the other side 1/4
    both known, one left            → the other one comes back 8/10, the room stays empty 2/10
    the room was empty              → who was away comes back 8/10, the room stays empty 2/10
At most one actor is on screen, so one who left is away for a whole clip at least. Where few clips are left, what would not leave
enough of them for a first return is struck out.
"""

import dataclasses
import enum
from collections.abc import Sequence


class Way(enum.Enum):
    """A side, a half of the picture, or a direction."""

    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"

    @property
    def opposite(self) -> "Way":
        return {Way.LEFT: Way.RIGHT, Way.RIGHT: Way.LEFT, Way.UP: Way.DOWN, Way.DOWN: Way.UP}[self]

    @property
    def vertical(self) -> bool:
        return self in (Way.UP, Way.DOWN)


class Kind(enum.Enum):
    """Of event: how it is told; {} is the side or the direction."""

    RESTS = "rests"
    MOVES = "moves {}"
    LEAVES = "leaves to the {}"
    COMES = "comes in from the {}"
    EMPTY = "stays empty"


@dataclasses.dataclass(frozen=True)
class Event:
    """Two are equal where kind and way are; `actor` is its number by order of appearance, None for nobody or not known."""

    kind: Kind
    way: Way | None = None
    actor: int | None = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        return self.kind.value.format(self.way and self.way.value)


@dataclasses.dataclass(frozen=True)
class State:
    """All that the next event depends on."""

    clips: int
    """that are still to come"""
    last: Event
    on: int | None
    """who is on screen"""
    side: Way
    half: Way
    """where that one stands"""
    gone: tuple[tuple[int, Way], ...] = ()
    """(who, by which side) left, the longest away first"""
    returned: bool = False
    """whether somebody has left and come back"""

    @property
    def known(self) -> int:
        """How many actors have been seen."""
        return len(self.gone) + (self.on is not None)

    @property
    def owed(self) -> int:
        """The fewest clips in which somebody can have left and come back."""
        if self.returned:
            return 0
        if self.on is not None:
            return (2 if self.gone else 3) + (self.last.kind is Kind.COMES)
        return 2 if self.last.kind is Kind.LEAVES and self.known == 1 else 1

    def after(self, event: Event, half: Way | None = None) -> "State":
        """Args:
        half: where one who comes in will stand; as the last one by default.
        """
        change = {}
        match event.kind:
            case Kind.MOVES:
                change = {"half": event.way} if event.way.vertical else {"side": event.way}
            case Kind.LEAVES:
                change = {"on": None, "gone": (*self.gone, (self.on, event.way))}
            case Kind.COMES:
                gone = tuple((who, way) for who, way in self.gone if who != event.actor)
                returned = self.returned or len(gone) < len(self.gone)
                change = {"on": event.actor, "gone": gone, "returned": returned, "side": event.way, "half": half or self.half}
        return dataclasses.replace(self, clips=self.clips - 1, last=event, **change)


def options(state: State) -> list[tuple[float, Event]]:
    """(probability, event) of what may happen next, the likeliest first; the events differ, the probabilities sum to 1."""
    possible = [(p, event) for p, event in _habits(state) if (then := state.after(event)).owed <= then.clips]
    total = sum(p for p, _ in possible)
    return [(p / total, event) for p, event in possible]


def _habits(state: State) -> Sequence[tuple[float, Event]]:
    last, empty = state.last, Event(Kind.EMPTY)
    if state.on is None:
        who, way = state.gone[0]
        if last.kind is Kind.LEAVES and state.known == 1:
            return (3 / 4, empty), (1 / 4, Event(Kind.COMES, way.opposite, who + 1))
        return (0.8, Event(Kind.COMES, way, who)), (0.2, empty)
    across, along = (Event(Kind.MOVES, way.opposite, state.on) for way in (state.side, state.half))
    leaves, rests = Event(Kind.LEAVES, state.side, state.on), Event(Kind.RESTS, None, state.on)
    match last.kind:
        case Kind.COMES:
            return (0.8, across), (0.1, along), (0.1, rests)
        case Kind.MOVES if last.way.vertical:
            return (0.8, leaves), (0.1, across), (0.1, rests)
        case Kind.MOVES:
            return (0.8, along), (0.1, leaves), (0.1, rests)
    return (0.8, along), (0.2, leaves)


def begins_on_screen(clips: int) -> list[State]:
    """The states, equally likely, of a story before its first clip where the first actor is there from the first frame."""
    before = Event(Kind.COMES, Way.LEFT), Event(Kind.MOVES, Way.LEFT), Event(Kind.MOVES, Way.UP)
    corners = [(side, half) for side in (Way.LEFT, Way.RIGHT) for half in (Way.UP, Way.DOWN)]
    return [State(clips, last, 0, side, half) for last in before for side, half in corners]


def begins_empty(clips: int) -> list[State]:
    """The same after its first clip where the first actor comes in."""
    return [
        State(clips - 1, Event(Kind.COMES, side, 0), 0, side, half) for side in (Way.LEFT, Way.RIGHT) for half in (Way.UP, Way.DOWN)
    ]
