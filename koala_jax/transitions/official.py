"""The decision rule of Koala-36M's released analyzer, from the scores of neighbouring frames to clips.

    (1) m_i = mean(svm_{i-1}, svm_i, svm_{i+1}), at both ends svm_i itself
    (2) pair i is a transition where svm_i < 0,
    (3) or where i ≥ 8, m_i < 0.75 and m_i < μ − 3 max(0.2, σ): μ and σ of m_{i-8} … m_{i-1} without the lowest and the two highest
    (4) between two such pairs, or the ends, lies a segment: if it has 10 frames or more, a clip without its first 4 and last 5
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from core_jax import video
from koala_jax.transitions import Detection, Transition, Type, css
from koala_jax.transitions.runs import runs

if TYPE_CHECKING:
    import av
    from jaxtyping import Bool, Float64, UInt8

PAST, TRIMMED = 8, slice(1, 6)
GATE, DEVIATIONS, FLOOR = 0.75, 3.0, 0.2
MARGIN = 4
SHORTEST = 8
BATCH = 32
"""frames that are scored in one go, while code and tables are in the caches: decoding a frame empties them"""


def averaged(svm: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """(1)"""
    mean = svm.copy()
    if len(svm) > 2:
        mean[1:-1] = np.convolve(svm, np.full(3, 1 / 3), "valid")
    return mean


def above(svm: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """By how much each pair lies above the bounds of (2) and (3), the nearer one; below 0 it is a transition."""
    mean, far = averaged(svm), svm.copy()
    if len(svm) > PAST:
        past = np.sort(np.lib.stride_tricks.sliding_window_view(mean[:-1], PAST), axis=1)[:, TRIMMED]
        low = past.mean(1) - DEVIATIONS * np.maximum(FLOOR, past.std(1))
        far[PAST:] = np.minimum(far[PAST:], mean[PAST:] - np.minimum(GATE, low))
    return far


def clips(found: Bool[np.ndarray, " n"]) -> list[tuple[int, int]]:
    """(4): first frame, and the frame after the last, of each clip."""
    kept, start = [], 0
    for end in [*np.flatnonzero(found).tolist(), len(found)]:
        if end - start > SHORTEST:
            kept.append((start + MARGIN, end - MARGIN))
        start = end + 1
    return kept


def transitions(found: Bool[np.ndarray, " n"], svm: Float64[np.ndarray, " n"]) -> list[Transition]:
    """Runs of flagged pairs: from the second frame of the first pair to that of the last."""
    return [Transition(i + 1, j, Type.UNKNOWN, float(svm[i:j].min())) for i, j in runs(found)]


def decide(scores: dict[str, Float64[np.ndarray, " n"]]) -> Detection:
    """From the columns of `css.Score` to what is kept."""
    svm = scores["svm"]
    far = above(svm)
    kept, found = clips(far < 0), transitions(far < 0, svm)
    decisions = [(-float(far[t.start_frame - 1 : t.end_frame].min()), t) for t in found]
    for t in found:  # (1) carries a transition's score into its neighbours
        far[max(t.start_frame - 3, 0) : t.end_frame + 2] = np.inf
    decisions += [(float(far[k]), Transition(k + 1, k + 1, Type.UNKNOWN, float(svm[k]))) for k in np.argsort(far)[:1].tolist()]
    return Detection(found, kept, scores, min(decisions, default=None, key=lambda made: made[0]))


class Official:
    """The released analyzer as a detector; it keeps at most BATCH frames, at 256 × 256."""

    def __init__(self):
        self.held: list[UInt8[np.ndarray, "256 256 3"]] = []
        self.last: css.Features | None = None
        self.scores: list[css.Score] = []

    def push(self, frame: av.VideoFrame, seconds: float) -> None:
        self.held.append(css.shrink(video.to_bgr(frame)))
        if len(self.held) == BATCH:
            self._score()

    def finish(self) -> Detection:
        self._score()
        columns = [field.name for field in dataclasses.fields(css.Score)]
        table = np.array([dataclasses.astuple(s) for s in self.scores], np.float64).reshape(-1, len(columns))
        return decide({name: table[:, columns.index(name)].copy() for name in ("svm", "bgr", "canny")})

    def _score(self) -> None:
        for features in map(css.features, self.held):
            if self.last is not None:
                self.scores.append(css.score(self.last, features))
            self.last = features
        self.held.clear()
