"""A video of several shots, with the class of every pair of neighbouring frames."""
import dataclasses
import io
from collections.abc import Sequence

import av
import numpy as np
from jaxtyping import Int8, UInt8

from koala_jax.transitions import Type
from koala_jax.transitions.features import from_planes
from koala_jax.transitions.network import CLASSES
from koala_jax.transitions.synthesis import disturbances
from koala_jax.transitions.synthesis.joins import Join
from koala_jax.transitions.synthesis.shots import HEIGHT, WIDTH, Source, cut_out, draw



@dataclasses.dataclass(frozen=True, eq=False)
class Splice:
    """Thumbnails of a spliced video, and the class of each pair as a place in CLASSES."""

    thumbs: UInt8[np.ndarray, "T 96 64"]
    labels: Int8[np.ndarray, " T-1"]


def splice(sources: Sequence[Source], rng: np.random.Generator, shots: int = 8) -> Splice:
    """Draws a video: shots, half of them joined by a cut, disturbances in half of them, and encodes it as a codec would."""
    frames, labels = [], []
    shot, source, start = _shot(sources, rng)
    if rng.random() < 0.2:  # the video fades in
        n = int(rng.integers(5, 40))
        join = Join.FADE if rng.random() < 0.7 else Join.DISSOLVE
        black = np.full_like(shot[:1], rng.choice([0, 0, 255]))
        hold = int(rng.integers(2, 30))
        level = (np.arange(1, n + 1) / (n + 1))[:, None, None, None]
        if len(shot) > n + 10 and join is Join.FADE:
            frames += [np.repeat(black, hold, 0), (black + level * (shot[:n].astype(np.float32) - black)).astype(np.uint8)]
            labels += [0] * (hold - 1) + [CLASSES.index(Type.FADE)] * (n + 1)
            shot = shot[n:]
    for i in range(shots):
        if i == shots - 1:
            frames.append(shot)
            labels += [0] * (len(shot) - 1)
            break
        join = None if rng.random() < 0.5 else _join(rng)
        after, next_source, next_start = _shot(sources, rng, source, start + len(shot) if join is None else None)
        if join is None:
            frames.append(shot)
            labels += [0] * (len(shot) - 1) + [CLASSES.index(Type.CUT)]
        else:
            n = int(np.exp(rng.uniform(np.log(join.fewest), np.log(join.most))))
            n = max(2, min(n, len(shot) - 6, len(after) - 6))
            frames += [shot[:-n], join.function(shot[-n:], after[:n], rng)]
            labels += [0] * (len(shot) - n - 1) + [CLASSES.index(join.type)] * (n + 1)
            after = after[n:]
        shot, source, start = after, next_source, next_start
    return Splice(encoded(np.concatenate(frames), rng), np.array(labels, np.int8))


def _join(rng: np.random.Generator) -> Join:
    joins = list(Join)
    weights = np.array([join.weight for join in joins])
    return joins[rng.choice(len(joins), p=weights / weights.sum())]


def _shot(sources, rng, before: Source | None = None, start: int | None = None):
    """A shot, its source and where it starts there. `start` allows a jump cut: the source before, some time later."""
    length = int(rng.choice([rng.integers(14, 40), rng.integers(40, 160)], p=[0.2, 0.8]))
    if start is not None and before is not None and rng.random() < 0.12 and len(before.frames) > start + 30 + 20:
        start += int(rng.integers(25, len(before.frames) - start - 20))
        return cut_out(before, min(length, len(before.frames) - start), rng, start), before, start
    frames, source, start = draw(sources, length, rng)
    if rng.random() < 0.55 and len(frames) > 30:
        for _ in range(rng.integers(1, 3)):
            disturb = disturbances.ALL[rng.integers(len(disturbances.ALL))]
            frames = disturb(np.array(frames), int(rng.integers(8, len(frames) - 8)), rng)
            if len(frames) < 20:
                break
    return frames, source, start


def encoded(frames: UInt8[np.ndarray, "T H W 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "T 96 64"]:
    """Thumbnails of the frames after H.264 at a random quality, or with grain, or as they are."""
    kind = rng.choice(["codec", "grain", "plain"], p=[0.6, 0.2, 0.2])
    if kind == "codec" and "libx264" in av.codecs_available:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.thread_count = WIDTH, HEIGHT, "yuv420p", 1
            stream.options = {"crf": str(rng.integers(16, 34)), "preset": "ultrafast" if rng.random() < 0.5 else "veryfast", "g": str(rng.integers(10, 250))}
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode())
        buffer.seek(0)
        with av.open(buffer) as container:
            return np.stack([from_planes(frame) for frame in container.decode(video=0)])
    grain = rng.uniform(2, 12) if kind == "grain" else 0.0
    thumbs = []
    for image in frames:
        if grain:
            image = np.clip(image + grain * rng.standard_normal((HEIGHT, WIDTH, 1), np.float32), 0, 255).astype(np.uint8)
        thumbs.append(from_planes(av.VideoFrame.from_ndarray(image, "rgb24")))
    return np.stack(thumbs)
