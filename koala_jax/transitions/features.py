"""What the learned detector sees of a video: how alike two frames are, at several distances, on thumbnails of 64 × 64 pixels.

A transition lies between the frames t and t+1, or around them. Around every such pair the frames t-k+1 and t+k (k = 1, 2, 4 … 32,
so 1, 3, 7 … 63 frames apart) are compared: a flash, an occlusion or a whip comes back, and far frames are alike again; a transition does
not. Two measures are Koala-36M's (arXiv:2410.08260, eq. 2 and 4), the others answer what those two cannot:

  colour     correlation of colour histograms                        (indifferent to motion)
  structure  SSIM of max(grey, edges), mean and worst blocks           (wipes and shapes change some blocks before others)
  stray      how far a pixel leaves the range that the other frame has around it: motion up to the radius costs nothing; with the larger
             radius both are put in one light before, so that a change of exposure costs nothing either
  burst      the same between neighbours, less the most that blocks around had in the two pairs before and after: motion goes on, a jump does not
  aligned    peak of the phase correlation, and where it lies: the same picture after a translation (handheld, pans, slides)
  blend      is frame t a mixture of t-k and t+k? share of the change explained, mixing weight, its spread over blocks
  frame      brightness, contrast, sharpness: fades, flashes, blur and blocks; a line that stands out: the border of a slide or wipe
"""
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Complex64, Float32, UInt8

from koala_jax.transitions.thumbnail import SIZE

cv2.setNumThreads(1)  # the processes that decode are as many as there are cores

BLOCK = 8
REACHES = (1, 2, 4, 8, 16, 32)
"""k: the frames t-k+1 and t+k are compared."""
HALO = max(REACHES)
"""Frames on either side of a pair that its features depend on."""
RADII = (1, 4)
"""Pixels of a thumbnail that things may move without counting as `stray`; with the larger one brightness and contrast are levelled."""
ALIGNED = (1, 4, 16)
BLENDS = (3, 8, 16)
AROUND = 2
"""Pairs before and after that say what motion a block has."""
BINS = 64
WINDOW = 7
C1, C2, SAMPLE = (0.01 * 255) ** 2, (0.03 * 255) ** 2, WINDOW**2 / (WINDOW**2 - 1)
NEAR = 2
"""Up to this reach the structure is compared at 64 × 64, beyond it at 32 × 32: there more has moved than details could tell."""
PIECE = 32
"""Pairs whose pictures are compared at once."""

_SIMILARITIES = ("colour", "structure", "structure low", "structure median", "structure high") + tuple(
    f"stray {r} {part}" for r in RADII for part in ("mean", "median", "high")
)
_FRAMES = ("brightness", "contrast", "saturation", "sharp x", "seam x", "at x", "sharp y", "seam y", "at y")
NAMES = (
    tuple(f"{name} @{2 * k - 1}" for k in REACHES for name in _SIMILARITIES)
    + tuple(f"burst {r} {part}" for r in RADII for part in ("mean", "high", "top"))
    + tuple(f"aligned {part} @{2 * k - 1}" for k in ALIGNED for part in ("peak", "shift"))
    + tuple(f"blend {part} @{2 * k}" for k in BLENDS for part in ("explained", "weight", "spread", "change"))
    + tuple(f"frame {name}" for name in _FRAMES)
    + tuple(f"frame {name} step" for name in _FRAMES)
)
"""One name a feature, in the order of `features`; @d is the distance in frames."""


class Frames(NamedTuple):
    """What the comparisons need of each frame."""

    colour: Float32[np.ndarray, "T 192"]
    edges: UInt8[np.ndarray, "T 64 64"]
    """the larger of grey and Canny edges"""
    coarse: tuple[np.ndarray, ...]
    """`_moments` of the same at 32 × 32"""
    ranges: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    """for each of RADII the luma, as it is and levelled, and the lowest and the highest around a pixel"""
    phases: Complex64[np.ndarray, "T 32 17"]
    tiny: Float32[np.ndarray, "T 64 24"]
    states: Float32[np.ndarray, "T 9"]


def features(thumbs: UInt8[np.ndarray, "T 96 64"], first: int = 0, stop: int | None = None) -> Float32[np.ndarray, "P F"]:
    """Features of the pairs (t, t+1) for first ≤ t < stop (by default all T-1); frames beyond an end are copies of the end frame."""
    stop = len(thumbs) - 1 if stop is None else stop
    low = max(first - HALO, 0)
    frames = _frames(thumbs[low : stop + HALO + 1])
    return np.concatenate([_pairs(frames, t - low, min(PIECE, stop - t)) for t in range(first, stop, PIECE)])


