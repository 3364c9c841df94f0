"""Long videos drawn as they are asked for: coloured shapes live in rooms, leave, and come back; all of it is known.

A story is a chain of clips with one event each, by the grammar of `story_events`, told by `story_text`. The last frame of a clip is
the first of the next one, unless a cut lies between: then the room is another, and what happens goes on in it.
Over 0 ≤ u ≤ 1 a clip takes its actor from a to b, at rest in the first and in the last frame wherever it can be seen:

    (1) centre(u) = a + e(u) · (b − a)                  pixels from the frame's middle
    (2) e(u) = u² (3 − 2u) within the picture,  1 − (1 − u)² in from outside,  u² out of it
    (3) video = ground + cover · (colour − ground)      cover by equation (2) of `shapes`

A room is its ground, always the same: a colour, and three soft plane waves.
"""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from videodit_jax.data.shapes import COLOURS, REACH, SHAPES, Split, coverage
from videodit_jax.data.story_events import Event, Kind, State, Way, begins_empty, begins_on_screen, options
from videodit_jax.data.story_text import subject, tell

RADIUS = 0.2  # of an actor, over the frame's shorter side
STANDS = (0.09, 0.17)  # how far from the middle an actor stands, in x and in y, over the shorter side
TEXTURE = 7  # amplitude of a wave of a room's ground, in levels
ROOMS = {
    "dark": (34, 30, 44),
    "pale": (226, 218, 206),
    "grey": (122, 124, 128),
    "brown": (96, 62, 34),
    "pink": (232, 158, 172),
    "olive": (112, 124, 66),
}


@dataclasses.dataclass(frozen=True)
class Actor:
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape}"


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """What is seen and told between two clips of a story; `Stories` has the numbers."""

    video: UInt8[np.ndarray, "T H W 3"]
    caption: str
    """names everything"""
    dense: str
    """as told within the story"""
    cut: bool
    """a new scene begins: the first frame does not follow from the last clip's"""
    event: Event
    actor: Actor | None
    """who is on screen at any time of the clip"""
    room: str
    returns: bool
    """the actor was away for the whole clip before, or longer, and comes back"""


@dataclasses.dataclass(frozen=True, eq=False)
class Story:
    title: str
    """the video-level caption"""
    clips: tuple[Clip, ...]

    @property
    def video(self) -> UInt8[np.ndarray, "T H W 3"]:
        """The whole film: each clip without its last frame, then the last frame of all."""
        return np.concatenate([clip.video[:-1] for clip in self.clips] + [self.clips[-1].video[-1:]])


