"""What happens inside one shot and is no transition, drawn at random: flashes, whips, shakes, zooms, captions, things in the way.

Each function takes a shot and the number of its first disturbed frame and gives the disturbed shot, perhaps of another length; it may write into the one given.
"""
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from koala_jax.transitions.synthesis.shots import drawn

Frames = UInt8[np.ndarray, "T H W 3"]


def flash(x: Frames, at: int, rng: np.random.Generator) -> Frames:
    """One to five frames, or several flashes, towards a bright colour, of the whole picture or brightest at a place."""
    h, w = x.shape[1:3]
    colour = np.array([255, 255, 255]) if rng.random() < 0.7 else rng.uniform(120, 255, 3)
    field = np.ones((h, w, 1), np.float32)
    if rng.random() < 0.4:
        yy, xx = np.mgrid[0:h, 0:w]
        field = np.exp(-(((xx - rng.uniform(0, w)) / w) ** 2 + ((yy - rng.uniform(0, h)) / h) ** 2) * rng.uniform(1, 8))[..., None]
    for _ in range(rng.integers(1, 4)):
        strength, length = rng.uniform(0.3, 1), int(rng.integers(1, 6))
        fall = rng.choice([0.0, 0.3])
        for i in range(at, min(at + length, len(x))):
            x[i] = x[i] + strength * max(0.15, 1 - fall * (i - at)) * field * (colour - x[i])
        at += int(rng.integers(length + 2, 16))
    return x


def whip(x: Frames, at: int, rng: np.random.Generator) -> Frames:
    """A fast pan with motion blur across a wide picture, made of the shot, its mirror image and again the shot."""
    h, w = x.shape[1:3]
    length = int(rng.integers(4, 18))
    t = np.clip((np.arange(len(x)) - at) / length, 0, 1)
    t = t * t * (3 - 2 * t) * rng.choice([0.4, 0.8, 1.0]) * 2 * w
    if rng.random() < 0.3:
        t = np.minimum(t, np.roll(t[::-1], 2 * at + 2 * length + 5 - len(x)))  # and back
    speed, zoom = np.gradient(t), rng.uniform(1, 2)
    out = np.empty_like(x)
    upright = rng.random() < 0.2
    for i, frame in enumerate(x):
        frame = np.ascontiguousarray(frame.transpose(1, 0, 2)) if upright else frame
        fh, fw = frame.shape[:2]
        shift = t[i] * fw / w
        matrix = np.array([[zoom, 0, -shift * zoom], [0, zoom, -(zoom - 1) * fh / 2]])
        view = cv2.warpAffine(frame, matrix, (fw, fh), borderMode=cv2.BORDER_REFLECT)
        smear = int(abs(speed[i]) * zoom * 0.6) + 1
        view = cv2.blur(view, (smear, 1)) if smear > 1 else view
        out[i] = view.transpose(1, 0, 2) if upright else view
    return out


def shake(x: Frames, at: int, rng: np.random.Generator) -> Frames:
    """The camera is knocked about, white or swinging."""
    h, w = x.shape[1:3]
    length, size = int(rng.integers(6, 40)), rng.uniform(0.01, 0.08) * w
    hold = int(rng.integers(1, 4))
    moves = np.repeat(rng.uniform(-size, size, (length, 2)), hold, 0)[:length]
    for i, (dx, dy) in enumerate(moves[: len(x) - at], at):
        x[i] = cv2.warpAffine(x[i], np.array([[1, 0, dx], [0, 1, dy]]), (w, h), borderMode=cv2.BORDER_REFLECT)
    return x


def punch(x: Frames, at: int, rng: np.random.Generator) -> Frames:
    """A quick zoom in or out, which stays or comes back, perhaps turning."""
    h, w = x.shape[1:3]
    length, most, turn = int(rng.integers(5, 25)), rng.uniform(1.15, 2.2), rng.choice([0.0, 0.0, 15.0])
    t = np.clip((np.arange(len(x)) - at) / length, 0, 1)
    if rng.random() < 0.3:
        t = np.minimum(t, np.clip(3 - (np.arange(len(x)) - at) / length, 0, 1))
    t = 1 - t if rng.random() < 0.3 else t
    middle = rng.uniform(0.3, 0.7, 2) * (w, h)
    return np.stack([cv2.warpAffine(f, cv2.getRotationMatrix2D(middle, turn * s, 1 + (most - 1) * s), (w, h), borderMode=cv2.BORDER_REFLECT) for f, s in zip(x, t)])


def exposure(x: Frames, at: int, rng: np.random.Generator) -> Frames:
    """The light changes within a few frames, or flickers, and may stay so."""
    length = int(np.exp(rng.uniform(0, np.log(60))))
    gain = np.exp(rng.uniform(0.2, 0.7) * rng.choice([-1, 1])) - 1
    t = np.clip((np.arange(len(x)) - at) / length, 0, 1)
    if rng.random() < 0.3:
        t = np.where(t > 0, rng.random(len(x)), 0)
    tint = rng.uniform(0.85, 1.15, 3) ** (rng.random() < 0.5)
    return np.stack([np.clip(f * (1 + gain * s) * (1 + (tint - 1) * s), 0, 255).astype(np.uint8) for f, s in zip(x, t)])


