"""Clips of one coloured shape that moves on a textured background, drawn as they are asked for.

    (1) centre(t) = start + speed · t · direction                       pixels, t in frames
    (2) cover     = clip(1/2 − distance / √(1 + 12 σ²), 0, 1)           distance: signed, to the shape's edge
    (3) ground    = level + tint + Σ_w a · exp(−σ²|k_w|²/2) · cos(k_w·x + φ_w)
    (4) video     = ground + cover · contrast · (colour − ground)

(2) is a pixel-wide ramp convolved with a blur of σ pixels, as one ramp of the same variance; (3) is a sum of
plane waves, whose Gaussian blur is exact. So antialiasing and blur cost nothing.

Scores, all known exactly:
    motion     pixels a frame: the speed of (1)
    clarity    1 − σ / σ_max, in 0..1
    aesthetic  10 · contrast · (1 + harmony) / 2, in 2.5..10; harmony is 0 where shape and background share a hue and
               1 where their hues are complementary: (1 − cos Δhue) / 2
"""

import dataclasses
import enum
import functools
import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

SIZES = {"small": 0.14, "large": 0.22}  # radius over the frame's shorter side
COLOURS = {
    "red": (230, 40, 40),
    "yellow": (240, 215, 40),
    "green": (50, 190, 60),
    "cyan": (50, 215, 225),
    "blue": (50, 80, 235),
    "purple": (190, 60, 225),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # (x, y), y grows downwards
SPEEDS = ("slowly", "steadily", "fast")  # thirds of the range of speeds
REACH = 1.5  # the farthest point of any shape below from its centre, over its radius
BLUR = 0.04  # σ_max over the frame's shorter side


def _circle(x, y, r):
    return np.hypot(x, y) - r


def _bar(x, y, r):
    return np.maximum(np.abs(x) - 1.4 * r, np.abs(y) - 0.5 * r)


def _pillar(x, y, r):
    return _bar(y, x, r)


def _slash(x, y, r):
    return _bar((x - y) * np.float32(np.sqrt(0.5)), (x + y) * np.float32(np.sqrt(0.5)), r)


SHAPES = {"circle": _circle, "bar": _bar, "pillar": _pillar, "slash": _slash}  # their second moments tell them apart at 16 pixels
WORDS = ("a", *SIZES, *COLOURS, *SHAPES, "moves", *DIRECTIONS, *SPEEDS)  # of all captions


class Split(enum.Enum):
    """Two thirds of the captions are for training; clips of the held-out third show words in combinations never trained."""

    TRAIN = 0
    HELD_OUT = 1

    def seed(self, of_run: int) -> int:
        """Of the clips in a run of this seed: those held out are the same in all runs, so that their losses can be compared."""
        return of_run if self is Split.TRAIN else 0


@dataclasses.dataclass(frozen=True)
class Scene:
    """What one clip shows: four words, and the measures that the scores come from (pixels, frames, 0..1)."""

    size: str
    colour: str
    shape: str
    direction: str
    speed: float
    blur: float = 0.0
    contrast: float = 1.0
    hue: float = 0.0  # of the background, radians
    speed_word: str = ""

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} moves {self.direction}" + (self.speed_word and f", {self.speed_word}")

    @property
    def aesthetic(self) -> float:
        harmony = (1 - np.cos(_hue_of(self.colour) - self.hue)) / 2
        return float(10 * self.contrast * (1 + harmony) / 2)


def hue(rgb: Float[np.ndarray, "*dims 3"]) -> Float[np.ndarray, "*dims"]:
    """The angle, in radians, of a colour on the wheel around grey (red 0, green 2π/3, blue −2π/3)."""
    r, g, b = np.moveaxis(np.asarray(rgb, np.float64), -1, 0)
    return np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b)