@dataclasses.dataclass(frozen=True)
class Shot:
    """A clip before it is drawn; from `start` to `end`, (x, y) from the frame's middle over its shorter side."""

    event: Event
    room: str
    cut: bool
    returns: bool
    caption: str
    dense: str
    actor: Actor | None
    start: tuple[float, float]
    end: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Stories:
    """Random access; story i depends on (seed, split, i) alone.

    In about half of the stories the first actor is there from the first frame, and no dense text ever names it; in the others it
    comes in, and is named then. Scenes are of equal length and alternate between two rooms. A third of the (colour, shape) pairs
    is never trained; every word is in both parts.

    Raises:
        ValueError: where a frame is too small to draw in, a clip has one frame, or clips and scenes do not fit each other.
    """

    frames: int = 9
    height: int = 16
    width: int = 16
    clips: int = 12
    scenes: int = 3
    seed: int = 0
    split: Split = Split.TRAIN
    unseen: bool = True
    """held-out stories are of the pairs that are never trained; else new ones of the trained pairs"""
    length: int = 1 << 20

    def __post_init__(self):
        if self.frames < 2 or self.side < 12 or self.length < 1:
            raise ValueError(
                f"stories: clips of {self.frames} frames of {self.height}×{self.width} and {self.length} stories were asked for; "
                "at least 2 frames of 12×12 and 1 story are needed"
            )
        if self.clips < 5 or self.scenes < 1 or self.clips % self.scenes:
            raise ValueError(
                f"stories: {self.clips} clips in {self.scenes} scenes were asked for; at least 5 clips are needed, "
                "so that somebody can leave and come back, and scenes are of equal length"
            )

    @property
    def side(self) -> int:
        return min(self.height, self.width)

    @property
    def fingerprint(self) -> str:
        return f"stories of {self.clips} clips in {self.scenes} scenes, seed {self.seed}"

    @property
    def actors(self) -> list[Actor]:
        """16 to train on, 8 that are never trained."""
        return _actors(Split.HELD_OUT if self.unseen else Split.TRAIN) if self.split is Split.HELD_OUT else _actors(Split.TRAIN)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Story:
        title, shots = self.script(index)
        videos = self.draw(shots)
        clips = [
            Clip(video, shot.caption, shot.dense, shot.cut, shot.event, shot.actor, shot.room, shot.returns)
            for video, shot in zip(videos, shots)
        ]
        return Story(title, tuple(clips))

    def script(self, index: int) -> tuple[str, list[Shot]]:
        """Title and clips of a story, not drawn."""
        if not 0 <= index < self.length:
            raise IndexError(f"story {index} of {self.length}")
        return _Writer(self, np.random.default_rng([self.seed, self.split.value, int(index)])).write()

    def draw(self, shots: list[Shot]) -> UInt8[np.ndarray, "n T H W 3"]:
        """Clips by equations (1) to (3)."""
        u = np.linspace(0, 1, self.frames)
        shape = (self.frames, self.height, self.width, 3)
        ground = {room: ground_of(room, self.height, self.width) for room in {shot.room for shot in shots}}
        videos = np.stack([np.broadcast_to(ground[shot.room], shape) for shot in shots])
        for actor in {shot.actor for shot in shots} - {None}:
            where = [i for i, shot in enumerate(shots) if shot.actor == actor]
            paths = [_path(shots[i], u) for i in where]
            centres = (np.concatenate(paths) * self.side).astype(np.float32)
            cover = coverage(actor.shape, RADIUS * self.side, centres, self.height, self.width).reshape(-1, *shape[:3], 1)
            below = videos[where]
            videos[where] = below + cover * (np.array(COLOURS[actor.colour], np.float32) - below)
        return (videos + np.float32(0.5)).astype(np.uint8)

    def motion(self, shot: Shot) -> float:
        """Mean speed of a clip's actor, in pixels a frame; 0 where nobody is."""
        return float(np.hypot(*np.subtract(shot.end, shot.start))) * self.side / (self.frames - 1)


@dataclasses.dataclass(frozen=True)
class StoryClips:
    """Single clips as a source of `videodit_jax.data`: example i is one clip of story i, with its full caption."""

    stories: Stories

    @property
    def fingerprint(self) -> str:
        return f"clips of {self.stories.fingerprint}"

    def __len__(self) -> int:
        return len(self.stories)

    def _shot(self, index: int) -> Shot:
        return self.stories.script(index)[1][int(index) % self.stories.clips]

    def __getitem__(self, index: int) -> dict[str, Any]:
        shot = self._shot(index)
        return {"video": self.stories.draw([shot])[0], "caption": shot.caption, "scores": {"motion": self.stories.motion(shot)}}

    def scores(self) -> dict[str, np.ndarray]:
        """Scores of the first 2,048 clips, without drawing them."""
        return {"motion": np.array([self.stories.motion(self._shot(i)) for i in range(min(len(self), 2048))])}


@functools.cache
def ground_of(room: str, height: int, width: int) -> Float32[np.ndarray, "H W 3"]:
    """A room with nobody in it, 0 to 255."""
    rng = np.random.default_rng(list(room.encode()))
    turns, phases, lengths = rng.random((3, 3))
    side = min(height, width)
    k = 2 * np.pi / (0.5 + 0.5 * lengths)
    x, y = np.arange(width)[None, :, None] / side, np.arange(height)[:, None, None] / side
    waves = np.cos(k * (np.cos(2 * np.pi * turns) * x + np.sin(2 * np.pi * turns) * y) + 2 * np.pi * phases)
    ground = (np.array(ROOMS[room]) + TEXTURE * waves.sum(-1, keepdims=True)).astype(np.float32)
    ground.flags.writeable = False
    return ground


