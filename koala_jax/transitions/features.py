"""What the learned detector sees of a video: how alike two frames are, at several distances, on thumbnails of 64 × 64 pixels.

A transition lies between the frames t and t+1, or around them. Around every such pair the frames t-k+1 and t+k (k = 1, 2, 4 … 32,
so 1, 3, 7 … 63 frames apart) are compared: a flash, an occlusion or a whip comes back, and far frames are alike again; a transition does
not. Two measures are Koala-36M's (arXiv:2410.08260, eq. 2 and 4), the others answer what those two cannot:

  colour     correlation of colour histograms                        (indifferent to motion)
  structure  SSIM at 32 × 32, mean and worst blocks                     (wipes and shapes change some blocks before others)
  stray      how far a pixel leaves the range that the other frame has around it: motion up to the radius costs nothing; with the larger
             radius histograms are equalised before, so that a change of light costs nothing either
  burst      the same between neighbours, less the most that blocks around had in the two pairs before and after: motion goes on, a jump does not
  leap       how much more the whole picture changes than in those four pairs
  aligned    peak of the phase correlation, and where it lies: the same picture after a translation (handheld, pans, slides)
  zoom       correlation at 16 × 16, and how much higher it is where the middle of one frame is compared with the whole of the other
  changed    pixels that are others: how many, whether they fill a rectangle and go on changing (a caption does, and does not), all one way (light)
  blend      is frame t a mixture of t-k and t+k? share of the change explained, mixing weight, its spread over blocks
  frame      brightness, contrast, sharpness: fades, flashes, blur and blocks; a line that stands out: the border of a slide or wipe
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from koala_jax.transitions import measures
from koala_jax.transitions.measures import AROUND, LAGS, OTHER
from koala_jax.transitions.thumbnail import SIZE

if TYPE_CHECKING:
    from jaxtyping import Complex64, Float32, UInt8

REACHES = (1, 2, 4, 8, 16, 32)
"""k: the frames t-k+1 and t+k are compared."""
HALO = max(REACHES)
"""Frames on either side of a pair that its features depend on."""
RADII = (1, 4)
"""Pixels of a thumbnail that things may move without counting as `stray`; with the larger one histograms are equalised."""
ALIGNED = (1, 4, 16)
ZOOMS = (4, 8, 16)
BLENDS = (3, 8, 16)
PIECE = 128
"""Pairs whose pictures are compared at once: many, so that a call costs little beside its work, and few, so that this stays in the caches."""

_SIMILARITIES = ("colour", "structure", "structure low", "structure median", "structure high") + tuple(
    f"stray {r} {part}" for r in RADII for part in ("mean", "median", "high")
)
_FRAMES = ("brightness", "contrast", "saturation", "sharp x", "seam x", "at x", "sharp y", "seam y", "at y")
NAMES = (
    tuple(f"{name} @{2 * k - 1}" for k in REACHES for name in _SIMILARITIES)
    + tuple(f"burst {r} {part}" for r in (*RADII, 0) for part in ("mean", "high", "top"))
    + ("leap mean", "leap median")
    + tuple(f"aligned {part} @{2 * k - 1}" for k in ALIGNED for part in ("peak", "shift"))
    + tuple(f"zoom {part} @{2 * k - 1}" for k in ZOOMS for part in ("none", "gain"))
    + tuple(f"changed {part} {least}" for least in OTHER for part in ("share", "rows", "columns", "filled"))
    + ("changed one way", *(f"changed {part} {lag}" for lag in LAGS for part in ("after", "before")))
    + tuple(f"blend {part} @{2 * k}" for k in BLENDS for part in ("explained", "weight", "spread", "change"))
    + tuple(f"frame {name}" for name in _FRAMES)
    + tuple(f"frame {name} step" for name in _FRAMES)
)
"""One name a feature, in the order of `features`; @d is the distance in frames."""


class Frames(NamedTuple):
    """What the comparisons need of each frame."""

    colour: Float32[np.ndarray, "T 192"]
    structure: tuple[np.ndarray, ...]
    """`measures.moments` at 32 × 32"""
    ranges: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    """for each of RADII the luma, as it is and equalised, and the lowest and the highest around a pixel"""
    middles: Float32[np.ndarray, "T 5 256"]
    phases: Complex64[np.ndarray, "T 32 17"]
    tiny: Float32[np.ndarray, "T 64 24"]
    states: Float32[np.ndarray, "T 9"]


def features(thumbs: UInt8[np.ndarray, "T 96 64"], first: int = 0, stop: int | None = None) -> Float32[np.ndarray, "P F"]:
    """Features of the pairs (t, t+1) for first ≤ t < stop (by default all T-1); frames beyond an end are copies of the end frame."""
    stop = len(thumbs) - 1 if stop is None else stop
    low, high = max(first - HALO, 0), min(stop + HALO, len(thumbs))
    frames = _frames(thumbs[low:high], low - (first - HALO), stop + HALO - high)
    pieces = [(HALO + i, min(PIECE, stop - first - i)) for i in range(0, stop - first, PIECE)]
    # one kind after the other: what it looks at stays in the processor's cache from piece to piece
    alike, away, rest = (np.concatenate([kind(frames, t, n) for t, n in pieces]) for kind in (_alike, _away, _rest))
    away, bursts = away[:, : len(REACHES)], away[:, len(REACHES) :]
    return np.concatenate([x.reshape(stop - first, -1) for x in (np.concatenate([alike, away], 2), bursts, rest)], 1)


def _frames(thumbs: UInt8[np.ndarray, "T 96 64"], before: int, after: int) -> Frames:
    """Of these frames, and of so many copies of the first and of the last."""

    def few(measure, x: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """measure(x), few frames at once: what it makes on the way stays in the processor's cache."""
        return _joined([measure(x[i : i + PIECE]) for i in range(0, len(x), PIECE)], before, after)

    luma = np.ascontiguousarray(thumbs[:, :SIZE])
    pictures, small = (luma, measures.equalised(luma)), measures.half(luma)
    return Frames(
        few(measures.histograms, thumbs), few(measures.moments, small),
        [few(lambda x: (x, *measures.around(x, r)), picture) for picture, r in zip(pictures, RADII)],  # noqa: B023
        few(measures.middles, luma), few(measures.phases, small), few(measures.tiny, thumbs), few(measures.states, thumbs),
    )  # fmt: skip


