"""How things move: dense optical flow (Farnebäck 2003) between consecutive frames, at most 16 pairs spread over the clip.

    camera flow a   the similarity (shift, turn, zoom) that fits the flow u best, by RANSAC over a lattice of points
    subject flow    u − a
    unsteadiness    mean |u′ − u| / mean (|u′| + |u|) of a flow u and the next one u′: 0 for motion that goes on, 1 where it starts or stops
    warp error      mean |I_{t+1}(x + u(x)) − I_t(x)| of luma: what of the change no motion explains (Lai et al. 2018, without their mask)

Pixels are those of the small frame (longer side 256), frames the video's own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import cv2
import numpy as np

from koala_jax.metrics.frame import Frame, spread

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

PAIRS = 16
WINDOW = 15
"""pixels over which the flow is taken to be one"""
MOVING = 0.5
"""pixels a frame from which on a pixel moves against the camera"""
STANDING = 1e-3
"""pixels a frame that are no motion"""


class Motion:
    """The columns below, each the mean over the pairs."""

    columns = ("motion", "moving_area", "camera_motion", "subject_motion", "shake", "unsteadiness", "warp_error")
    """motion: mean |u|, pixels a frame. moving_area: share of pixels with |u − a| above 0.5. camera_motion: mean |a|.
    subject_motion: mean |u − a| of the moving pixels, 0 without any. shake: mean change of a from a frame to the next where both are
    known, pixels a frame². unsteadiness: 0 to 1. warp_error: levels of 0 to 255."""

    def __init__(self, frames: int):
        self.wanted = spread(max(frames - 1, 1), PAIRS // 2)  # frame n starts two pairs, (n, n+1) and (n+1, n+2): shake needs both
        self.previous: Frame | None = None
        self.pairs: dict[int, tuple[float, ...]] = {}
        self.shifts: dict[int, np.ndarray] = {}
        self.flow: np.ndarray | None = None
        self.unsteady: list[float] = []

    def add(self, frame: Frame) -> None:
        first = frame.number - 1
        if self.previous is not None and (first in self.wanted or first - 1 in self.wanted):
            self._measure(first, self.previous, frame)
        else:
            self.flow = None
        self.previous = frame

    def _measure(self, number: int, before: Frame, after: Frame) -> None:
        flow = optical_flow(before.grey, after.grey)
        camera = camera_flow(flow)
        speed, apart = _length(flow), _length(flow - camera)
        moving = apart > MOVING
        subject = float(apart[moving].mean()) if moving.any() else 0.0
        warped = cv2.remap(after.grey, _lattice(*flow.shape[:2]) + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        error = cv2.norm(warped, before.grey, cv2.NORM_L1) / before.grey.size
        camera_speed = float(_length(camera).mean())
        self.pairs[number] = float(speed.mean()), float(moving.mean()), camera_speed, subject, error
        if self.flow is not None:
            change, last = _length(flow - self.flow).mean(), _length(self.flow).mean()
            self.unsteady.append(float(change / (speed.mean() + last + STANDING)))
        self.flow = flow
        self.shifts[number] = camera.mean((0, 1))

    def result(self) -> dict[str, float]:
        means = np.mean(list(self.pairs.values()), 0) if self.pairs else np.full(5, np.nan)
        changes = [np.hypot(*(self.shifts[n + 1] - shift)) for n, shift in self.shifts.items() if n + 1 in self.shifts]
        *means, error = means.tolist()
        last = [float(np.mean(values)) if values else np.nan for values in (changes, self.unsteady)]
        return dict(zip(self.columns, (*means, *last, error)))


def optical_flow(before: UInt8[np.ndarray, "h w"], after: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w 2"]:
    """(columns, rows) by which each pixel of `before` has moved in `after`."""
    return cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, WINDOW, 3, 5, 1.2, 0)


def camera_flow(flow: Float32[np.ndarray, "h w 2"]) -> Float32[np.ndarray, "h w 2"]:
    """The similarity that most of the flow follows."""
    h, w, _ = flow.shape
    here = _lattice(h, w)
    step = max(min(h, w) // 12, 1)
    lattice = here[::step, ::step].reshape(-1, 2)
    moved, matrix = lattice + flow[::step, ::step].reshape(-1, 2), None
    if len(lattice) > 1:
        cv2.setRNGSeed(0)
        matrix, _ = cv2.estimateAffinePartial2D(lattice, moved, method=cv2.RANSAC, ransacReprojThreshold=0.5)
    if matrix is None:  # too few points, or none that agree
        return np.broadcast_to(np.median(flow, (0, 1)), flow.shape)
    return cv2.transform(here, matrix - np.eye(2, 3))


def _length(flow: Float32[np.ndarray, "h w 2"]) -> Float32[np.ndarray, "h w"]:
    return cv2.magnitude(*cv2.split(flow))


@functools.lru_cache(8)
def _lattice(h: int, w: int) -> Float32[np.ndarray, "h w 2"]:
    """(column, row) of every pixel."""
    rows, columns = np.meshgrid(np.arange(h, dtype=np.float32), np.arange(w, dtype=np.float32), indexing="ij")
    return np.stack([columns, rows], -1)
