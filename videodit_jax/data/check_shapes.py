"""Reads colour, shape, size, direction and motion off the pixels of a `shapes` clip, with no model: how well was a caption obeyed?

The texture is grey, so the shape is what differs in chroma (colour less its own grey) from the median pixel. Then
    cover      the chroma's projection on the shape's, over its peak             Float [T, H, W]
    colour     the palette's nearest by angle of chroma
    direction  the nearest to the velocity: the slope of a straight line through the cover's centroids
    motion     that velocity's length, pixels a frame
    shape,size the template, drawn at the centroids, with the highest cosine to the cover
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8

from videodit_jax.data.shapes import BLUR, COLOURS, DIRECTIONS, SHAPES, SIZES, coverage

WORDS: Mapping[str, Sequence[str]] = {
    "size": tuple(SIZES),
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
    "direction": tuple(DIRECTIONS),
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What one clip shows; motion in pixels a frame; fit, 0..1, is how well the named shape explains the pixels."""

    size: str
    colour: str
    shape: str
    direction: str
    motion: float
    fit: float


def refuse_no_clip(video: np.ndarray) -> None:
    """Raises ValueError where a video is not uint8 [T, H, W, 3] of at least two frames."""
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or len(video) < 2:
        raise ValueError(f"check: {video.dtype} {list(video.shape)} was given; uint8 [T ≥ 2, H, W, 3] is wanted")


def check(video: UInt8[np.ndarray, "T H W 3"]) -> Reading:
    """Reads one clip. Raises as `refuse_no_clip` does."""
    refuse_no_clip(video)
    ground = _chroma(np.median(video.reshape(-1, 3), axis=0))
    chroma = _chroma(video.astype(np.float32)) - ground
    strength = np.linalg.norm(chroma, axis=-1)
    peak = np.quantile(strength, 0.975)  # the smallest shape covers 4 % of the frame
    seen = chroma[strength >= 0.9 * peak].mean(axis=0)
    cover = np.clip(chroma @ seen / (seen @ seen + 1e-9), 0, 1)

    centres = centroids(np.where(cover > 0.3, cover, 0))
    time = np.arange(len(video)) - (len(video) - 1) / 2
    velocity = time @ centres / (time @ time)
    shape, size, fit = _best_template(cover, centres)
    return Reading(
        size=size,
        colour=max(COLOURS, key=lambda name: cosine(_chroma(np.array(COLOURS[name], float)) - ground, seen)),
        shape=shape,
        direction=max(DIRECTIONS, key=lambda name: velocity @ DIRECTIONS[name]),
        motion=float(np.hypot(*velocity)),
        fit=fit,
    )


def accuracy(videos: UInt8[np.ndarray, "B T H W 3"], captions: Sequence[str]) -> dict[str, float]:
    """The share of clips whose size, colour, shape and direction are those of their captions, and of those with all four.

    Raises:
        ValueError: where a caption does not name one of each.
    """
    right = {
        kind: np.array([getattr(reading, kind) == _word(kind, caption) for reading, caption in zip(readings, captions)])
        for readings in [[check(video) for video in videos]]
        for kind in WORDS
    }
    return {kind: float(hits.mean()) for kind, hits in right.items()} | {"all": float(np.all(list(right.values()), 0).mean())}


def spearman(asked: Float[np.ndarray, "B"], measured: Float[np.ndarray, "B"]) -> float:
    """Spearman's rank correlation; 0 where either side is constant."""
    import scipy.stats  # here: it takes a second

    return float(scipy.stats.spearmanr(asked, measured).statistic) if np.ptp(asked) and np.ptp(measured) else 0.0


def _chroma(rgb):
    return rgb - rgb.mean(axis=-1, keepdims=True)


def cosine(a, b) -> float:
    """0 where one of them is."""
    return float(np.vdot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9))


def centroids(cover: Float[np.ndarray, "T H W"]) -> Float[np.ndarray, "T 2"]:
    """(x, y) from the frame's middle, which is also where nothing is covered."""
    _, height, width = cover.shape
    x, y = np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2
    mass = cover.sum(axis=(1, 2)) + 1e-9
    return np.stack([cover.sum(axis=1) @ x, cover.sum(axis=2) @ y], axis=-1) / mass[:, None]


def _best_template(cover: Float[np.ndarray, "T H W"], centres: Float[np.ndarray, "T 2"]) -> tuple[str, str, float]:
    _, height, width = cover.shape
    side = min(height, width)
    fits = {
        (shape, size, blur): cosine(coverage(shape, SIZES[size] * side, centres, height, width, blur * BLUR * side), cover)
        for shape, size, blur in itertools.product(SHAPES, SIZES, (0, 0.5, 1))
    }
    shape, size, blur = max(fits, key=fits.get)
    return shape, size, fits[shape, size, blur]


def _word(kind: str, caption: str) -> str:
    named = [word for word in caption.replace(",", " ").split() if word in WORDS[kind]]
    if len(named) != 1:
        raise ValueError(f"check: the caption {caption!r} names {len(named)} words for its {kind}; it must name one of {', '.join(WORDS[kind])}")
    return named[0]
