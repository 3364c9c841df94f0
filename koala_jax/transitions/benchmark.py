"""`python -m koala_jax.transitions.benchmark CLIPS…`: transitions found and missed, clean clips and speed, beside other detectors.

The set is built of single-shot clips (labelled.py), or is one that is there already (--labels). The paper's two tables follow:
does a clip hold a transition, and milliseconds a frame pair by size.
"""
import collections
import dataclasses
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import av
import cv2
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from core_jax import cli, video
from core_jax.files import existing, in_memory, read_kept, refuse_unwritable, write_bytes
from core_jax.numbers import COUNT, refuse
from core_jax.words import counted
from koala_jax.transitions import Detection, Detector, labelled, peers
from koala_jax.transitions import score as scoring
from koala_jax.transitions.learned import WEIGHTS, Learned
from koala_jax.transitions.official import Official
from koala_jax.transitions.score import Truth
from koala_jax.tsa.card import seen

SIZES = {"256": (256, 256), "512": (512, 512), "720p": (720, 1280), "1080p": (1080, 1920), "4K": (2160, 3840)}
PUBLISHED_SPEED = {
    "PySceneDetect HSL, as published": (0.68, 2.63, 10.73, 26.16, 102.55),
    "PySceneDetect HSL+edge, as published": (2.50, 8.82, 30.57, 70.11, 267.18),
    "CSS, as published": (1.42, 2.45, 6.15, 12.26, 41.98),
}
"""Koala-36M, appendix: CPU milliseconds a pair at the five sizes; its machine is not named."""
PUBLISHED_CLIPS = {
    "PySceneDetect HSL, as published": (44.21, 59.20, 30.96),
    "PySceneDetect HSL+edge, as published": (45.74, 58.54, 41.46),
    "CSS, as published": (77.41, 75.47, 93.95),
}
"""Koala-36M, appendix: accuracy, precision and recall (%) on 10,000 clips of its own, which are not public."""
PUSHED = 64
"""Frames of a round of the speeds."""
WINDOW = 100
"""Frames of the pieces on which the clip-level table stands."""


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Measure transition detectors on videos whose transitions are known exactly."""

    clips: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """single-shot video files"""
    labels: str | None = None
    """labels.json beside its videos: an existing set, instead of one that is built from clips"""
    out: str = "transitions_benchmark"
    """folder for the videos that are built and the plot"""
    videos: int = 14
    """videos to build, nine shots each"""
    seed: int = 0
    """seed of the set"""
    weights: str = str(WEIGHTS)
    """weights of the learned detector"""
    ours: bool = False
    """measure ours alone: leave the official rule and all other detectors out"""
    json: str | None = None
    """also write the figures to this file"""

    def __post_init__(self):
        refuse(self, {COUNT: "videos"})


class Clocked:
    """A detector of ours on a file, its own seconds apart from the decoder's."""

    def __init__(self, make: Callable[[], Detector]):
        self.make, self.detection = make, 0.0

    def __call__(self, path: Path) -> Detection:
        detector = self.make()
        for _, seconds, frame in video.decode(path):
            start = time.perf_counter()
            detector.push(frame, seconds)
            self.detection += time.perf_counter() - start
        start = time.perf_counter()
        found = detector.finish()
        self.detection += time.perf_counter() - start
        return found


def measure(folder: Path, truths: Sequence[Truth], detectors: dict[str, peers.Peer]) -> dict[str, dict]:
    """Figures of each detector over the set, all in this process, one after the other on each video."""
    scores = {name: scoring.Score() for name in detectors}
    clip_level = {name: np.zeros(4, int) for name in detectors}
    seconds = dict.fromkeys(detectors, 0.0)
    for truth in cli.tracked(truths, "videos measured"):
        for name, detect in detectors.items():
            start = time.perf_counter()
            found = detect(folder / truth.file)
            seconds[name] += time.perf_counter() - start
            scores[name] += scoring.score(found, truth)
            clip_level[name] += _windows(found, truth)
    frames = sum(truth.frames for truth in truths)
    figures = {}
    for name, detect in detectors.items():
        right, wrong, missed, empty = (int(n) for n in clip_level[name])
        figures[name] = scores[name].figures() | {
            "frames a second": frames / seconds[name],
            "clips": {
                "accuracy": scoring.percent(right + empty, right + wrong + missed + empty),
                "precision": scoring.percent(right, right + wrong),
                "recall": scoring.percent(right, right + missed),
            },
        }
        if isinstance(detect, Clocked):
            figures[name]["detection ms a frame"] = 1e3 * detect.detection / frames
    return figures