def caption(x: Frames, at: int, rng: np.random.Generator) -> Frames:
    """A box, lettering or a small picture appears: at once, fading or sliding in; it stays or goes."""
    h, w = x.shape[1:3]
    layer, mask = np.zeros((h, w, 3), np.uint8), np.zeros((h, w, 1), np.float32)
    bh, bw = int(h * rng.uniform(0.08, 0.4)), int(w * min(1, rng.uniform(0.25, 1.5)))  # a third are as wide as the picture
    top, left = int(rng.integers(0, h - bh + 1)), int(rng.integers(0, w - bw + 1))
    box = slice(top, top + bh), slice(left, left + bw)
    if rng.random() < 0.2:
        layer[:] = drawn(1, rng, (h, w))[0]
    else:
        layer[:] = rng.integers(0, 255, 3)
    mask[box] = rng.choice([0.0, 0.6, 1.0])
    letters = np.zeros((h, w), np.uint8)
    for line in range(rng.integers(0, 4)):
        text = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVWXYZ abcdefghiklmnoprstuvwxyz"), 16))
        cv2.putText(letters, text, (left + 4, top + int(bh * (0.4 + 0.4 * line))), cv2.FONT_HERSHEY_SIMPLEX, h / 250 * rng.uniform(0.5, 2), 255, 1 + int(rng.integers(3)), cv2.LINE_AA)
    on = letters[..., None] / np.float32(255)
    layer = (layer * (1 - on) + rng.integers(0, 255, 3) * on).astype(np.uint8)
    mask = np.maximum(mask, on)
    appear, stay = int(rng.choice([0, 0, 5, 20])), int(rng.choice([20, 60, 1000]))
    side = int(rng.choice([0, 0, -1, 1]))
    for i in range(at, len(x)):
        s = min(1.0, (i - at + 1) / (appear + 1), max(0.0, (at + stay - i) / (appear + 1)))
        offset = int(side * (1 - s) * w)
        m = np.roll(mask, offset, 1) * (1.0 if side else s)
        x[i] = x[i] * (1 - m) + np.roll(layer, offset, 1) * m
    return x


def occlusion(x: Frames, at: int, rng: np.random.Generator) -> Frames:
    """Something large and blurred, plain or textured, passes close to the camera, or stops there for a while and goes back."""
    h, w = x.shape[1:3]
    length = int(rng.integers(6, 40))
    thing = drawn(1, rng, (h, w))[0] if rng.random() < 0.5 else np.full((h, w, 3), rng.integers(0, 255, 3), np.uint8)
    thing = cv2.GaussianBlur(thing, (0, 0), 3)
    angle, size, soft = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.6) * w, rng.uniform(1, 12)
    back = rng.random() < 0.3
    for i in range(at, min(at + length, len(x))):
        t = (i - at) / length
        t = 2 * min(t, 1 - t) * 0.6 if back else t
        middle = np.array([w / 2, h / 2]) + (2 * t - 1) * (w / 2 + size) * np.array([np.cos(angle), np.sin(angle)])
        mask = np.zeros((h, w), np.float32)
        cv2.ellipse(mask, tuple(int(v) for v in middle), (int(size), int(size * 1.3)), np.degrees(angle), 0, 360, 1, -1)
        mask = cv2.GaussianBlur(mask, (0, 0), soft)[..., None]
        x[i] = x[i] * (1 - mask) + thing * mask
    return x


def speed(x: Frames, at: int, rng: np.random.Generator) -> Frames:
    """Runs 2 to 8 times as fast for a while, or drops a few frames."""
    step = int(rng.integers(2, 9))
    length = step * int(rng.integers(1, 12))
    return np.concatenate([x[:at], x[at : at + length : step], x[at + length :]])


def freeze(x: Frames, at: int, rng: np.random.Generator) -> Frames:
    """Stands still for a while, then goes on, perhaps where it would be by then; or every frame is shown twice."""
    if rng.random() < 0.3:
        half = x[at : at + (len(x) - at) // 2]
        return np.concatenate([x[:at], np.repeat(half, 2, 0)])
    length = int(rng.integers(4, 30))
    rest = x[at + (min(length, 12) if rng.random() < 0.3 else 0) :]
    return np.concatenate([x[:at], np.repeat(x[at : at + 1], length, 0), rest])


def focus(x: Frames, at: int, rng: np.random.Generator) -> Frames:
    """Out of focus and back, or broken into blocks for a few frames."""
    length, most = int(rng.integers(3, 40)), rng.uniform(1, 8)
    blocky = rng.random() < 0.3
    h, w = x.shape[1:3]
    for i in range(at, min(at + length, len(x))):
        s = most * np.sin(np.pi * (i - at + 1) / (length + 1))
        if blocky:
            small = cv2.resize(x[i], (max(2, int(w / (1 + s))), max(2, int(h / (1 + s)))), interpolation=cv2.INTER_AREA)
            x[i] = cv2.resize(small, (w, h), interpolation=cv2.INTER_NEAREST)
        elif s > 0.3:
            x[i] = cv2.GaussianBlur(x[i], (0, 0), s)
    return x


ALL: tuple[Callable[[Frames, int, np.random.Generator], Frames], ...] = (
    flash, flash, whip, whip, whip, shake, punch, punch, exposure, exposure, caption, caption, occlusion, occlusion, speed, freeze, focus,
    punch, exposure, caption, occlusion, occlusion,
)
"""Each is drawn as often as it stands here."""
