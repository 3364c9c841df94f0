"""How good a detector is, against exactly known transitions: found and false ones by type, and how clean its clips are."""
import collections
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from koala_jax.transitions import Detection, Type

TOLERANCE = 2
"""Frames by which a transition may be missed and still count."""


@dataclasses.dataclass(frozen=True)
class Known:
    """A transition that is there: the last frame wholly before it and the first one wholly after it."""

    before: int
    after: int
    type: str


@dataclasses.dataclass(frozen=True)
class Span:
    """Frames, both included, within one shot in which something happens that is no transition."""

    start: int
    end: int
    type: str


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is known of a video. In `unscored` spans a report is neither right nor wrong."""

    file: str
    frames: int
    transitions: Sequence[Known]
    disturbances: Sequence[Span] = ()
    unscored: Sequence[tuple[int, int]] = ()

    def shot_of(self) -> np.ndarray:
        """The number of the shot that each frame belongs to wholly, -1 for mixed frames."""
        own, start = np.full(self.frames, -1), 0
        for shot, (end, after) in enumerate([(t.before, t.after) for t in self.transitions] + [(self.frames - 1, self.frames)]):
            own[start : end + 1] = shot
            start = after
        return own


@dataclasses.dataclass
class Score:
    """Counts over one video or many; `+` adds them."""

    found: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    """by type"""
    there: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    false: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    """by type of disturbance, "elsewhere" for none"""
    fooled: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    """disturbances with at least one false report"""
    disturbances: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    false_as: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    """by the `Type` that the detector gave them"""
    named: int = 0
    """reports with a type other than unknown"""
    clean: int = 0
    dirty: int = 0
    """clips with frames of two shots, or with mixed ones"""
    pure: int = 0
    """frames that belong to one shot"""
    kept: int = 0
    """of those, how many lie in clean clips"""

    def __add__(self, other: "Score") -> "Score":
        return Score(*(getattr(self, field.name) + getattr(other, field.name) for field in dataclasses.fields(Score)))

    def figures(self) -> dict:
        """Percentages, and the counts behind them. F1 = 2 P R / (P + R)."""
        found, false, there = self.found.total(), self.false.total(), self.there.total()
        return {
            **_rates(found, false, there),
            "dirty": percent(self.dirty, self.dirty + self.clean),
            "kept": percent(self.kept, self.pure),
            "false": false,
            "missed": there - found,
            "by type": {kind.value: rates for kind in Type if self.named and (rates := self._by_type(kind))},
            "recall by type": {kind: [self.found[kind], n] for kind, n in sorted(self.there.items())},
            "fooled by": {kind: [self.fooled[kind], n] for kind, n in sorted(self.disturbances.items())},
            "false elsewhere": self.false["elsewhere"],
        }

    def _by_type(self, kind: Type) -> dict:
        """Of one type; empty where there is none of it. A false report counts against the type that it was given."""
        found, there = (sum(n for name, n in counts.items() if type_of(name) is kind) for counts in (self.found, self.there))
        return _rates(found, self.false_as[kind], there) if there or self.false_as[kind] else {}


def type_of(label: str) -> Type:
    """The type of a labelled transition: labels say more (`cut_jump`, `fadeblack`), and some name what no detector knows."""
    named = {"cut": Type.CUT, "dissolve": Type.DISSOLVE, "noise": Type.DISSOLVE, "fade": Type.FADE, "wipe": Type.WIPE, "shape": Type.WIPE, "slide": Type.SLIDE}
    return next((kind for name, kind in named.items() if label.startswith(name)), Type.UNKNOWN)


def _rates(found: int, false: int, there: int) -> dict[str, float | None]:
    return {
        "precision": percent(found, found + false),
        "recall": percent(found, there),
        "f1": percent(2 * found, 2 * found + false + there - found),
    }


def percent(part: int, whole: int) -> float | None:
    """None of nothing."""
    return 100 * part / whole if whole else None


def score(detection: Detection, truth: Truth, tolerance: int = TOLERANCE) -> Score:
    """Counts for one video.

    A reported interval finds a transition that it overlaps, widened by the tolerance; of several the nearest, unless it spans
    them. A further report within a transition that was found already is no error, and no success.
    """
    result = Score(there=collections.Counter(t.type for t in truth.transitions))
    result.disturbances = collections.Counter(d.type for d in truth.disturbances)
    result.named = sum(t.type is not Type.UNKNOWN for t in detection.transitions)
    taken, fooled = set(), set()
    for t in sorted(detection.transitions, key=lambda t: (t.start_frame, t.end_frame)):
        near = [i for i, x in enumerate(truth.transitions) if t.start_frame <= x.after + tolerance and t.end_frame >= x.before - tolerance]
        free = [i for i in near if i not in taken]
        if free:
            middle = t.start_frame + t.end_frame
            nearest = min(free, key=lambda i: abs(middle - truth.transitions[i].before - truth.transitions[i].after))
            taken |= set(near) if t.end_frame > t.start_frame else {nearest}
        elif not near and not any(t.start_frame <= b + tolerance and t.end_frame >= a - tolerance for a, b in truth.unscored):
            hit = [i for i, d in enumerate(truth.disturbances) if t.start_frame <= d.end + tolerance and t.end_frame >= d.start - tolerance]
            result.false[truth.disturbances[hit[0]].type if hit else "elsewhere"] += 1
            result.false_as[t.type] += 1
            fooled |= set(hit[:1])
    result.found = collections.Counter(truth.transitions[i].type for i in taken)
    result.fooled = collections.Counter(truth.disturbances[i].type for i in fooled)
    own = truth.shot_of()
    result.pure = int((own >= 0).sum())
    for start, stop in detection.clips:
        part = own[start:stop]
        if len(part) and part[0] >= 0 and (part == part[0]).all():
            result.clean += 1
            result.kept += len(part)
        else:
            result.dirty += len(part) > 0
    return result


def read(path: str | Path) -> list[Truth]:
    """A labels.json: {"videos": [{"file", "frames", "transitions": [{"type", "a", "b"}], "negatives": [{"type", "start", "end"}],
    "dont_care": [[start, end]]}]}, where a and b are the last frame before and the first after.

    Raises:
      ValueError: it is none.
    """
    try:
        videos = json.loads(Path(path).read_text())["videos"]
        return [
            Truth(
                v["file"],
                v["frames"],
                [Known(t["a"], t["b"], t["type"]) for t in v["transitions"]],
                [Span(d["start"], d["end"], d["type"]) for d in v.get("negatives", [])],
                [tuple(span) for span in v.get("dont_care", [])],
            )
            for v in videos
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no table of labelled videos: {type(error).__name__} {error}") from error


def as_json(truths: Sequence[Truth]) -> dict:
    """What `read` reads."""
    return {
        "label": "a = last frame wholly before, b = first frame wholly after; frames count from 0",
        "videos": [
            {
                "file": t.file,
                "frames": t.frames,
                "transitions": [{"type": x.type, "a": x.before, "b": x.after} for x in t.transitions],
                "negatives": [{"type": d.type, "start": d.start, "end": d.end} for d in t.disturbances],
                "dont_care": [list(span) for span in t.unscored],
            }
            for t in truths
        ],
    }