@functools.cache
def _actors(split: Split) -> list[Actor]:
    held_out = lambda at: sum(at) % 3 == 0  # every word stays in both splits
    pairs = itertools.product(enumerate(COLOURS), enumerate(SHAPES))
    return [Actor(colour, shape) for (i, colour), (j, shape) in pairs if held_out((i, j)) == (split is Split.HELD_OUT)]


def _path(shot: Shot, u: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 2"]:
    """Equations (1) and (2), over the shorter side."""
    match shot.event.kind:
        case Kind.COMES:
            e = 1 - (1 - u) ** 2
        case Kind.LEAVES:
            e = u**2
        case _:
            e = u**2 * (3 - 2 * u)
    a, b = np.array(shot.start), np.array(shot.end)
    return np.where(u[:, None] == 1, b, a + e[:, None] * (b - a))  # the next clip starts where this one ends, to the bit


class _Writer:
    """Writes one story."""

    def __init__(self, stories: Stories, rng: np.random.Generator):
        self.stories, self.rng = stories, rng
        first = self.pick(stories.actors)
        others = [actor for actor in stories.actors if actor.colour != first.colour and actor.shape != first.shape]
        self.cast = first, self.pick(others)
        home = self.pick(list(ROOMS))
        self.rooms = home, self.pick([room for room in ROOMS if room != home])
        self.outside = stories.width / stories.side / 2 + REACH * RADIUS + 0.5 / stories.side

    def pick(self, items: list) -> Any:
        return items[int(self.rng.random() * len(items))]

    def stand(self, way: Way) -> float:
        """A place on a side, or in a half, of the picture."""
        near, far = STANDS
        return (near + (far - near) * self.rng.random()) * (-1 if way in (Way.LEFT, Way.UP) else 1)

    def write(self) -> tuple[str, list[Shot]]:
        clips, per_scene = self.stories.clips, self.stories.clips // self.stories.scenes
        named = self.rng.random() < 0.5
        known, shots = int(not named), []
        if named:
            state = self.pick(begins_empty(clips))
            at = self.outside * (-1 if state.side is Way.LEFT else 1), self.stand(state.half)
        else:
            state = self.pick(begins_on_screen(clips))
            at = self.stand(state.side), self.stand(state.half)
        for clip in range(clips):
            if clip or not named:
                state, at = self._next(state, at)
            event, start, at = state.last, at, self._to(state.last, at)
            new, known = event.actor == known, max(known, state.known)
            returns = event.kind is Kind.COMES and not new
            cut = clip > 0 and clip % per_scene == 0
            room = self.rooms[clip // per_scene % 2]
            actor = None if event.actor is None else self.cast[event.actor]
            who = str(actor) if new else "" if actor is None else subject(event.actor, known)
            dense = tell(event, who, room if cut or not clip else None, returns and not cut)
            shots.append(Shot(event, room, cut, returns, tell(event, str(actor), room), dense, actor, start, at))
        rooms = " and ".join(f"the {room} room" for room in self.rooms[: self.stories.scenes])
        return f"{self.cast[0] if named else 'it'} is in {rooms}", shots

    def _next(self, state: State, at: tuple[float, float]) -> tuple[State, tuple[float, float]]:
        """The state after the next event, and where its actor starts from."""
        rest, half = self.rng.random(), self.pick([Way.UP, Way.DOWN])
        for p, event in options(state):
            rest -= p
            if rest < 0:
                break
        if event.kind is Kind.COMES:
            at = self.outside * (-1 if event.way is Way.LEFT else 1), self.stand(half)
        return state.after(event, half), at

    def _to(self, event: Event, at: tuple[float, float]) -> tuple[float, float]:
        x, y = at
        match event.kind:
            case Kind.COMES:
                return self.stand(event.way), y
            case Kind.LEAVES:
                return self.outside * (-1 if event.way is Way.LEFT else 1), y
            case Kind.MOVES:
                return (x, self.stand(event.way)) if event.way.vertical else (self.stand(event.way), y)
        return at
