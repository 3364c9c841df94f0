"""Transitions between two shots, drawn at random: how the last frames of one and the first of the next are mixed.

A gradual join takes n frames of each shot and gives n mixed ones; mixed frame i stands at progress (i+1)/(n+1), before an easing.
"""
import enum
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from koala_jax.transitions import Type

Frames = UInt8[np.ndarray, "T H W 3"]


def _progress(rng: np.random.Generator, n: int) -> np.ndarray:
    """Progress of n mixed frames: linear, or eased at both ends."""
    p = np.arange(1, n + 1) / (n + 1)
    return p if rng.random() < 0.6 else p * p * (3 - 2 * p)


def _mix(a: Frames, b: Frames, weight: np.ndarray) -> Frames:
    """(1-w) a + w b, for a weight that broadcasts against [T, H, W, 3]."""
    w = weight.astype(np.float32)
    return np.clip(a + w * (b.astype(np.float32) - a) + 0.5, 0, 255).astype(np.uint8)


def _over_time(p: np.ndarray) -> np.ndarray:
    return p[:, None, None, None]


def dissolve(a: Frames, b: Frames, rng: np.random.Generator) -> Frames:
    """Plain, or in another gamma."""
    p = _progress(rng, len(a))
    return _mix(a, b, _over_time(p ** rng.choice([1.0, 1.0, 0.7, 1.4])))


def fade(a: Frames, b: Frames, rng: np.random.Generator) -> Frames:
    """Out to a colour, most often black, which may be held, and in again."""
    colour = np.array(rng.choice([(0, 0, 0), (0, 0, 0), (255, 255, 255), tuple(rng.integers(0, 255, 3))]), np.uint8)
    hold = rng.uniform(0, 0.5) if rng.random() < 0.5 else 0.0
    level = np.clip(np.abs(np.linspace(-1, 1, len(a) + 2)[1:-1]) - hold, 0, 1) / (1 - hold)
    shot = np.where(_over_time(np.linspace(-1, 1, len(a)) < 0), a, b)
    return _mix(np.broadcast_to(colour, a.shape), shot, _over_time(level))


def _field(shape: tuple[int, int], rng: np.random.Generator) -> Float32[np.ndarray, "H W"]:
    """When each pixel turns over in a wipe, 0 first and 1 last: a line, clock, iris, doors, blinds or a smooth random field."""
    h, w = shape
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    y, x = (y / h - rng.uniform(0.35, 0.65)), (x / w - rng.uniform(0.35, 0.65))
    angle = rng.choice([0, np.pi / 2, np.pi, 3 * np.pi / 2]) if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
    line = x * np.cos(angle) + y * np.sin(angle)
    kind = rng.choice(["line", "line", "line", "clock", "iris", "diamond", "doors", "blinds", "cloud"])
    field = {
        "line": lambda: line,
        "clock": lambda: (np.arctan2(y, x) + angle) % (2 * np.pi),
        "iris": lambda: np.hypot(x * rng.uniform(0.6, 1.8), y),
        "diamond": lambda: np.abs(x) + np.abs(y),
        "doors": lambda: np.abs(line),
        "blinds": lambda: (line * rng.integers(3, 9)) % 1,
        "cloud": lambda: cv2.resize(rng.random((rng.integers(3, 9), rng.integers(3, 9))).astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC),
    }[kind]()
    field = (field - field.min()) / (np.ptp(field) + 1e-6)
    return 1 - field if rng.random() < 0.5 else field


def wipe(a: Frames, b: Frames, rng: np.random.Generator) -> Frames:
    """One shot takes the place of the other behind a moving edge, hard or soft."""
    field, soft = _field(a.shape[1:3], rng), rng.choice([0.01, 0.01, 0.1, 0.3])
    front = _over_time(_progress(rng, len(a)))[..., 0] * (1 + soft)
    return _mix(a, b, np.clip((front - field) / soft, 0, 1)[..., None])