def _frames(thumbs: UInt8[np.ndarray, "T 96 64"]) -> Frames:
    luma = np.ascontiguousarray(thumbs[:, :SIZE])
    edges = np.stack([np.maximum(image, cv2.Canny(image, 100, 200)) for image in luma])  # Koala-36M eq. 3
    pictures = luma, _few(_levelled, luma)
    ranges = [(x, _around(cv2.erode, x, r, 255), _around(cv2.dilate, x, r, 0)) for x, r in zip(pictures, RADII)]
    coarse = _moments(_half(edges))
    return Frames(_histograms(thumbs), edges, coarse, ranges, _few(_phases, luma), _few(_tiny, thumbs), _few(_states, thumbs))


def _few(function, x: np.ndarray) -> np.ndarray:
    """function(x), few frames at once: what it makes on the way stays in the processor's cache."""
    return np.concatenate([function(x[i : i + PIECE]) for i in range(0, len(x), PIECE)])


def _pairs(frames: Frames, t: int, n: int) -> Float32[np.ndarray, "n F"]:
    """Features of the pairs t … t+n-1: so few that their pictures stay in the processor's cache."""
    fine = _moments(_rows(frames.edges, slice(t + 1 - NEAR, t + NEAR + n)))
    alike, away = [], []
    around = _strays(frames, t - AROUND, 1, n + 2 * AROUND)
    for k in REACHES:
        i, j = slice(t + 1 - k, t + 1 - k + n), slice(t + k, t + k + n)
        colour = np.einsum("tc,tc->t", _rows(frames.colour, i), _rows(frames.colour, j))
        if k <= NEAR:
            pictures = [[x[at : at + n] for x in fine] for at in (NEAR - k, NEAR + k - 1)]
        else:
            pictures = [[_rows(x, at) for x in frames.coarse] for at in (i, j)]
        alike.append([colour, *_ssim(*pictures)])
        away.append(_strays(frames, t, k, n) if k > 1 else [x[AROUND:-AROUND] for x in around])
    similarities = np.concatenate([np.array(alike), _spread(np.array(away))], 1).reshape(-1, n)
    columns = [*similarities, *(part for x in around for part in _burst(x))]
    for k in ALIGNED:
        columns += _aligned(_rows(frames.phases, slice(t + 1 - k, t + 1 - k + n)), _rows(frames.phases, slice(t + k, t + k + n)))
    now = slice(t, t + n)
    for k in BLENDS:
        columns += _blend(*(_rows(frames.tiny, at) for at in (slice(t + 1 - k, t + 1 - k + n), now, slice(t + k, t + k + n))))
    states = _rows(frames.states, now)
    columns += [*states.T, *(_rows(frames.states, slice(t + 1, t + 1 + n)) - states).T]
    return np.stack(columns, 1).astype(np.float32)


def _strays(frames: Frames, t: int, k: int, n: int) -> list[UInt8[np.ndarray, "n 64"]]:
    """`_stray` of the pairs t … t+n-1 at reach k, for each of RADII."""
    i, j = slice(t + 1 - k, t + 1 - k + n), slice(t + k, t + k + n)
    return [_stray(*(_rows(x, at) for at in (i, j) for x in span)) for span in frames.ranges]


def _burst(away: UInt8[np.ndarray, "n+4 64"]) -> list[np.ndarray]:
    """What blocks leave beyond the most of 3 × 3 blocks in the pairs around: mean, 90th percentile and fourth-highest, as logarithms."""
    side = SIZE // BLOCK
    padded = np.zeros((len(away), side + 2, side), np.uint8)
    padded[:, 1:-1] = away.reshape(-1, side, side)
    wide = cv2.dilate(_tall(padded), np.ones((3, 3), np.uint8)).reshape(padded.shape)[:, 1:-1].reshape(away.shape)
    n = len(away) - 2 * AROUND
    usual = np.maximum.reduce([wide[AROUND + d : AROUND + d + n] for d in range(-AROUND, AROUND + 1) if d])
    beyond = np.sort(cv2.subtract(away[AROUND:-AROUND], usual), 1).astype(np.float32)
    return [np.log1p(x) for x in (beyond.mean(1), beyond[:, 57], beyond[:, 60])]


def _rows(x: np.ndarray, at: slice) -> np.ndarray:
    """x[at], where what lies beyond an end is the end; without a copy where nothing does."""
    if at.start >= 0 and at.stop <= len(x):
        return x[at]
    return x[np.clip(np.arange(at.start, at.stop), 0, len(x) - 1)]


def _tall(x: np.ndarray) -> np.ndarray:
    """[T, h, w] as one image, on which OpenCV runs once for all frames."""
    return x.reshape(-1, x.shape[-1])


