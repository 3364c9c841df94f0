"""Color-Struct SVM: how alike two frames are in colour and in structure (Koala-36M, arXiv 2410.08260, section 4.1, eq. 1–4).

    (1) H = counts of the values 1 to 254 of B, G and R in the frame at 256 × 256
    (2) bgr = Pearson's correlation of two H, each one row of 762 numbers
    (3) E = max(G, Canny(G)), G the grey of that frame at 128 × 128
    (4) canny = SSIM of two E, uniform windows of 7 × 7
    (5) svm = 4.61480465 bgr + 3.75211168 canny − 5.485968377115124, below 0 for two shots

The details that the paper leaves open are the released analyzer's, whose scores these are. A window's sums S of E, S² and
products are whole numbers, so (4) needs no floating point before its last line:

    (6) SSIM = (2 P + c₁)(2 Q + c₂) / ((S_a² + S_b² + c₁)(V_a + V_b + c₂)),  P = S_a S_b,  Q = 49 S_ab − P,  V = 49 S_aa − S_a²
        c₁ = 49² (0.01 · 255)²,  c₂ = 49 · 48 (0.03 · 255)²

`css_device` is the same on batches, for an accelerator.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, UInt8, UInt16

cv2.setNumThreads(1)  # the processes that decode are as many as there are cores

SIZE, EDGE_SIZE = 256, 128
CANNY = 100, 200
WINDOW = 7
N = WINDOW**2
C1, C2 = N**2 * (0.01 * 255) ** 2, N * (N - 1) * (0.03 * 255) ** 2
SVM_BGR, SVM_CANNY, SVM_BIAS = 4.61480465, 3.75211168, -5.485968377115124

INSIDE = (slice(WINDOW // 2, -(WINDOW // 2)),) * 2
"""the windows that lie wholly in the picture"""


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """What a frame's scores need of it."""

    histogram: Float32[np.ndarray, "3 254"]
    edges: UInt16[np.ndarray, "128 128"]
    sums: Int32[np.ndarray, "122 122"]
    squares: Int32[np.ndarray, "122 122"]
    """S²"""
    variances: Int32[np.ndarray, "122 122"]
    """V of (6)"""


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """Of a pair: (2), (4) and (5)."""

    bgr: float
    canny: float
    svm: float


def shrink(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "256 256 3"]:
    """The frame at 256 × 256, whatever its aspect."""
    return cv2.resize(frame, (SIZE, SIZE))


def features(small: UInt8[np.ndarray, "256 256 3"]) -> Features:
    """(1) and (3) of a BGR frame that `shrink` made."""
    histogram = np.stack([cv2.calcHist([small], [c], None, [254], [1, 255]).ravel() for c in range(3)])
    grey = cv2.resize(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), (EDGE_SIZE, EDGE_SIZE))
    edges = np.maximum(grey, cv2.Canny(grey, *CANNY))
    sums = _windows(edges)
    squares = sums * sums
    variances = np.ascontiguousarray(cv2.sqrBoxFilter(edges, cv2.CV_32S, (WINDOW, WINDOW), normalize=False)[INSIDE])
    variances *= N
    variances -= squares
    return Features(histogram, edges.astype(np.uint16), sums, squares, variances)


def score(a: Features, b: Features) -> Score:
    """The scores of two frames."""
    bgr = cv2.compareHist(a.histogram, b.histogram, cv2.HISTCMP_CORREL)
    canny = ssim(a, b)
    return Score(bgr, canny, svm(bgr, canny))


def ssim(a: Features, b: Features) -> float:
    """(4) by (6)."""
    p = a.sums * b.sums
    q = _windows(a.edges * b.edges)
    q *= N
    q -= p
    p *= 2
    q *= 2
    above = p + C1
    above *= q + C2
    below = a.squares + b.squares + C1
    below *= a.variances + b.variances + C2
    above /= below
    return float(above.mean())


def svm(bgr, canny):
    """(5)"""
    return SVM_BGR * bgr + SVM_CANNY * canny + SVM_BIAS


def _windows(image: np.ndarray) -> Int32[np.ndarray, "122 122"]:
    """Sums over the windows, whole numbers."""
    return np.ascontiguousarray(cv2.boxFilter(image, cv2.CV_32S, (WINDOW, WINDOW), normalize=False)[INSIDE])
