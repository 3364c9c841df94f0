"""The learned detector, from thumbnails to transitions and clips.

With p_i = 1 - the network's probability that pair i lies within a shot:

    (1) a transition is a longest run of pairs with p ≥ INSIDE, one of them p ≥ SURE; from the second frame of its first pair to that of its last
    (2) its type is the likeliest over its pairs together; a cut is its likeliest pair alone; the score is the highest p
    (3) clips lie between transitions, without the frames next to them whose pairs have p ≥ DOUBT, and, where shots are
        mixed, without MARGIN frames more and a further one for every TAPER mixed ones: a slow dissolve begins before it can be seen
    (4) each such run, or where there is none the likeliest pair, is decided by (p − SURE)/(1 − SURE) where it is a transition and by
        (SURE − p)/SURE where it is none: 0 is a toss, 1 certain
"""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from koala_jax.transitions import Detection, Transition, Type
from koala_jax.transitions import features as feature
from koala_jax.transitions import network
from koala_jax.transitions.runs import runs
from koala_jax.transitions.thumbnail import from_planes

if TYPE_CHECKING:
    import av
    from jaxtyping import Float32

WEIGHTS = Path(__file__).parent / "weights" / "transitions.safetensors"
SURE, INSIDE, DOUBT = 0.85, 0.35, 0.17
MARGIN, TAPER = 4, 8
CHUNK = 1024
"""Pairs that are measured at once; so many thumbnails of 6 kB, and twice HALO more, are kept."""


class Learned:
    """The detector; besides thumbnails it keeps the features of a few pairs and seven numbers of each."""

    def __init__(self, weights: Path = WEIGHTS):
        self.parameters = network.load(weights)
        self.thumbs: list[np.ndarray] = []
        self.dropped = 0
        """frames whose thumbnails are gone"""
        self.measured = 0
        """pairs whose features are known"""
        self.rows = np.empty((0, len(feature.NAMES)), np.float32)
        """the features of the last of them, which later pairs' probabilities depend on, or which wait for later pairs themselves"""
        self.found: list[np.ndarray] = []
        """probabilities"""

    def push(self, frame: av.VideoFrame, seconds: float) -> None:
        self.add(from_planes(frame))

    def add(self, thumb: np.ndarray) -> None:
        """Takes the next frame as a thumbnail."""
        self.thumbs.append(thumb)
        if self.dropped + len(self.thumbs) == self.measured + CHUNK + feature.HALO:
            self._measure(self.measured + CHUNK, wait=network.CONTEXT)

    def finish(self) -> Detection:
        frames = self.dropped + len(self.thumbs)
        if frames > 1:
            self._measure(frames - 1, wait=0)
        p = np.concatenate([*self.found, np.empty((0, len(network.CLASSES)), np.float32)])
        return decide(p, frames)

    def _measure(self, stop: int, wait: int) -> None:
        """Features of the pairs up to `stop`, probabilities of all but the last `wait`; what no later pair looks at is forgotten."""
        new = feature.features(np.stack(self.thumbs), self.measured - self.dropped, stop - self.dropped)
        self.rows, self.measured = np.concatenate([self.rows, new]), stop
        scored = sum(map(len, self.found))
        first = stop - len(self.rows)
        self.found.append(network.probabilities(self.parameters, self.rows)[scored - first : len(self.rows) - wait])
        self.rows = self.rows[-2 * network.CONTEXT :]
        forget = max(stop - feature.HALO, self.dropped) - self.dropped
        del self.thumbs[:forget]
        self.dropped += forget


def decide(p: Float32[np.ndarray, "P n"], frames: int) -> Detection:
    """The rule: from every pair's probabilities to transitions, clips and the columns of a table of scores."""
    mixed = 1 - p[:, 0].astype(np.float64)
    found, clips, decisions, start = [], [], [], 0
    for i, j in runs(mixed >= INSIDE) or [(k, k + 1) for k in np.argsort(-mixed)[:1].tolist()]:
        kind = network.CLASSES[1 + int(p[i:j, 1:].sum(0).argmax())]
        score = float(mixed[i:j].max())
        if kind is Type.CUT:
            i = i + int(mixed[i:j].argmax())
            j = i + 1
        decisions.append(((score - SURE) / (1 - SURE) if score >= SURE else (SURE - score) / SURE, Transition(i + 1, j, kind, score)))
        if score < SURE:
            continue
        found.append(decisions[-1][1])
        margin = 0 if kind is Type.CUT else MARGIN + (j - i) // TAPER
        before, after = i, j
        while before > 0 and mixed[before - 1] >= DOUBT:
            before -= 1
        while after < len(mixed) and mixed[after] >= DOUBT:
            after += 1
        clips.append((start, before + 1 - margin))
        start = after + margin
    clips.append((start, frames))
    scores = {"transition": mixed} | {str(kind.value): p[:, 1 + i].astype(np.float64) for i, kind in enumerate(Type)}
    return Detection(found, [(a, b) for a, b in clips if b > a], scores, min(decisions, default=None, key=lambda made: made[0]))