def decoding(folder: Path, truths: Sequence[Truth]) -> dict[str, float]:
    """Frames a second of the decoders alone, in turns."""
    decoders: dict[str, Callable[[Path], object]] = {"our decoder alone": lambda path: collections.deque(video.decode(path), maxlen=0)}
    if importlib.util.find_spec("scenedetect"):
        decoders["PySceneDetect's decoder alone"] = peers.scenedetect_frames
    seconds = dict.fromkeys(decoders, 0.0)
    for truth in cli.tracked(truths, "videos decoded"):
        for name, read in decoders.items():
            start = time.perf_counter()
            read(folder / truth.file)
            seconds[name] += time.perf_counter() - start
    return {name: sum(truth.frames for truth in truths) / took for name, took in seconds.items()}


def _windows(found: Detection, truth: Truth) -> np.ndarray:
    """Pieces of WINDOW frames: found and there, found only, there only, neither. A mixed or new frame is a transition's."""
    there, said = np.zeros(truth.frames, bool), np.zeros(truth.frames, bool)
    for t in truth.transitions:
        there[t.before + 1 : t.after + 1] = True
    for t in found.transitions:
        said[t.start_frame : t.end_frame + 1] = True
    for start in range(0, truth.frames, WINDOW):  # a cut exactly between two pieces is in neither
        there[start] &= there[start - 1] if start else False
        said[start] &= said[start - 1] if start else False
    pieces = [(there[i : i + WINDOW].any(), said[i : i + WINDOW].any()) for i in range(0, truth.frames - WINDOW + 1, WINDOW)]
    return np.array([sum(p == want for p in pieces) for want in ((True, True), (False, True), (True, False), (False, False))])


