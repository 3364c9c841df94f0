"""Reads room, presence, colour, shape and event off the pixels of a clip of `stories`, with no model; and the event off a text.

    room      the one whose ground differs least from the clip, by the median over pixels: an actor covers less than half of them
    colour    the one whose mixture with that ground explains the clip best:
              (1) cover = clip(⟨video − ground, colour − ground⟩ / |colour − ground|², 0, 1)      Float [T, H, W]
              (2) rest  = Σ |video − ground − cover · (colour − ground)|²
    presence  a frame shows an actor where the cover of its sharp pixels adds up to VISIBLE of a circle's area, and shows it wholly where
              no pixel of the frame's edge is covered to EDGE
    shape     the template with the highest cosine to the cover, drawn at its centroids, over the frames that show it wholly
    event     from presence in the first and the last frame, and the way of the centroids

A clip can be judged by its shape where at least one frame shows the actor wholly; `wholly` counts them.
"""

import dataclasses
import itertools
import re

import numpy as np
from jaxtyping import Float, Float32, UInt8

from videodit_jax.data.check_shapes import centroids, cosine, refuse_no_clip
from videodit_jax.data.shapes import COLOURS, SHAPES, coverage
from videodit_jax.data.stories import RADIUS, ROOMS, Actor, ground_of
from videodit_jax.data.story_events import Event, Kind, Way
from videodit_jax.data.story_text import ORDINALS

VISIBLE = 0.3
"""share of a circle's area from which on an actor counts as visible"""
SHARP = 0.35
"""cover below which a pixel counts as ground: texture that a model got a little wrong"""
EDGE = 0.6
"""cover of a pixel at the frame's edge from which on the actor may go on outside"""
MOVES = 0.06
"""over the shorter side, how far one who moves goes at least; the shortest way of true clips is 0.18"""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one clip shows; room, colour and shape are words of `stories`, None where nothing tells them."""

    room: str
    ground: float
    """how far the ground, averaged over the frames where it is bare, is from the room's own: mean absolute difference in levels of 255"""
    present: float
    """share of the frames that show an actor"""
    wholly: int
    """how many frames show it wholly"""
    colour: str | None
    shape: str | None
    fit: float
    """0 to 1, how well shape and colour explain the pixels; 0 where nobody is seen"""
    event: Event

    @property
    def actor(self) -> Actor | None:
        return Actor(self.colour, self.shape) if self.colour and self.shape else None


def check(video: UInt8[np.ndarray, "T H W 3"]) -> Seen:
    """Reads one clip. Raises as `refuse_no_clip` does."""
    refuse_no_clip(video)
    _, height, width, _ = video.shape
    pixels, side = video.astype(np.float32), min(height, width)
    away = {room: np.linalg.norm(pixels - ground_of(room, height, width), axis=-1) for room in ROOMS}
    room = min(away, key=lambda name: np.median(away[name]))
    ground = ground_of(room, height, width)
    covers = {colour: _unmix(pixels, ground, np.array(rgb, np.float32)) for colour, rgb in COLOURS.items()}
    colour = min(covers, key=lambda name: covers[name][1])
    cover, _ = covers[colour]
    sharp = np.where(cover >= SHARP, cover, 0)
    visible = sharp.sum(axis=(1, 2)) >= VISIBLE * np.pi * (RADIUS * side) ** 2
    edge = np.pad(np.zeros((height - 2, width - 2), bool), 1, constant_values=True)
    wholly = visible & (sharp[:, edge].max(axis=1) < EDGE)
    centres = centroids(sharp)
    bare = (cover < 0.05)[..., None]
    read = (bare * pixels).sum(0) / np.maximum(bare.sum(0), 1)
    off = np.abs(read - ground)[bare.any(0)[..., 0]]
    shape, fit = _best_template(cover[wholly], centres[wholly], side) if wholly.any() else (None, 0.0)
    return Seen(
        room=room,
        ground=float(off.mean()) if off.size else np.inf,
        present=float(visible.mean()),
        wholly=int(wholly.sum()),
        colour=colour if visible.any() else None,
        shape=shape,
        fit=fit,
        event=_event(visible, centres / side),
    )


_SUBJECT = rf"(?:it|the (?P<nth>{'|'.join(ORDINALS)}) one|a (?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)}))"
_WAYS = {Kind.RESTS: (), Kind.MOVES: tuple(Way), Kind.LEAVES: (Way.LEFT, Way.RIGHT), Kind.COMES: (Way.LEFT, Way.RIGHT)}


def _pattern(kind: Kind) -> re.Pattern:
    if kind is Kind.EMPTY:
        return re.compile(rf"the (?:(?:{'|'.join(ROOMS)}) )?room {kind.value}")
    ways = "|".join(way.value for way in _WAYS[kind])
    predicate = kind.value.replace("comes in", "comes (?:in|back)").format(f"(?P<way>{ways})")
    return re.compile(rf"(?:in the (?:{'|'.join(ROOMS)}) room )?{_SUBJECT} {predicate}")


_TOLD = {kind: _pattern(kind) for kind in Kind}


def said(text: str) -> Event | None:
    """The event that a text names, full or dense, None where it is not of this language; `actor` where the text numbers it."""
    for kind, pattern in _TOLD.items():
        if match := pattern.fullmatch(text.strip()):
            way, nth = (match.groupdict().get(name) for name in ("way", "nth"))
            return Event(kind, Way(way) if way else None, ORDINALS.index(nth) if nth else None)
    return None


def _unmix(pixels, ground, colour) -> tuple[Float32[np.ndarray, "T H W"], float]:
    """Equations (1) and (2)."""
    apart, difference = colour - ground, pixels - ground
    cover = np.clip((difference * apart).sum(-1) / (apart**2).sum(-1), 0, 1)
    return cover, float(np.square(difference - cover[..., None] * apart).sum())


def _best_template(cover, centres, side) -> tuple[str, float]:
    _, height, width = cover.shape
    fits = {
        (shape, blur): cosine(coverage(shape, RADIUS * side, centres.astype(np.float32), height, width, blur * side), cover)
        for shape, blur in itertools.product(SHAPES, (0, 0.05))
    }
    best = max(fits, key=fits.get)
    return best[0], fits[best]


def _event(visible, centres: Float[np.ndarray, "T 2"]) -> Event:
    """What happens; a way in or out is that of the first or last frame that shows the actor."""
    shown = np.flatnonzero(visible)
    if not len(shown):
        return Event(Kind.EMPTY)
    first, last = shown[0], shown[-1]
    if visible[0] != visible[-1]:
        kind, at = (Kind.LEAVES, last) if visible[0] else (Kind.COMES, first)
        return Event(kind, Way.LEFT if centres[at, 0] < 0 else Way.RIGHT)
    x, y = centres[last] - centres[first]
    if max(abs(x), abs(y)) < MOVES:
        return Event(Kind.RESTS)
    if abs(x) >= abs(y):
        return Event(Kind.MOVES, Way.LEFT if x < 0 else Way.RIGHT)
    return Event(Kind.MOVES, Way.UP if y < 0 else Way.DOWN)
