"""A benchmark of our own making: the clips it is given, joined by FFmpeg's `xfade` and by cuts, with disturbances inside shots.

FFmpeg renders the transitions, not the code that renders training's; the disturbances are the same functions, with other draws.
Each timeline is assembled frame by frame and encoded once, so the labels are exact.
"""
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from core_jax.cli import tracked
from core_jax.files import write_json
from core_jax.video_out import write_video
from koala_jax.transitions.score import Known, Span, Truth, as_json, read
from koala_jax.transitions.sources import sources
from koala_jax.transitions.synthesis import disturbances
from koala_jax.transitions.synthesis.shots import Source

SIZE = 360, 640
FPS = 25
SHOTS = 9
SHORTEST, LONGER = 100, 150
"""Frames of a shot: so many that one of which a slow join has taken its part can still be disturbed."""
GRADUAL = (
    ("dissolve", "fade", 6), ("dissolve", "fade", 14), ("dissolve", "fade", 24), ("dissolve", "fade", 36),
    ("fade", "fadeblack", 14), ("fade", "fadeblack", 28), ("fade", "fadewhite", 18), ("fade", "fadegrays", 20),
    ("wipe", "wiperight", 12), ("wipe", "wipedown", 18), ("wipe", "diagtl", 16), ("wipe", "smoothup", 18),
    ("slide", "slideright", 10), ("slide", "slidedown", 16), ("slide", "coverleft", 14), ("slide", "revealup", 14),
    ("shape", "circleclose", 16), ("shape", "radial", 18), ("shape", "vertopen", 16), ("shape", "rectcrop", 16),
    ("effect", "pixelize", 14), ("effect", "hblur", 14), ("effect", "dissolve", 16), ("effect", "zoomin", 16), ("effect", "squeezev", 12),
)  # fmt: skip
"""Type, name of the filter's transition, frames."""
DISTURBANCES = tuple(dict.fromkeys(disturbances.ALL))


def build(folder: Path, clips: Sequence[str], videos: int, seed: int) -> list[Truth]:
    """Makes folder/00.mp4 … and labels.json, or reads them where they were made of the same clips, number and seed.

    Raises:
      ValueError: fewer than two clips of SHORTEST frames or more, or a folder that holds another benchmark.
    """
    facts = {"clips": sorted(Path(clip).name for clip in clips), "number": videos, "seed": seed}
    labels = folder / "labels.json"
    if labels.exists():
        try:
            held = json.loads(labels.read_text())
        except ValueError as error:
            raise ValueError(f"{labels} does not hold a benchmark's labels: {error}") from error
        if any(held.get(name) != value for name, value in facts.items()):
            raise ValueError(f"{folder} holds a benchmark of other clips, another number of videos or another seed: name another --out")
        return read(labels)
    long = [source for source in sources(clips, SIZE) if len(source.frames) >= SHORTEST]
    if len(long) < 2:
        raise ValueError(f"a benchmark wants two clips of {SHORTEST} frames or more, but of {len(clips)} only {len(long)} have as many")
    folder.mkdir(parents=True, exist_ok=True)
    truths = []
    for number in tracked(range(videos), "videos spliced"):
        rng = np.random.default_rng([seed, number])
        frames, truth = _splice(f"{number:02d}.mp4", long, rng, number)
        write_video(folder / truth.file, frames, FPS)
        truths.append(truth)
    write_json(labels, facts | as_json(truths))
    return truths


def _shot(sources: Sequence[Source], rng: np.random.Generator, other: str | None) -> tuple[str, np.ndarray]:
    """SHORTEST to LONGER frames of a source other than the one before."""
    source = sources[rng.choice([i for i, source in enumerate(sources) if source.name != other])]
    length = min(len(source.frames), int(rng.integers(SHORTEST, LONGER)))
    start = int(rng.integers(0, len(source.frames) - length + 1))
    return source.name, source.frames[start : start + length]


def _splice(file: str, sources: Sequence[Source], rng: np.random.Generator, number: int) -> tuple[np.ndarray, Truth]:
    """SHOTS shots, every other joined by a cut, every third disturbed; kinds in turn over the whole set."""
    frames, known, spans, count = [], [], [], 0
    name, shot = _shot(sources, rng, None)
    for k in range(SHOTS):
        if k % 3 == 1:
            disturb = DISTURBANCES[(number * SHOTS // 3 + k // 3) % len(DISTURBANCES)]
            at = int(rng.integers(20, len(shot) - 35))
            disturbed = disturb(np.array(shot), at, rng)
            if len(disturbed) >= 45:
                shot = disturbed
                spans.append(Span(count, count + len(shot) - 1, disturb.__name__))
        if k == SHOTS - 1:
            frames.append(shot)
            count += len(shot)
            break
        name, after = _shot(sources, rng, name)
        if k % 2:
            frames.append(shot)
            count += len(shot)
            known.append(Known(count - 1, count, "cut"))
        else:
            kind, effect, n = GRADUAL[(number * (SHOTS // 2) + k // 2) % len(GRADUAL)]
            n = min(n, len(shot) - 20)
            frames += [shot[:-n], xfade(shot[-n:], after[:n], effect)]
            count += len(shot)
            known.append(Known(count - n, count, kind))  # the filter's first frame is the outgoing one unmixed
            after = after[n:]
        shot = after
    return np.concatenate(frames), Truth(file, count, known, spans)


def xfade(a: np.ndarray, b: np.ndarray, effect: str) -> np.ndarray:
    """T frames of `a` crossed with T of `b` by FFmpeg; frame 0 is still a's."""
    T, H, W, _ = a.shape
    graph = av.filter.Graph()
    ends = []
    for _ in (a, b):
        source = graph.add("buffer", f"video_size={W}x{H}:pix_fmt=rgb24:time_base=1/{FPS}:frame_rate={FPS}")
        convert = graph.add("format", "gbrp")
        source.link_to(convert)
        ends.append((source, convert))
    cross = graph.add("xfade", f"transition={effect}:duration={T / FPS:.6f}:offset=0")
    out, sink = graph.add("format", "rgb24"), graph.add("buffersink")
    for place, (_, convert) in enumerate(ends):
        convert.link_to(cross, 0, place)
    cross.link_to(out)
    out.link_to(sink)
    graph.configure()
    for frames, (source, _) in zip((a, b), ends):
        for i, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            source.push(frame)
        source.push(None)
    mixed = []
    while len(mixed) < T:
        mixed.append(sink.pull().to_ndarray(format="rgb24"))
    return np.stack(mixed)
