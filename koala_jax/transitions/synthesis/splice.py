"""A video of several shots, with the class of every pair of neighbouring frames."""
import dataclasses
import io
from collections.abc import Sequence

import av
import cv2
import numpy as np
from jaxtyping import Int8, UInt8

from koala_jax import x264
from koala_jax.transitions import Type
from koala_jax.transitions.network import CLASSES
from koala_jax.transitions.synthesis import disturbances
from koala_jax.transitions.synthesis.joins import Join
from koala_jax.transitions.synthesis.shots import HEIGHT, WIDTH, Source, draw
from koala_jax.transitions.thumbnail import from_planes


@dataclasses.dataclass(frozen=True, eq=False)
class Splice:
    """Thumbnails of a spliced video, and the class of each pair as a place in CLASSES."""

    thumbs: UInt8[np.ndarray, "T 96 64"]
    labels: Int8[np.ndarray, " T-1"]


SAME, JUMP = 0.25, 0.6
"""How often the next shot is another view of the same scene; how many of the cuts are jumps within a shot, where that can be seen."""


def splice(sources: Sequence[Source], rng: np.random.Generator, shots: int = 8) -> Splice:
    """Draws a video: shots, half of them joined by a cut, disturbances in half of them, and encodes it as a codec would."""
    frames, labels, scene = [], [], int(rng.integers(2**31))
    shot = _shot(sources, rng, scene)
    if rng.random() < 0.15 and len(shot) > 50:  # the video fades in
        n, hold = int(rng.integers(5, 40)), int(rng.integers(2, 30))
        colour = np.full_like(shot[:1], rng.choice([0, 0, 255]))
        level = (np.arange(1, n + 1) / (n + 1))[:, None, None, None]
        frames += [np.repeat(colour, hold, 0), (colour + level * (shot[:n].astype(np.float32) - colour)).astype(np.uint8)]
        labels += [0] * (hold - 1) + [CLASSES.index(Type.FADE)] * (n + 1)
        shot = shot[n:]
    for _ in range(shots - 1):
        if rng.random() < 0.5:
            keep, after = _jump(shot, rng) if rng.random() < JUMP else (shot, None)
            if after is None:
                scene, after = _next(sources, rng, scene, shot)
            frames.append(keep)
            labels += [0] * (len(keep) - 1) + [CLASSES.index(Type.CUT)]
            shot = after
        else:
            join, (scene, after) = _join(rng), _next(sources, rng, scene, shot)
            n = int(np.exp(rng.uniform(np.log(join.fewest), np.log(join.most))))
            n = max(2, min(n, len(shot) - 6, len(after) - 6))
            frames += [shot[:-n], join.function(shot[-n:], after[:n], rng)]
            labels += [0] * (len(shot) - n - 1) + [CLASSES.index(join.type)] * (n + 1)
            shot = after[n:]
    frames.append(shot)
    labels += [0] * (len(shot) - 1)
    return Splice(encoded(np.concatenate(frames), rng), np.array(labels, np.int8))


def _join(rng: np.random.Generator) -> Join:
    joins = list(Join)
    weights = np.array([join.weight for join in joins])
    return joins[rng.choice(len(joins), p=weights / weights.sum())]


def _next(sources: Sequence[Source], rng: np.random.Generator, scene: int, shot: np.ndarray) -> tuple[int, np.ndarray]:
    """The shot that follows, and its scene: the same one where the difference can be seen."""
    if rng.random() < SAME:
        after = _shot(sources, rng, scene)
        if _differ(shot, len(shot) - 1, after[0]):
            return scene, after
    scene = int(rng.integers(2**31))
    return scene, _shot(sources, rng, scene)


def _differ(shot: np.ndarray, end: int, after: np.ndarray) -> bool:
    """Whether `after` differs from frame `end` of a shot by more than the frame before it does, where they differ most."""
    away = (cv2.absdiff(frame, shot[end]).mean(2) for frame in (after, shot[end - 1]))
    jump, usual = (np.sort(cv2.resize(x, (WIDTH // 8, HEIGHT // 8), interpolation=cv2.INTER_AREA).ravel())[-12:].mean() for x in away)
    return jump > 1.6 * usual + 4


def _shot(sources: Sequence[Source], rng: np.random.Generator, scene: int) -> UInt8[np.ndarray, "T H W 3"]:
    """A shot of 14 to 160 frames of a scene, half of the time with one or two disturbances."""
    frames = draw(sources, int(rng.choice([rng.integers(14, 40), rng.integers(40, 160)], p=[0.2, 0.8])), rng, scene)
    for _ in range(rng.choice([0, 1, 2], p=[0.45, 0.3, 0.25])):
        if len(frames) > 30:
            disturb = disturbances.ALL[rng.integers(len(disturbances.ALL))]
            frames = disturb(np.array(frames), int(rng.integers(8, len(frames) - 8)), rng)
    return frames


def _jump(shot: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    """A shot in two parts, some of its frames between them left out; whole, with None, where that could not be seen."""
    if len(shot) > 60:
        end = int(rng.integers(15, len(shot) - 40))
        start = end + int(rng.integers(16, len(shot) - end - 20))
        if _differ(shot, end - 1, shot[start]):
            return shot[:end], shot[start:]
    return shot, None


def encoded(frames: UInt8[np.ndarray, "T H W 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "T 96 64"]:
    """Thumbnails of the frames after H.264 at a random quality, or with grain, or as they are."""
    kind = rng.choice(["codec", "grain", "plain"], p=[0.6, 0.2, 0.2])
    if kind == "codec" and "libx264" in av.codecs_available:
        crf, preset = int(rng.integers(16, 34)), "ultrafast" if rng.random() < 0.5 else "veryfast"
        coded = x264.encoded(frames, crf, preset=preset, g=str(rng.integers(10, 250)))
        with av.open(io.BytesIO(coded)) as container:
            return np.stack([from_planes(frame) for frame in container.decode(video=0)])
    grain = rng.uniform(2, 12) if kind == "grain" else 0.0
    thumbs = []
    for image in frames:
        if grain:
            image = np.clip(image + grain * rng.standard_normal((HEIGHT, WIDTH, 1), np.float32), 0, 255).astype(np.uint8)
        thumbs.append(from_planes(av.VideoFrame.from_ndarray(image, "rgb24")))
    return np.stack(thumbs)