def slide(a: Frames, b: Frames, rng: np.random.Generator) -> Frames:
    """Push, cover or uncover, from one of four sides, with or without motion blur."""
    axis, back, kind = int(rng.integers(1, 3)), rng.random() < 0.5, rng.choice(["push", "push", "cover", "uncover"])
    size, blur = a.shape[axis], rng.random() < 0.1
    out = np.empty_like(a)
    p = _progress(rng, len(a))
    for i, moved in enumerate(np.clip(np.round(p * size), 1, size - 1).astype(int)):
        strip = np.concatenate([b[i], a[i]] if back else [a[i], b[i]], axis - 1)
        start = size - moved if back else moved
        view = np.take(strip, np.arange(start, start + size), axis - 1)
        if kind != "push":
            still = b[i] if kind == "uncover" else a[i]
            new = (np.arange(size) < moved) if back else (np.arange(size) >= size - moved)
            keep = new if kind == "uncover" else ~new
            view = np.where(keep[:, None, None] if axis == 1 else keep[None, :, None], still, view)
        length = 2 * (size // len(a) // 2) + 1
        out[i] = cv2.blur(view, (1, length) if axis == 1 else (length, 1)) if blur else view
    return out


def _each_side(a: Frames, b: Frames, rng: np.random.Generator, change: Callable[[np.ndarray, float], np.ndarray]) -> Frames:
    """`change(frame, strength 0…1)` grows on a, shrinks on b; the shots are crossed over about the middle, quickly or slowly."""
    p = np.arange(1, len(a) + 1) / (len(a) + 1)
    width = rng.choice([0.05, 0.3, 1.0])
    weight = np.clip((p - 0.5) / width + 0.5, 0, 1)
    strength = 1 - np.abs(2 * p - 1)
    one, other = (np.stack([change(frame, s) for frame, s in zip(x, strength)]) for x in (a, b))
    return _mix(one, other, _over_time(weight))


def blur(a: Frames, b: Frames, rng: np.random.Generator) -> Frames:
    """Blurs out and in, along x, along y or both (a whip pan that hides a cut is the first)."""
    most, along = rng.uniform(0.1, 0.5) * a.shape[2], rng.choice(3)
    size = lambda s: tuple(1 + int(s * most) if along in (axis, 2) else 1 for axis in (0, 1))  # noqa: E731
    return _each_side(a, b, rng, lambda frame, s: cv2.blur(frame, size(s)))


def blocks(a: Frames, b: Frames, rng: np.random.Generator) -> Frames:
    """Grows into blocks and back."""
    most = rng.uniform(0.04, 0.15) * a.shape[2]

    def change(frame, s):
        h, w = frame.shape[:2]
        cell = 1 + s * most
        small = cv2.resize(frame, (max(2, int(w / cell)), max(2, int(h / cell))), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (w, h), interpolation=cv2.INTER_NEAREST)

    return _each_side(a, b, rng, change)


def zoom(a: Frames, b: Frames, rng: np.random.Generator) -> Frames:
    """Flies into one shot and out of the other, perhaps turning."""
    most, turn, inwards = rng.uniform(0.5, 4), rng.choice([0.0, 0.0, 60.0]), rng.random() < 0.5
    h, w = a.shape[1:3]

    def change(frame, s):
        matrix = cv2.getRotationMatrix2D((w / 2, h / 2), turn * s, 1 + most * s)
        return cv2.warpAffine(frame, matrix, (w, h), borderMode=cv2.BORDER_REFLECT)

    if rng.random() < 0.5:
        return _each_side(a, b, rng, change)
    p = _progress(rng, len(a))  # only one of them is zoomed, and dissolves
    moving = np.stack([change(frame, s) for frame, s in zip(a if inwards else b, p if inwards else 1 - p)])
    weight = _over_time(np.clip((p - 0.5) * 2, 0, 1) if rng.random() < 0.5 else p)
    return _mix(moving, b, weight) if inwards else _mix(a, moving, weight)


def grains(a: Frames, b: Frames, rng: np.random.Generator) -> Frames:
    """Pixels or small cells turn over one by one, in no order."""
    h, w = a.shape[1:3]
    cell = int(rng.choice([1, 1, 2, 4, 12]))
    field = cv2.resize(rng.random((-(-h // cell), -(-w // cell))).astype(np.float32), (w, h), interpolation=cv2.INTER_NEAREST)
    return _mix(a, b, (field < _over_time(_progress(rng, len(a)))[..., 0])[..., None])


class Join(enum.Enum):
    """A way to join two shots: the type that is reported, the function, the fewest and most mixed frames, how often it is drawn."""

    DISSOLVE = (Type.DISSOLVE, dissolve, 3, 60, 6)
    FADE = (Type.FADE, fade, 4, 50, 4)
    WIPE = (Type.WIPE, wipe, 4, 40, 5)
    SLIDE = (Type.SLIDE, slide, 4, 30, 3)
    BLUR = (Type.UNKNOWN, blur, 4, 24, 1.5)
    BLOCKS = (Type.UNKNOWN, blocks, 5, 30, 1)
    ZOOM = (Type.UNKNOWN, zoom, 5, 30, 2)
    GRAINS = (Type.DISSOLVE, grains, 5, 40, 1)

    def __init__(self, type_: Type, function: Callable, fewest: int, most: int, weight: float):
        self.type, self.function, self.fewest, self.most, self.weight = type_, function, fewest, most, weight
