"""Ways to make a clip worse by a known amount: the teacher that needs no labels.

Each takes the frames of a clip, uint8 (T, H, W, 3), and a level from 1 to 4, and returns as many frames; level 0 is the clip as it was.
What is more degraded must be scored lower: within one clip and one kind of degradation the rank is known, and nothing else is.
"""

from __future__ import annotations

import enum
import io
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from koala_jax.x264 import encoded

if TYPE_CHECKING:
    from jaxtyping import UInt8

LEVELS = 4
FASTEST = 3.0
"""`SPEED` of the highest level needs so many times the frames"""
DARK, LIGHT = 0.35, 0.65
"""mean values of a clip, of 1, beyond which it is under- or overexposed as it is"""
CAPITALS = 0.72
"""height of a capital letter, in sizes of Pillow's own font"""
WORDS = "so much depends upon a red wheel barrow glazed with rain water beside the white chickens".split()


class Degradation(enum.Enum):
    """The kinds."""

    COMPRESSION = "compression"
    BLUR = "blur"
    NOISE = "noise"
    FREEZE = "freeze"
    JITTER = "jitter"
    DROPS = "drops"
    LETTERBOX = "letterbox"
    WATERMARK = "watermark"
    SUBTITLE = "subtitle"
    SLIDESHOW = "slideshow"
    EXPOSURE = "exposure"
    SPEED = "speed"

    def __call__(self, source: UInt8[np.ndarray, "n H W 3"], frames: int, level: int, rng: np.random.Generator) -> UInt8[np.ndarray, "T H W 3"]:
        """`frames` frames of a longer source, degraded; draws are the same at every level for an equal state of rng."""
        if self is Degradation.SPEED:
            return source[np.minimum(speeds(level) * np.arange(frames), len(source) - 1).astype(int)]
        return _FUNCTIONS[self](source[:frames], level - 1, rng)


def speeds(level: int) -> float:
    """How many times faster a level is."""
    return (1.0, 1.3, 1.7, 2.3, FASTEST)[level]


def compression(clip, level, rng):
    """x264 at constant rate factors 32 to 50."""
    with av.open(io.BytesIO(encoded(clip, (32, 38, 44, 50)[level]))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def blur(clip, level, rng):
    """Gaussian, σ of 0.8 to 3.5 pixels."""
    return np.stack([cv2.GaussianBlur(image, (0, 0), (0.8, 1.4, 2.2, 3.5)[level]) for image in clip])


def noise(clip, level, rng):
    """Gaussian of each number of each frame, σ of 4 to 28 levels."""
    grain = rng.standard_normal(clip.shape, np.float32) * (4, 9, 16, 28)[level]
    return np.clip(clip + grain, 0, 255).astype(np.uint8)


def freeze(clip, level, rng):
    """One stretch of 20 % to 85 % of the clip shows its first frame."""
    T = len(clip)
    length = int(T * (0.2, 0.4, 0.6, 0.85)[level])
    start = int(rng.random() * (T - length))
    numbers = np.arange(T)
    numbers[start : start + length] = start
    return clip[numbers]


def jitter(clip, level, rng):
    """Every frame shifted at random, by 0.4 % to 3 % of the width (standard deviation)."""
    height, width = clip.shape[1:3]
    shifts = rng.standard_normal((len(clip), 2)) * (0.004, 0.009, 0.017, 0.03)[level] * width
    move = lambda image, shift: cv2.warpAffine(  # noqa: E731
        image, np.float32([[1, 0, shift[0]], [0, 1, shift[1]]]), (width, height), borderMode=cv2.BORDER_REFLECT
    )
    return np.stack([move(image, shift) for image, shift in zip(clip, shifts)])


def drops(clip, level, rng):
    """Only every 2nd, 3rd, 4th or 6th frame, held."""
    hold = (2, 3, 4, 6)[level]
    return clip[np.arange(len(clip)) // hold * hold]


def letterbox(clip, level, rng):
    """Black bars over 8 % to 40 % of the picture, above and below or at both sides."""
    side = int(rng.integers(2))
    clip = clip.copy() if side == 0 else clip.transpose(0, 2, 1, 3).copy()
    bar = max(round(clip.shape[1] * (0.04, 0.08, 0.13, 0.2)[level]), 1)
    clip[:, :bar] = clip[:, -bar:] = 0
    return clip if side == 0 else np.ascontiguousarray(clip.transpose(0, 2, 1, 3))


def _write(clip, text: str, height: float, place: tuple[float, float], opacity: float):
    """White letters with a dark rim on every frame; place is the left lower corner, all in shares of the picture.

    Pillow's own font and rim: OpenCV's letters are others in each of its versions, and its bold ones too wide to lie under thin ones.
    """
    H, W = clip.shape[1:3]
    size, letters = height * H, Image.new("RGBA", (W, H))
    ImageDraw.Draw(letters).text(
        (round(place[1] * W), round(place[0] * H)), text, (255, 255, 255), ImageFont.load_default(size / CAPITALS), anchor="ls",
        stroke_width=max(round(size / 12), 1), stroke_fill=(0, 0, 0),
    )  # fmt: skip
    drawn = np.asarray(letters, np.float32)
    share = opacity * drawn[..., 3:] / 255
    return np.stack([(image * (1 - share) + drawn[..., :3] * share).round().astype(np.uint8) for image in clip])


def watermark(clip, level, rng):
    """A name in a corner or the middle, larger and less transparent with each level."""
    text = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVWXYZ"), 6))
    top, left = [(0.12, 0.04), (0.12, 0.55), (0.93, 0.04), (0.93, 0.55), (0.53, 0.3)][int(rng.integers(5))]
    return _write(clip, text, (0.04, 0.06, 0.085, 0.12)[level], (top, left), (0.35, 0.5, 0.65, 0.8)[level])


def subtitle(clip, level, rng):
    """One to three lines of words at the bottom."""
    words = rng.permutation(WORDS)
    height = (0.035, 0.05, 0.055, 0.06)[level]
    for line in range((1, 1, 2, 3)[level]):
        text = " ".join(words[4 * line : 4 * line + (3, 4, 4, 4)[level]])
        clip = _write(clip, text, height, (0.95 - 0.09 * line, 0.12), 1.0)
    return clip


def slideshow(clip, level, rng):
    """Stills of 8, 12, 16 or 24 frames."""
    hold = (8, 12, 16, 24)[level]
    return clip[np.arange(len(clip)) // hold * hold]


def exposure(clip, level, rng):
    """Linear light 0.6 to 2.4 stops up or down: a dark clip down and a light one up, since the other way would mend them."""
    mean, way = clip.mean() / 255, rng.choice([-1, 1])
    stops = (0.6, 1.1, 1.7, 2.4)[level] * (-1 if mean < DARK else 1 if mean > LIGHT else way)
    table = 255 * np.clip((np.arange(256) / 255) ** 2.2 * 2.0**stops, 0, 1) ** (1 / 2.2)
    return table.round().astype(np.uint8)[clip]


_FUNCTIONS = {
    Degradation.COMPRESSION: compression, Degradation.BLUR: blur, Degradation.NOISE: noise, Degradation.FREEZE: freeze,
    Degradation.JITTER: jitter, Degradation.DROPS: drops, Degradation.LETTERBOX: letterbox, Degradation.WATERMARK: watermark,
    Degradation.SUBTITLE: subtitle, Degradation.SLIDESHOW: slideshow, Degradation.EXPOSURE: exposure,
}  # fmt: skip
