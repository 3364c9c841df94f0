"""How a video moves and looks, frame against frame: VBench's formulas that need no embedding.

Frames x_1 … x_N in levels of 0 to 255, |·| the mean over pixels and channels of the absolute value:

    temporal flickering = 1 − mean_i |x_{i+1} − x_i| / 255                                                                         (1)
    motion smoothness   = 1 − mean over even i of |x̂_i − x_i| / 255,   x̂_i made of x_{i−1} and x_{i+1}                              (2)
    dynamic degree      = [#{pairs with s > 6·min(H, W)/256} ≥ max(1, round(4·N/16))]                                              (3)
                          of the N frames taken at about 8 a second; s: mean of the largest 5 % of the flow's magnitudes

Source: VBench (Huang et al. 2023, arXiv 2311.17982; github.com/Vchitect/VBench). What differs from it:
- the optical flow is the one of koala_jax/metrics/motion.py, Farnebäck's on frames whose longer side is at most 256, where VBench runs
  RAFT at full size; (3) does not depend on the size. It is worked out in each colour, u = Σ_c g_c² u_c / Σ_c g_c² with g_c the
  energy of the gradient around the pixel, since a thing may differ from what is behind it in colour alone;
- x̂ warps both neighbours half way along that flow, where VBench's comes from a network (AMT-S), which is better at it: ours is lower;
- (1) is of whatever videos are given, where VBench keeps still ones for it;
- where round(4·N/16) is 0, VBench calls any pair dynamic; here one pair must move;
- VBench's imaging quality is a network's (MUSIQ) and is not here; `clarity` is koala_jax's own and belongs to no total.

These run in decoding workers: they import numpy and OpenCV, not jax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from core_jax.words import counted
from koala_jax.metrics.clarity import Clarity
from koala_jax.metrics.frame import Frame, small_size
from koala_jax.metrics.motion import WINDOW, optical_flow

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

FPS, TOP, SPEED, SHARE = 8, 0.05, 6 / 256, 4 / 16
"""of (3): frames a second, the fastest pixels, pixels a pair over the shorter side, the least share of pairs"""


def temporal_flickering(video: UInt8[np.ndarray, "T H W 3"]) -> float:
    """Equation 1. Raises ValueError: fewer than two frames."""
    _at_least(2, video)
    return 1 - float(np.mean([_difference(a, b) for a, b in zip(video, video[1:])])) / 255


def motion_smoothness(video: UInt8[np.ndarray, "T H W 3"]) -> float:
    """Equation 2. Raises ValueError: fewer than three frames."""
    _at_least(3, video)
    small = _small(video[::2])
    made = (_between(a, b, *pair) for a, b, pair in zip(video[::2], video[2::2], zip(small, small[1:])))
    return 1 - float(np.mean([_difference(x_hat, x) for x_hat, x in zip(made, video[1::2])])) / 255


def dynamic_degree(video: UInt8[np.ndarray, "T H W 3"], fps: float) -> bool:
    """Equation 3: whether it moves. Raises ValueError: fewer than two frames."""
    _at_least(2, video)
    small = _small(video[:: max(1, round(fps / FPS))])
    fast = [_speed(flow(a, b)) > SPEED * min(a.shape[:2]) for a, b in zip(small, small[1:])]
    return sum(fast) >= max(1, round(SHARE * len(small)))


def clarity(video: UInt8[np.ndarray, "T H W 3"]) -> float:
    """koala_jax's `clarity`, 0 to 1."""
    metric = Clarity(len(video))
    for number, rgb in enumerate(video):
        metric.add(Frame(number, rgb, lambda rgb=rgb: rgb))
    return metric.result()["clarity"]


def flow(before: UInt8[np.ndarray, "h w 3"], after: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 2"]:
    """u: (columns, rows) by which each pixel of `before` has moved in `after`."""
    moved, weights = np.float32(0), np.float32(1e-6)  # a flat picture has no flow
    for x, y in zip(cv2.split(before), cv2.split(after)):
        energy = cv2.boxFilter(cv2.Sobel(x, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(x, cv2.CV_32F, 0, 1) ** 2, -1, (WINDOW, WINDOW))[..., None]
        moved, weights = moved + energy**2 * optical_flow(x, y), weights + energy**2
    return moved / weights


def _between(a: np.ndarray, b: np.ndarray, small_a: np.ndarray, small_b: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    """The frame half way: with the flows u of a → b and v of b → a it shows at p what a has at p − (u − v)/4 and b at p + (u − v)/4."""
    h, w, _ = a.shape
    scale = np.array([w / small_a.shape[1], h / small_a.shape[0]], np.float32)
    shift = cv2.resize((flow(small_a, small_b) - flow(small_b, small_a)) * scale / 4, (w, h), interpolation=cv2.INTER_LINEAR)
    here = np.stack(np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)), -1)
    from_a, from_b = (cv2.remap(x, at, None, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE) for x, at in ((a, here - shift), (b, here + shift)))
    return cv2.addWeighted(from_a, 0.5, from_b, 0.5, 0)


def _speed(flow: Float32[np.ndarray, "h w 2"]) -> float:
    """s of (3)."""
    magnitude = np.hypot(flow[..., 0], flow[..., 1]).ravel()
    most = max(1, int(TOP * magnitude.size))
    return float(np.partition(magnitude, -most)[-most:].mean())


def _small(video: UInt8[np.ndarray, "T H W 3"]) -> list[UInt8[np.ndarray, "h w 3"]]:
    h, w = small_size(*video.shape[1:3])
    return [cv2.resize(x, (w, h), interpolation=cv2.INTER_AREA) for x in video]


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(cv2.norm(a, b, cv2.NORM_L1)) / a.size


def _at_least(frames: int, video: np.ndarray) -> None:
    if len(video) < frames:
        raise ValueError(f"a video of {counted(len(video), 'frame')} cannot be judged: at least {frames} are needed")
