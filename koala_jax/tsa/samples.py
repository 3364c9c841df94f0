"""What a scorer is trained on, made once and kept: for every sample its fragments, its picture, its sub-metrics, its target, its group.

`degraded` and `drawn` take every degradation at every level of segments of a video or of a procedural shot (segments.py): the target is
−level, and each segment and kind is one group. `whole` takes a video as it is, `labelled` gives such their scores of people, one group in
all. Targets compare within a group alone.
"""
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator

import numpy as np
from etils import epath
from jaxtyping import Float, Int, UInt8

from core_jax.files import in_memory, unbroken, write_bytes
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from koala_jax.metrics import Metric
from koala_jax.metrics.measure import Measured, Plan, measure
from koala_jax.shots.inputs import video_of
from koala_jax.tsa.degrade import LEVELS, Degradation
from koala_jax.tsa.segments import Made, degrade_drawn, degrade_segment, segments

METRICS = tuple(metric for metric in Metric if metric is not Metric.TRANSITION)
"""what a scorer learns from: a transition that was left in is a fault of the cut, not of the picture"""


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """n samples, each seen in a number of clips: those of every draw."""

    clips: UInt8[np.ndarray, "n clips T h w 3"]
    images: UInt8[np.ndarray, "n 224 224 3"]
    columns: Float[np.ndarray, "n M"]
    """sub-metrics, NaN for unknown"""
    targets: Float[np.ndarray, "n"]
    groups: Int[np.ndarray, "n"]
    names: tuple[str, ...]
    """of the sub-metrics"""
    sources: tuple[str, ...]
    """the video of each sample; held out are whole videos"""
    kinds: tuple[str, ...]
    """of each sample: what was done to it"""

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def kind_numbers(self) -> Int[np.ndarray, "n"]:
        """`kinds`, each as a number."""
        return np.unique(self.kinds, return_inverse=True)[1].astype(np.int32)

    @property
    def fingerprint(self) -> str:
        """Of what was measured, and its targets."""
        told = json.dumps([self.sources, self.kinds, self.targets.tolist(), self.columns.tolist()])
        return hashlib.sha256(told.encode()).hexdigest()

    def take(self, rows: Int[np.ndarray, "m"]) -> "Samples":
        """Some of them."""
        text = {name: tuple(getattr(self, name)[i] for i in rows) for name in ("sources", "kinds")}
        return Samples(self.clips[rows], self.images[rows], self.columns[rows], self.targets[rows], self.groups[rows], self.names, **text)

    def split(self, held_out: float, seed: int) -> tuple["Samples", "Samples"]:
        """By source video: a share of the videos, at least one, is held out; clips that koala_jax.split cut from one video go together.

        Raises:
          ValueError: a single video, which cannot be split.
        """
        uncut = [video_of(source) for source in self.sources]
        videos = sorted(set(uncut))
        if len(videos) < 2:
            raise ValueError(f"all samples come from {videos[0]}: two videos or more are needed to hold one out")
        number = min(max(round(held_out * len(videos)), 1), len(videos) - 1)
        away = set(np.random.default_rng(seed).permutation(videos)[:number].tolist())
        mask = np.array([video in away for video in uncut])
        return self.take(np.flatnonzero(~mask)), self.take(np.flatnonzero(mask))

    def save(self, path: epath.Path) -> None:
        """One .npz, fit to be loaded without unpickling."""
        arrays = {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}
        write_bytes(path, in_memory(lambda file: np.savez(file, **arrays)))

    @classmethod
    def load(cls, path: epath.Path) -> "Samples":
        with path.open("rb") as file, np.load(file, allow_pickle=False) as table:
            arrays = dict(table)
        return cls(**{name: tuple(map(str, x)) if x.dtype.kind == "U" else x for name, x in arrays.items()})


def degraded(name: str, path: epath.Path, plan: Plan, kinds: tuple[Degradation, ...], number: int, pool: DecodePool) -> Samples:
    """All degradations of some segments of a video.

    Raises:
      VideoError: it cannot be read, or is too short.
    """
    found = segments(name, str(path), number, plan, pool)
    return joined([_of_segment(name, pool.run(degrade_segment, str(path), segment, plan, kinds)) for segment in found])


def drawn(number: int, plan: Plan, kinds: tuple[Degradation, ...], pool: DecodePool) -> Samples:
    """All degradations of the procedural shot of this number."""
    return _of_segment(f"drawn {number}", pool.run(degrade_drawn, number, plan, kinds))


def _of_segment(source: str, made: Made) -> Samples:
    return _stacked([(measured, -float(level), i // (LEVELS + 1), source, kind) for i, (kind, level, measured) in enumerate(made)])


def joined(parts: list[Samples]) -> Samples:
    """All in one; groups of two parts are never the same."""
    first = np.cumsum([0, *(part.groups.max() + 1 for part in parts[:-1])])
    groups = np.concatenate([part.groups + start for part, start in zip(parts, first)])
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("clips", "images", "columns", "targets")}
    text = {name: sum((getattr(part, name) for part in parts), ()) for name in ("sources", "kinds")}
    return Samples(**arrays, groups=groups, names=parts[0].names, **text)


def whole(name: str, path: epath.Path, plan: Plan, pool: DecodePool) -> Samples:
    """A video as it is, without a score yet. Raises VideoError: it cannot be read, or is too short."""
    measured = pool.run(measure, str(path), plan)
    if measured.unscored:
        raise VideoError(name, measured.unscored)
    return _stacked([(measured, np.nan, 0, name, "label")])


def labelled(parts: list[Samples], labels: dict[str, float]) -> Samples:
    """Videos with a score each."""
    samples = joined(parts)
    targets = np.array([labels[name] for name in samples.sources], np.float32)
    return dataclasses.replace(samples, targets=targets, groups=np.zeros_like(samples.groups))


def _stacked(parts: list[tuple[Measured, float, int, str, str]]) -> Samples:
    measured, targets, groups, sources, kinds = zip(*parts)
    names = ("bits_per_pixel", *(name for metric in METRICS for name in metric.columns))
    columns = np.array([[np.nan if m.columns[name] is None else m.columns[name] for name in names] for m in measured], np.float32)
    clips = np.stack([m.clips.reshape(-1, *m.clips.shape[2:]) for m in measured])
    images = np.stack([m.image for m in measured])
    return Samples(clips, images, columns, np.array(targets, np.float32), np.array(groups, np.int32), names, sources, kinds)


def cached(folder: epath.Path, settings: dict, make: Callable[[], Samples]) -> Samples:
    """Those made before with the same settings, or new ones, kept in the folder."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"samples-{key}.npz"
    kept = unbroken(path, Samples.load)
    if kept is None:
        make().save(path)
        kept = Samples.load(path)
    return kept


def batches(samples: Samples, batch: int, seed: int, start: int = 0) -> Iterator[Int[np.ndarray, "batch"]]:
    """Rows of step `start` and on, each depending on the seed and the step alone: group after group where they are small, else any rows."""
    groups = [np.flatnonzero(samples.groups == g) for g in np.unique(samples.groups)]
    size = len(groups[0])
    step = start
    while True:
        rng = np.random.default_rng([seed, step])
        if size <= batch:
            number = -(-batch // size)
            picked = rng.choice(len(groups), number, replace=len(groups) < number)
            yield np.concatenate([groups[g] for g in picked])[:batch]
        else:
            yield rng.choice(groups[0], batch, replace=False)
        step += 1