def _joined(parts: list, before: int, after: int) -> np.ndarray | tuple[np.ndarray, ...]:
    """Arrays, or tuples of arrays, one behind the other."""
    if isinstance(parts[0], tuple):
        return tuple(_joined(part, before, after) for part in zip(*parts))
    return np.concatenate([np.repeat(parts[0][:1], before, 0), *parts, np.repeat(parts[-1][-1:], after, 0)])


def _spans(t: int, n: int, k: int) -> tuple[slice, slice]:
    """The first and the second frames that are compared for the pairs t … t+n-1 at reach k."""
    return slice(t + 1 - k, t + 1 - k + n), slice(t + k, t + k + n)


def _alike(frames: Frames, t: int, n: int) -> Float32[np.ndarray, "n k 5"]:
    """By reach, colour and structure."""
    rows = []
    for k in REACHES:
        one, other = _spans(t, n, k)
        colour = np.einsum("tc,tc->t", frames.colour[one], frames.colour[other])
        rows.append([colour, *measures.ssim(*([x[at] for x in frames.structure] for at in (one, other)))])
    return np.array(rows).transpose(2, 0, 1)


def _away(frames: Frames, t: int, n: int) -> Float32[np.ndarray, "n k+1 6"]:
    """`measures.stray` at all reaches, then `measures.burst`."""
    around = _strays(frames, t - AROUND, 1, n + 2 * AROUND)
    away = [[x[AROUND:-AROUND] for x in around], *(_strays(frames, t, k, n) for k in REACHES[1:])]
    bursts = np.array([part for x in around for part in measures.burst(x)])
    return np.concatenate([measures.spread(np.array(away)), bursts[None]]).transpose(2, 0, 1)


def _rest(frames: Frames, t: int, n: int) -> Float32[np.ndarray, "n F"]:
    """What is plainly different, how frames are aligned and mixed, and in which state."""
    luma, now = frames.ranges[0][0], slice(t, t + n)
    apart = measures.apart(*(luma[at] for at in _spans(t - AROUND, n + 2 * AROUND, 1)))
    columns = [*measures.burst(apart), *measures.leap(apart)]
    for k in ALIGNED:
        columns += measures.aligned(*(frames.phases[at] for at in _spans(t, n, k)))
    for k in ZOOMS:
        columns += measures.zoom(*(frames.middles[at] for at in _spans(t, n, k)))
    columns += measures.changed(luma[t - LAGS[1] : t + n + 1 + LAGS[1]])
    for k in BLENDS:
        before, after = _spans(t, n, k)
        columns += measures.blend(*(frames.tiny[at] for at in (before, now, after)))
    states = frames.states[now]
    columns += [*states.T, *(frames.states[t + 1 : t + 1 + n] - states).T]
    return np.stack(columns, 1).astype(np.float32)


def _strays(frames: Frames, t: int, k: int, n: int) -> list[UInt8[np.ndarray, "n 64"]]:
    """`measures.stray` of the pairs t … t+n-1 at reach k, for each of RADII."""
    return [measures.stray(*(x[at] for at in _spans(t, n, k) for x in span)) for span in frames.ranges]