def _levelled(luma: UInt8[np.ndarray, "T 64 64"]) -> UInt8[np.ndarray, "T 64 64"]:
    """In one light: every picture with mean 128 and, unless it is almost plain, one contrast."""
    light = luma.astype(np.float32)
    light -= light.mean((1, 2), keepdims=True)
    light *= 50 / (np.sqrt(np.einsum("thw,thw->t", light, light)) / SIZE + 8)[:, None, None]
    light += 128.5
    return np.clip(light, 0, 255, out=light).astype(np.uint8)


def _half(x: np.ndarray) -> np.ndarray:
    """[T, h, w] at half the size."""
    T, h, w = x.shape
    return cv2.resize(_tall(x), (w // 2, T * h // 2), interpolation=cv2.INTER_AREA).reshape(T, h // 2, w // 2)


def _around(extreme, luma: UInt8[np.ndarray, "T 64 64"], r: int, neutral: int) -> UInt8[np.ndarray, "T 64 64"]:
    """The lowest (cv2.erode) or highest (cv2.dilate) value within r pixels; neutral rows keep the pictures of the tall image apart."""
    apart = np.full((len(luma), SIZE + r, SIZE), neutral, np.uint8)
    apart[:, :SIZE] = luma
    return np.ascontiguousarray(extreme(_tall(apart), np.ones((2 * r + 1, 2 * r + 1), np.uint8)).reshape(apart.shape)[:, :SIZE])


def _mean(x: np.ndarray) -> Float32[np.ndarray, "T h w"]:
    """Means over windows of 7 × 7; of those that leave the picture nothing is used."""
    return cv2.boxFilter(_tall(x), cv2.CV_32F, (WINDOW, WINDOW)).reshape(x.shape)


def _moments(x: UInt8[np.ndarray, "T h w"]) -> tuple[np.ndarray, ...]:
    """The pictures S as 16 bits, which hold a product of two, and what SSIM needs of each: μ, μ² + c₁/2, σ² + c₂/2."""
    mean, square = _mean(x), cv2.sqrBoxFilter(_tall(x), cv2.CV_32F, (WINDOW, WINDOW)).reshape(x.shape)
    power = mean * mean
    variance = square
    variance -= power
    variance *= SAMPLE
    variance += C2 / 2
    power += C1 / 2
    return x.astype(np.uint16), mean, power, variance


def _ssim(a, b) -> list[np.ndarray]:
    """SSIM with sample covariance, as in scikit-image: its mean over the picture, then quantiles over blocks.

    (2 μ_a μ_b + c₁)(2 σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂)), σ_ab = 49/48 (mean of S_a S_b - μ_a μ_b)
    """
    (x, mean_a, power_a, variance_a), (y, mean_b, power_b, variance_b) = a, b
    means = cv2.multiply(_tall(mean_a), _tall(mean_b), scale=2)
    ssim = cv2.addWeighted(_tall(_mean(x * y)), 2 * SAMPLE, means, -SAMPLE, C2)
    means += C1
    ssim *= means
    below = power_a + power_b
    below *= variance_a + variance_b
    ssim = ssim.reshape(x.shape)
    ssim /= below
    inner = ssim[:, 4:-4, 4:-4]  # 56 or 24 a side: blocks of 8 or 4
    side = 7 if x.shape[1] == SIZE else 6
    blocks = cv2.resize(_tall(inner), (side, len(inner) * side), interpolation=cv2.INTER_AREA).reshape(len(inner), -1)
    blocks.sort(axis=1)
    return [ssim[:, 3:-3, 3:-3].mean((1, 2)), *(blocks[:, int(share * side * side)] for share in (0.1, 0.5, 0.9))]


def _stray(a, low_a, high_a, b, low_b, high_b) -> UInt8[np.ndarray, "n 64"]:
    """How far each of two frames leaves the range around the same place in the other, together: means over blocks."""
    away = cv2.subtract(_tall(b), _tall(high_a))
    for above, below in ((low_a, b), (a, high_b), (low_b, a)):
        away = cv2.add(away, cv2.subtract(_tall(above), _tall(below)))
    side = SIZE // BLOCK
    return cv2.resize(away, (side, len(a) * side), interpolation=cv2.INTER_AREA).reshape(len(a), -1)


def _spread(blocks: UInt8[np.ndarray, "k r n 64"]) -> Float32[np.ndarray, "k 3r n"]:
    """Mean, median and 90th percentile over blocks, as logarithms."""
    blocks = np.sort(blocks.astype(np.float32), axis=-1)
    parts = np.log1p(np.stack([blocks.mean(-1), blocks[..., 32], blocks[..., 57]], 2))
    return parts.reshape(len(blocks), -1, blocks.shape[2])


def _phases(luma: UInt8[np.ndarray, "T 64 64"]) -> Complex64[np.ndarray, "T 32 17"]:
    """Spectra of unit magnitude of the windowed thumbnails at 32 × 32."""
    small = _half(luma).astype(np.float32)
    window = np.hanning(SIZE // 2 + 2)[1:-1].astype(np.float32)
    small -= small.mean((1, 2), keepdims=True)
    spectrum = np.fft.rfft2(small * (window[:, None] * window))
    spectrum *= 1 / (np.abs(spectrum) + 10)
    return spectrum


def _aligned(a, b) -> list[np.ndarray]:
    """Height of the phase correlation's peak, and its distance from the centre in widths of the picture."""
    n = a.shape[1]
    surface = np.fft.irfft2(a * b.conj(), s=(n, n)).reshape(len(a), -1)
    best = surface.argmax(1)
    dy, dx = np.minimum(best // n, n - best // n), np.minimum(best % n, n - best % n)
    return [surface[np.arange(len(a)), best], np.hypot(dy, dx) / n]


def _histograms(thumbs: UInt8[np.ndarray, "T 96 64"]) -> Float32[np.ndarray, "T 192"]:
    """Histograms of the three planes, of mean 0 and length 1: their inner product is Pearson's correlation."""
    plane = np.zeros(thumbs.shape[1:], np.uint8)
    plane[SIZE:, : SIZE // 2], plane[SIZE:, SIZE // 2 :] = BINS, 2 * BINS
    bins = thumbs // (256 // BINS) + plane
    counts = np.stack([cv2.calcHist([image], [0], None, [3 * BINS], [0, 3 * BINS]).ravel() for image in bins])
    counts[:, BINS:] *= 2  # a chroma plane has a quarter of the pixels
    counts = cv2.blur(counts, (3, 1))  # a slight change of light moves values across the bounds of bins
    counts -= counts.mean(1, keepdims=True)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-6)


def _tiny(thumbs) -> Float32[np.ndarray, "T 64 24"]:
    """4 × 4 luma and two 2 × 2 chroma values of each of 8 × 8 blocks."""
    n = SIZE // 4
    small = _half(thumbs)
    split = lambda x, m: x.reshape(len(x), 8, m, 8, m).transpose(0, 1, 3, 2, 4).reshape(len(x), 64, m * m)  # noqa: E731
    parts = split(small[:, : 2 * n], 4), split(small[:, 2 * n :, :n], 2), split(small[:, 2 * n :, n:], 2)
    return np.concatenate(parts, 2).astype(np.float32)


def _blend(before, now, after) -> list[np.ndarray]:
    """Fits now as before + w (after - before): share of its change explained, w, the spread of w over blocks, the change."""
    change, part = after - before, now - before
    cc, cp = np.einsum("tbc,tbc->tb", change, change), np.einsum("tbc,tbc->tb", change, part)
    pp = np.einsum("tbc,tbc->t", part, part)
    noise = 4.0 * now.shape[2]
    total = cc.sum(1) + 16 * noise
    weight = cp.sum(1) / total
    spread = np.sqrt(np.maximum((cc * (cp / (cc + noise) - weight[:, None]) ** 2).sum(1) / total, 0))
    rest = pp - 2 * weight * cp.sum(1) + weight**2 * cc.sum(1)
    explained = 1 - rest / (pp + 16 * noise)
    return [explained, np.clip(weight, -1, 2), spread, np.log1p(cc.sum(1) / (64 * noise))]


def _states(thumbs: UInt8[np.ndarray, "T 96 64"]) -> Float32[np.ndarray, "T 9"]:
    """Brightness, contrast and saturation of each frame; along x and y its sharpness (log) and how far one line's edges stand out."""
    luma, chroma = thumbs[:, :SIZE], thumbs[:, SIZE:]
    away = lambda a, b: (np.maximum(a, b) - np.minimum(a, b)).astype(np.float32)  # noqa: E731
    light = luma.astype(np.float32)
    mean = light.mean((1, 2))
    light -= mean[:, None, None]
    contrast = np.sqrt(np.einsum("thw,thw->t", light, light)) / SIZE
    columns = [mean / 255, contrast / 255, away(chroma, np.uint8(128)).mean((1, 2)) / 255]
    for steps in (away(luma[:, :, 1:], luma[:, :, :-1]).mean(1), away(luma[:, 1:], luma[:, :-1]).mean(2)):  # [T, 63]: a value a line
        sharp = steps.mean(1)
        columns += [np.log(0.25 + sharp) / 4, np.log((1 + steps.max(1)) / (1 + sharp)), steps.argmax(1) / steps.shape[1]]
    return np.stack(columns, 1)
