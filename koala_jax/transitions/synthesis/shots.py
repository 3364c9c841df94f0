"""Single shots to splice: from files, from still pictures under a moving camera, and drawn procedurally."""
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from core_jax import video

HEIGHT, WIDTH = 96, 160
"""Size of the spliced videos, in pixels."""
MARGIN = 1.25
"""Sources are kept this much larger, so that a shot can be cut out of them."""
LONGEST = 300
"""Frames that are read of one file."""
PICTURES = {".png", ".jpg", ".jpeg"}


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Frames of one single shot, or one still picture (T = 1)."""

    name: str
    frames: UInt8[np.ndarray, "T H W 3"]


def read(path: str | Path, size: tuple[int, int] = (round(HEIGHT * MARGIN), round(WIDTH * MARGIN))) -> Source:
    """The first frames of a video file, or a picture, resized to cover `size` and cut about the centre. Raises VideoError."""
    path = Path(path)
    if path.suffix.lower() in PICTURES:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if picture is None:
            raise video.VideoError(str(path), "is no picture that OpenCV can read")
        scale = max(2 * size[0] / picture.shape[0], 2 * size[1] / picture.shape[1])
        return Source(path.name, cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[None])
    frames = [video.to_rgb(frame, size) for _, _, frame in itertools.islice(video.decode(path), LONGEST)]
    if not frames:
        raise video.VideoError(str(path), "holds no frame that decodes")
    return Source(path.name, np.stack(frames))


def camera(
    canvas: UInt8[np.ndarray, "h w 3"], length: int, rng: np.random.Generator, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> UInt8[np.ndarray, "T H W 3"]:
    """A camera that pans, zooms and trembles over a picture."""
    (h, w), (rows, columns) = canvas.shape[:2], size
    wide = rng.uniform(0.45, 0.9, 2)  # widths of the view, as shares of what fits, at both ends
    if rng.random() < 0.5:
        wide[1] = wide[0]
    reach = rng.choice([0.0, 0.1, 0.4, 1.0])
    start = rng.uniform(-1, 1, 2)
    stop = np.clip(start + reach * rng.normal(size=2), -1, 1)
    t = np.linspace(0, 1, length) * min(1, length / 150)
    t = t if rng.random() < 0.5 else t * t * (3 - 2 * t)
    tremble = np.cumsum(rng.normal(size=(length, 2)), 0)
    tremble = (tremble - cv2.blur(tremble, (1, 31))) * rng.choice([0, 0.001, 0.004, 0.01])
    frames = []
    for i in range(length):
        view = wide[0] + (wide[1] - wide[0]) * t[i]
        width = min(w, h * columns / rows) * view
        height = width * rows / columns
        room = np.array([w - width, h - height]) / 2
        place = (start + (stop - start) * t[i]) * room * 0.95 + tremble[i] * width
        zoom = columns / width
        corner = np.array([w, h]) / 2 + place - np.array([width, height]) / 2
        matrix = np.array([[zoom, 0, -corner[0] * zoom], [0, zoom, -corner[1] * zoom]])
        frames.append(cv2.warpAffine(canvas, matrix, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
    return np.stack(frames)


def panorama(
    canvas: UInt8[np.ndarray, "h w 3"], length: int, rng: np.random.Generator, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> UInt8[np.ndarray, "T H W 3"]:
    """A camera that turns from one end of a wide picture to the other, fast enough to smear it, once or there and back."""
    h, w = canvas.shape[:2]
    upright = rng.random() < 0.25
    canvas = np.ascontiguousarray(canvas.transpose(1, 0, 2)) if upright else canvas
    canvas = np.concatenate([canvas, canvas[:, ::-1]], 1) if rng.random() < 0.5 else canvas
    size = size if upright else size[::-1]
    view = min(canvas.shape[0] / size[1], 0.45 * canvas.shape[1] / size[0]) * rng.uniform(0.6, 1)  # canvas pixels a pixel
    turn, at = int(rng.integers(4, 40)), int(rng.integers(8, max(9, length - 20)))
    t = np.clip((np.arange(length + 1) - at) / turn, 0, 1)
    t = t * t * (3 - 2 * t) if rng.random() < 0.7 else t
    if rng.random() < 0.3:
        t = np.minimum(t, np.roll(t[::-1], 2 * (at + turn) + 6 - length))
    left = (0.03 + 0.94 * t) * (canvas.shape[1] - view * size[0])
    tremble = np.cumsum(rng.normal(size=(length, 2)), 0)
    tremble = (tremble - cv2.blur(tremble, (1, 15))) * rng.choice([0, 0.5, 2.0])
    top, frames = rng.uniform(0, 1) * (canvas.shape[0] - view * size[1]), []
    for i in range(length):
        x, y = left[i] + tremble[i, 0], top + tremble[i, 1]
        frame = cv2.warpAffine(canvas, np.array([[1 / view, 0, -x / view], [0, 1 / view, -y / view]]), size, borderMode=cv2.BORDER_REFLECT)
        smear = int(abs(left[i + 1] - left[i]) / view * 0.7) + 1
        frame = cv2.blur(frame, (smear, 1)) if smear > 1 else frame
        frames.append(np.ascontiguousarray(frame.transpose(1, 0, 2)) if upright else frame)
    return np.stack(frames)


def drawn(
    length: int, rng: np.random.Generator, size: tuple[int, int] = (HEIGHT, WIDTH), place: np.random.Generator | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """A procedural shot of size (H, W): a textured scene with shapes and lettering, of draws of `place` (by default `rng`), under a camera, and
    things that move across it."""
    place = place or rng
    wide, (rows, columns), larger = place.random() < 0.25, size, size[1] / WIDTH
    h, w = rows * 2, columns * (5 if wide else 2)
    palette = place.uniform(0, 255, (4, 3))
    canvas = np.zeros((h, w, 3), np.float32)
    for octave in range(1, 7):
        cells = place.normal(size=(2**octave, 2 ** (octave + 1), 3)) * 0.6**octave * place.uniform(0, 1)
        cells = cells.mean(2, keepdims=True) + 0.4 * cells
        canvas += cv2.resize(cells.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    canvas = palette[0] + canvas * place.uniform(20, 160)
    canvas = np.clip(canvas, 0, 255).astype(np.uint8)
    for _ in range(place.integers(0, 60 if wide else 25)):
        _shape(canvas, place, palette[place.integers(4)] * place.uniform(0.5, 1.3), place.integers(0, (w, h)), larger * place.uniform(5, 90))
    frames = (panorama if wide else camera)(canvas, length, rng, size)
    for _ in range(rng.integers(0, 5)):
        start, radius = rng.uniform(0, (columns, rows)), larger * np.exp(rng.uniform(np.log(3), np.log(70)))
        speed = larger * rng.normal(0, rng.choice([0.6, 2, 6]), 2)
        colour, seed = rng.uniform(0, 255, 3), int(rng.integers(2**31))
        for i, frame in enumerate(frames):
            middle = (start + speed * i + 0.3 * radius * np.sin(i / 9 + seed) + radius) % (columns * 1.5 + 2 * radius) - radius
            _shape(frame, np.random.default_rng(seed), colour, middle, radius)
    return frames


def _shape(image: np.ndarray, rng: np.random.Generator, colour, middle, size: float) -> None:
    x, y = (int(v) for v in middle)
    colour = tuple(float(c) for c in np.clip(colour, 0, 255))
    r = max(2, int(size))
    match rng.integers(4):
        case 0:
            cv2.ellipse(image, (x, y), (r, max(2, int(r * rng.uniform(0.3, 1)))), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        case 1:
            cv2.rectangle(image, (x - r, y - int(r * rng.uniform(0.3, 1.5))), (x + r, y + r), colour, -1)
        case 2:
            cv2.line(image, (x - r, y), (x + r, y + int(rng.uniform(-r, r))), colour, max(1, r // 8), cv2.LINE_AA)
        case 3:
            text = "".join(rng.choice(list("ABCDEFGHKMNPRSTUVWXYZ 0123456789"), 8))
            cv2.putText(image, text, (x - 3 * r, y), cv2.FONT_HERSHEY_SIMPLEX, r / 25, colour, max(1, r // 15), cv2.LINE_AA)


def cut_out(source: Source, length: int, rng: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
    """At most `length` frames of a source from a random one on: cut to the size, perhaps mirrored, faster or a still."""
    T, h, w = source.frames.shape[:3]
    if T == 1 or rng.random() < 0.16:
        return (panorama if rng.random() < 0.5 else camera)(source.frames[rng.integers(T)], length, rng)
    step = int(rng.choice([n for n in (1, 1, 1, 2, 3, 4) if T >= n * length or n == 1]))
    length = min(length, T // step)
    start = int(rng.integers(0, T - length * step + 1))
    scale = rng.uniform(1, min(h / HEIGHT, w / WIDTH))
    ch, cw = min(h, int(HEIGHT * scale)), min(w, int(WIDTH * scale))
    top, left = int(rng.integers(0, h - ch + 1)), int(rng.integers(0, w - cw + 1))
    part = source.frames[start : start + length * step : step, top : top + ch, left : left + cw]
    return np.stack([cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for frame in part])


def graded(frames: UInt8[np.ndarray, "T H W 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
    """Another light, contrast and tint, the same for the whole shot; sometimes grey."""
    table = np.arange(256) / 255
    table = 255 * np.clip((table ** np.exp(rng.normal(0, 0.3)) - 0.5) * rng.uniform(0.6, 1.2) + 0.5 + rng.normal(0, 0.07), 0, 1)
    tables = np.clip(table[:, None] * rng.uniform(0.85, 1.15, 3), 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        tables = np.repeat(tables[:, :1], 3, 1)
        frames = np.repeat(frames.mean(3, keepdims=True).astype(np.uint8), 3, 3)
    frames = np.ascontiguousarray(frames)
    return cv2.LUT(frames.reshape(-1, frames.shape[2], 3), tables[None]).reshape(frames.shape)


def draw(sources: Sequence[Source], length: int, rng: np.random.Generator, scene: int | None = None) -> UInt8[np.ndarray, "T H W 3"]:
    """A shot of at most `length` frames, from one of the sources or drawn (one in five; all, without sources).

    Shots of one `scene` (a seed; by default a new one) are views of one source, or one drawn place, in one light.
    """
    place = np.random.default_rng(rng.integers(2**31) if scene is None else scene)
    drawing, mirrored = not sources or place.random() < 0.2, place.random() < 0.5
    light = np.random.default_rng(place.integers(2**31)) if place.random() < 0.6 else None
    frames = drawn(length, rng, place=place) if drawing else cut_out(sources[place.integers(len(sources))], length, rng)
    frames = frames[:, :, ::-1] if mirrored else frames
    return graded(frames, light) if light else np.ascontiguousarray(frames)