def coverage(shape: str, radius: float, centres: Float[np.ndarray, "T 2"], height: int, width: int, blur: float = 0.0):
    """How much of each pixel the shape covers, by equation (2): Float [T, H, W] for centres (x, y) from the frame's middle."""
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) - centres[:, None, None, 0]
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None] - centres[:, None, None, 1]
    ramp = np.float32(np.sqrt(1 + 12 * blur**2))
    return np.clip(0.5 - SHAPES[shape](x, y, np.float32(radius)) / ramp, 0, 1)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """A random-access source (as grain wants it) of clips; example i depends on (seed, split, i) alone.

    Each example is {"video": uint8 [T, H, W, 3], "caption": str, "scores": {"motion", "clarity", "aesthetic"}}.
    A third of the captions name the speed.

    Raises:
        ValueError: where a frame is too small to draw in, or a clip has one frame.
    """

    frames: int = 8
    height: int = 24
    width: int = 24
    length: int = 1 << 17
    seed: int = 0
    split: Split = Split.TRAIN

    def __post_init__(self):
        if self.frames < 2 or self.side < 12 or self.length < 1:
            raise ValueError(
                f"shapes: {self.frames} frames of {self.height}×{self.width} and {self.length} examples were asked for; "
                "at least 2 frames of 12×12 and 1 example are needed"
            )

    @property
    def side(self) -> int:
        return min(self.height, self.width)

    @property
    def speeds(self) -> tuple[float, float]:
        """The slowest and the fastest clip, in pixels a frame: what crosses the frame and keeps a large shape inside."""
        fastest = self.side * (1 - 2 * REACH * max(SIZES.values())) / (self.frames - 1)
        return 0.1 * fastest, fastest

    @property
    def captions(self) -> list[tuple[str, str, str, str]]:
        """The split's (size, colour, shape, direction): 128 to train on, 64 held out."""
        return _captions(self.split)

    @property
    def fingerprint(self) -> str:
        return f"shapes seed {self.seed}"

    def scores(self) -> dict[str, np.ndarray]:
        """Scores of the first 2,048 clips, without drawing them."""
        scenes = [self.scene(self._rng(i)) for i in range(min(self.length, 2048))]
        rows = [self._scores(scene) for scene in scenes]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def __len__(self) -> int:
        return self.length

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.split.value, int(index)])

    def _scores(self, scene: Scene) -> dict[str, float]:
        clarity = 1 - scene.blur / (BLUR * self.side)
        return {"motion": scene.speed, "clarity": clarity, "aesthetic": scene.aesthetic}

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = self._rng(index)
        scene = self.scene(rng)
        return {"video": self.draw(scene, rng), "caption": scene.caption, "scores": self._scores(scene)}

    def scene(self, rng: np.random.Generator) -> Scene:
        captions = self.captions
        slowest, fastest = self.speeds
        pick, word, speed, blur, contrast, angle = rng.random(6)
        return Scene(
            *captions[int(pick * len(captions))],
            speed=float(slowest + (fastest - slowest) * speed),
            blur=float(BLUR * self.side * blur),
            contrast=float(0.5 + 0.5 * contrast),
            hue=float(2 * np.pi * angle),
            speed_word=SPEEDS[int(speed * len(SPEEDS))] if word < 1 / 3 else "",
        )

    def draw(self, scene: Scene, rng: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
        """One clip of the scene; the start, inside the frame from first to last, and the texture come from `rng`."""
        radius, centres = SIZES[scene.size] * self.side, self.centres(scene, rng)
        ground = self._ground(scene, rng)
        cover = coverage(scene.shape, radius, centres, self.height, self.width, scene.blur) * np.float32(scene.contrast)
        colour = np.array(COLOURS[scene.colour], np.float32)
        return (ground + cover[..., None] * (colour - ground) + np.float32(0.5)).astype(np.uint8)

    def centres(self, scene: Scene, rng: np.random.Generator) -> Float[np.ndarray, "T 2"]:
        """Where `draw`, given the same `rng`, puts the shape: (x, y) from the frame's middle, in pixels."""
        direction = np.array(DIRECTIONS[scene.direction], np.float32)
        travel = scene.speed * (self.frames - 1) * direction
        room = np.array([self.width, self.height]) - 2 * REACH * SIZES[scene.size] * self.side - np.abs(travel)
        middle = (rng.random(2) - 0.5) * room
        return (middle + np.linspace(-0.5, 0.5, self.frames)[:, None] * travel).astype(np.float32)

    def _ground(self, scene: Scene, rng: np.random.Generator) -> Float[np.ndarray, "H W 3"]:
        """Equation (3): four waves of 1/2 to 1 of the frame on a grey level with a little of the background's hue."""
        turns, phases, lengths, level = np.split(rng.random(13), (4, 8, 12))
        k = 2 * np.pi / (self.side * (0.5 + 0.5 * lengths))
        at = (k * np.cos(2 * np.pi * turns))[:, None] * np.arange(self.width)
        at = at[:, None] + ((k * np.sin(2 * np.pi * turns))[:, None] * np.arange(self.height))[..., None]
        waves = np.cos((at + 2 * np.pi * phases[:, None, None]).astype(np.float32))
        texture = np.tensordot((5 * np.exp(-((scene.blur * k) ** 2) / 2)).astype(np.float32), waves, 1)
        tint = 15 * np.cos(scene.hue - np.array([0, 2, 4]) * np.pi / 3)
        return texture[..., None] + (80 + 50 * level + tint).astype(np.float32)


@functools.cache
def _captions(split: Split) -> list[tuple[str, str, str, str]]:
    kinds = [list(words) for words in (SIZES, COLOURS, SHAPES, DIRECTIONS)]
    held_out = lambda at: sum(at) % 3 == 0  # every word, and every pair of words, stays in both splits
    return [
        tuple(words[i] for words, i in zip(kinds, at))
        for at in itertools.product(*(range(len(words)) for words in kinds))
        if held_out(at) == (split is Split.HELD_OUT)
    ]


@functools.cache
def _hue_of(colour: str) -> float:
    return float(hue(np.array(COLOURS[colour])))