def speeds(makers: dict[str, Callable[[], Detector]]) -> dict[str, list[float]]:
    """Milliseconds a frame pair at each of SIZES, without decoding: the best of three, detectors taking turns."""
    best = {name: [] for name in makers}
    rng = np.random.default_rng(0)
    for height, width in SIZES.values():
        small = rng.integers(0, 256, (9, 12, 3), np.uint8)
        images = [cv2.resize(np.roll(small, i, 1), (width, height), interpolation=cv2.INTER_CUBIC) for i in range(8)]
        decoded = [av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p") for image in images]
        times = {name: [] for name in makers}
        for _ in range(3):
            for name, make in makers.items():
                detector = make()
                start = time.perf_counter()
                for i in range(PUSHED):
                    detector.push(decoded[i % 8], i / 25)
                detector.finish()
                times[name].append((time.perf_counter() - start) / (PUSHED - 1))
        for name in makers:
            best[name].append(1e3 * min(times[name]))
    return best


def show(figures: dict[str, dict], decoders: dict[str, float], speed: dict[str, list[float]], console: Console) -> None:
    """Prints the tables."""
    number = lambda value, digits=1: "–" if value is None else f"{value:.{digits}f}"  # noqa: E731
    table = Table("detector", "precision %", "recall %", "F1 %", "dirty clips %", "frames kept %", "frames/s", "detection ms", title="transitions, tolerance 2 frames")
    for name, row in figures.items():
        keys = ("precision", "recall", "f1", "dirty", "kept")
        table.add_row(name, *(number(row[key]) for key in keys), number(row["frames a second"], 0), number(row.get("detection ms a frame"), 2))
    for name, frames in decoders.items():
        table.add_row(name, *("–",) * 5, number(frames, 0), "–")
    console.print(table)
    for key, title in (("recall by type", "found, of those there"), ("fooled by", "disturbances taken for a transition")):
        kinds = sorted({kind for row in figures.values() for kind in row[key]})
        table = Table("", *figures, title=title)
        for kind in kinds:
            table.add_row(kind, *(f"{row[key][kind][0]}/{row[key][kind][1]}" for row in figures.values()))
        if key == "fooled by":
            table.add_row("false elsewhere", *(str(row["false elsewhere"]) for row in figures.values()))
        console.print(table)
    for name, row in figures.items():
        if row["by type"]:
            table = Table("", "precision", "recall", "F1", title=f"{name}, by type; a false one counts against the type that it was given")
            for kind, rates in row["by type"].items():
                table.add_row(kind, *(number(rates[key]) for key in ("precision", "recall", "f1")))
            console.print(table)
    table = Table("", "accuracy", "precision", "recall", title=f"does a piece of {WINDOW} frames hold a transition? (published: other clips)")
    rows = {name: tuple(row["clips"].values()) for name, row in figures.items()} | PUBLISHED_CLIPS
    for name, values in rows.items():
        table.add_row(name, *(number(value) for value in values))
    console.print(table)
    table = Table("", *SIZES, title="ms a frame pair without decoding, one thread (published: another machine)")
    for name, values in (speed | PUBLISHED_SPEED).items():
        table.add_row(name, *(number(value, 2) for value in values))
    console.print(table)


def plot(figures: dict[str, dict]) -> bytes:
    """F1, dirty clips and frames kept, a bar each, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure((9, 1 + 0.45 * len(figures)), layout="constrained")
    for axes, key, title in zip(figure.subplots(1, 3, sharey=True), ("f1", "dirty", "kept"), ("F1, %", "dirty clips, %", "pure frames kept, %")):
        bars = axes.barh(list(figures), [row[key] or 0 for row in figures.values()], color=["C0"] + ["0.7"] * (len(figures) - 1))
        axes.bar_label(bars, fmt="%.1f", padding=2)
        axes.set(title=title, xlim=(0, 115))
        axes.spines[["top", "right"]].set_visible(False)
        if key == "f1":  # the y axis is shared
            axes.invert_yaxis()
    return in_memory(lambda file: figure.savefig(file, format="png", dpi=120))


def main(args: list[str]) -> None:
    config = cli.parse(BenchmarkConfig, args, "koala_jax.transitions.benchmark")
    console, out = cli.console(), Path(config.out)
    refuse_unwritable("--out", out / "benchmark.png")
    if (config.labels is None) == (not config.clips):
        raise ValueError("give either single-shot clips to build a set of, or --labels with a set that is there")
    Learned(Path(config.weights))  # what is wrong with them is said before a set is built
    if config.labels:
        folder, truths = Path(config.labels).parent, scoring.read(config.labels)
        if not truths:
            raise ValueError(f"{config.labels} names no video")
        for truth in truths:
            existing(folder / truth.file)
    else:
        folder, truths = out / "videos", labelled.build(out / "videos", config.clips, config.videos, config.seed)
    makers: dict[str, Callable[[], Detector]] = {"ours": lambda: Learned(Path(config.weights)), "official rule": Official}
    if config.ours:
        del makers["official rule"]
    detectors: dict[str, peers.Peer] = {name: Clocked(make) for name, make in makers.items()}
    if not config.ours:
        others, missing = peers.available()
        detectors |= others
        for sentence in missing:
            console.print(sentence)
    figures, decoders, speed = measure(folder, truths, detectors), decoding(folder, truths), speeds(makers)
    show(figures, decoders, speed, console)
    made_of = config.clips or [*read_kept(config.labels).get("clips", ()), *(truth.file for truth in truths)]
    if known := seen(Path(config.weights).with_suffix(".json"), "sources", made_of):
        console.print(f"the weights were trained on {counted(len(known), 'clip')} of these ({', '.join(known)}), which flatters ours")
    write_bytes(out / "benchmark.png", plot(figures))
    console.save(config.json, {"detectors": figures, "trained on": known, "frames a second, decoding alone": decoders, "ms a pair": speed | {name: list(row) for name, row in PUBLISHED_SPEED.items()}})
    console.print(f"wrote {out / 'benchmark.png'}; the videos and their labels lie in {folder}")


if __name__ == "__main__":
    cli.run(main)
