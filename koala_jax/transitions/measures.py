"""What the features are made of: measures of a thumbnail and of two of them, for many at once.

The pictures lie above each other in one tall image, on which OpenCV runs once for all of them.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import scipy.fft

from koala_jax.transitions.thumbnail import SIZE

if TYPE_CHECKING:
    from jaxtyping import Complex64, Float32, Shaped, UInt8

cv2.setNumThreads(1)  # the processes that decode are as many as there are cores

BLOCK = 8
AROUND = 2
"""Pairs before and after that say what motion a block has."""
OTHER = (12, 30)
"""Levels by which a pixel must change."""
LAGS = (3, 8)
"""Frames after which a pixel that changed is looked at again."""
MIDDLES = (53, 44, 37, 31)
"""Sides of the middles of a thumbnail: zooms by 1.2, and again by 1.2."""
BINS = 64
WINDOW = 7
C1, C2, SAMPLE = (0.01 * 255) ** 2, (0.03 * 255) ** 2, WINDOW**2 / (WINDOW**2 - 1)


def tall(x: np.ndarray) -> np.ndarray:
    """[T, h, w] as one image."""
    return x.reshape(-1, x.shape[-1])


def half(x: np.ndarray) -> np.ndarray:
    """[T, h, w] at half the size."""
    T, h, w = x.shape
    return cv2.resize(tall(x), (w // 2, T * h // 2), interpolation=cv2.INTER_AREA).reshape(T, h // 2, w // 2)


def totals(x: UInt8[np.ndarray, "n m"]) -> Float32[np.ndarray, " n"]:
    """Sums over each row, exact up to 2²⁴; NumPy's own take several times as long."""
    return cv2.reduce(x, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32F)[:, 0]


def equalised(luma: UInt8[np.ndarray, "T 64 64"]) -> UInt8[np.ndarray, "T 64 64"]:
    """Each picture's levels by their rank: what keeps their order, as more light does, changes nothing."""
    return np.stack([cv2.equalizeHist(image) for image in luma])


def around(luma: UInt8[np.ndarray, "T 64 64"], r: int) -> list[UInt8[np.ndarray, "T 64 64"]]:
    """The lowest and the highest value within r pixels; neutral rows keep the pictures of the tall image apart."""
    found, square = [], np.ones((2 * r + 1, 2 * r + 1), np.uint8)
    for extreme, neutral in ((cv2.erode, 255), (cv2.dilate, 0)):
        apart = np.full((len(luma), SIZE + r, SIZE), neutral, np.uint8)
        apart[:, :SIZE] = luma
        found.append(np.ascontiguousarray(extreme(tall(apart), square).reshape(apart.shape)[:, :SIZE]))
    return found


def moments(x: UInt8[np.ndarray, "T 32 32"]) -> tuple[np.ndarray, ...]:
    """The pictures S as 16 bits, which hold a product of two, and what SSIM needs of each: μ, μ² + c₁/2, σ² + c₂/2."""
    mean, square = windows(x), cv2.sqrBoxFilter(tall(x), cv2.CV_32F, (WINDOW, WINDOW)).reshape(x.shape)
    power = mean * mean
    variance = square
    variance -= power
    variance *= SAMPLE
    variance += C2 / 2
    power += C1 / 2
    return x.astype(np.uint16), mean, power, variance


def windows(x: np.ndarray) -> Float32[np.ndarray, "T 32 32"]:
    """Means over windows of 7 × 7; of those that leave the picture nothing is used."""
    return cv2.boxFilter(tall(x), cv2.CV_32F, (WINDOW, WINDOW)).reshape(x.shape)


def ssim(a, b) -> list[np.ndarray]:
    """SSIM with sample covariance, as in scikit-image: its mean over the picture, then quantiles over blocks.

    (2 μ_a μ_b + c₁)(2 σ_ab + c₂) / ((μ_a² + μ_b² + c₁)(σ_a² + σ_b² + c₂)), σ_ab = 49/48 (mean of S_a S_b - μ_a μ_b)
    """
    (x, mean_a, power_a, variance_a), (y, mean_b, power_b, variance_b) = a, b
    means = cv2.multiply(tall(mean_a), tall(mean_b), scale=2)
    index = cv2.addWeighted(tall(windows(x * y)), 2 * SAMPLE, means, -SAMPLE, C2)
    means += C1
    index *= means
    below = power_a + power_b
    below *= variance_a + variance_b
    index = index.reshape(x.shape)
    index /= below
    side = 6  # blocks of 4 × 4
    blocks = cv2.resize(tall(index[:, 4:-4, 4:-4]), (side, len(index) * side), interpolation=cv2.INTER_AREA).reshape(len(index), -1)
    blocks.sort(axis=1)
    return [index[:, 3:-3, 3:-3].mean((1, 2)), *(blocks[:, int(share * side * side)] for share in (0.1, 0.5, 0.9))]


def stray(a, low_a, high_a, b, low_b, high_b) -> UInt8[np.ndarray, "n 64"]:
    """How far each of two frames leaves the range around the same place in the other, together: means over blocks."""
    away = cv2.subtract(tall(b), tall(high_a))
    for above, below in ((low_a, b), (a, high_b), (low_b, a)):
        away = cv2.add(away, cv2.subtract(tall(above), tall(below)))
    side = SIZE // BLOCK
    return cv2.resize(away, (side, len(a) * side), interpolation=cv2.INTER_AREA).reshape(len(a), -1)


def spread(blocks: UInt8[np.ndarray, "k r n 64"]) -> Float32[np.ndarray, "k 3r n"]:
    """Mean, median and 90th percentile over blocks, as logarithms."""
    blocks = np.sort(blocks.astype(np.float32), axis=-1)
    parts = np.log1p(np.stack([blocks.mean(-1), blocks[..., 32], blocks[..., 57]], 2))
    return parts.reshape(len(blocks), -1, blocks.shape[2])


def apart(a: UInt8[np.ndarray, "n 64 64"], b: UInt8[np.ndarray, "n 64 64"]) -> Float32[np.ndarray, "n 64"]:
    """Differences of two frames: means over blocks."""
    side = SIZE // BLOCK
    away = cv2.absdiff(tall(a), tall(b)).astype(np.float32)
    return cv2.resize(away, (side, len(a) * side), interpolation=cv2.INTER_AREA).reshape(len(a), -1)


def _usual(away: np.ndarray) -> np.ndarray:
    """The most of the AROUND pairs before and after each but the first and last of them."""
    n = len(away) - 2 * AROUND
    return np.maximum.reduce([away[AROUND + d : AROUND + d + n] for d in range(-AROUND, AROUND + 1) if d])


def burst(away: Shaped[np.ndarray, "n+4 64"]) -> list[np.ndarray]:
    """What blocks leave beyond the most of 3 × 3 blocks in the pairs around: mean, 90th percentile and fourth-highest, as logarithms."""
    side = SIZE // BLOCK
    padded = np.zeros((len(away), side + 2, side), away.dtype)
    padded[:, 1:-1] = away.reshape(-1, side, side)
    wide = cv2.dilate(tall(padded), np.ones((3, 3), np.uint8)).reshape(padded.shape)[:, 1:-1].reshape(away.shape)
    beyond = np.sort(np.maximum(away[AROUND:-AROUND], usual := _usual(wide)) - usual, 1).astype(np.float32)
    return [np.log1p(x) for x in (beyond.mean(1), beyond[:, 57], beyond[:, 60])]


def leap(away: Float32[np.ndarray, "n+4 64"]) -> list[np.ndarray]:
    """Mean and median over blocks against the most of those in the pairs around, as logarithms."""
    parts = (away.mean(1), 0.5), (np.partition(away, 32, 1)[:, 32], 0.3)
    return [np.log((x[AROUND:-AROUND] + least) / (_usual(x) + least)) for x, least in parts]


def changed(luma: UInt8[np.ndarray, "n+17 64 64"]) -> list[np.ndarray]:
    """Of the pixels that are others in the frame after each but the first and last LAGS[1]: of those by more than each of OTHER levels the share,
    as a logarithm, the shares of rows and of columns that have many, and the share of those rows' and columns' pixels; whether all became
    lighter or darker (1) or as many the one as the other (0); and how many of them are others again after each of LAGS frames, and were before."""
    most = LAGS[1]
    n = len(luma) - 2 * most - 1
    away = lambda a, b: cv2.absdiff(tall(a), tall(b))  # noqa: E731
    beyond = lambda x, least: cv2.threshold(x, least, 1, cv2.THRESH_BINARY)[1].reshape(-1, SIZE**2)  # noqa: E731
    before, after = luma[most : most + n], luma[most + 1 : most + 1 + n]
    now, found = away(before, after), []
    for mask in (others := [beyond(now, least) for least in OTHER]):
        rows, columns = totals(mask.reshape(-1, SIZE)).reshape(n, SIZE), np.add.reduce(mask.reshape(n, SIZE, SIZE), 1, dtype=np.uint8)
        share, high, wide = totals(mask) / SIZE**2, (rows > 6).mean(1), (columns > 6).mean(1)
        found += [np.log(share + 0.002), high, wide, share / (high * wide + 0.02)]
    ways = (cv2.threshold(cv2.subtract(tall(a), tall(b)), OTHER[0], 0, cv2.THRESH_TOZERO)[1] for a, b in ((after, before), (before, after)))
    up, down = (totals(x.reshape(n, -1)) for x in ways)
    found.append(np.abs(up - down) / (up + down + 200))
    other, share = others[0], np.exp(found[0])
    for lag in LAGS:
        far = beyond(away(luma[lag:], luma[:-lag]), OTHER[0])
        found += [totals(other & far[i : i + n]) / SIZE**2 / share for i in (most + 1, most - lag)]
    return found


def middles(luma: UInt8[np.ndarray, "T 64 64"]) -> Float32[np.ndarray, "T 5 256"]:
    """The picture and ever smaller middles of it, at 16 × 16, of mean 0 and length 1: their inner product is a correlation."""
    views = []
    for side in (SIZE, *MIDDLES):
        edge = (SIZE - side) // 2
        view = np.ascontiguousarray(luma[:, edge : edge + side, edge : edge + side])
        views.append(cv2.resize(tall(view), (16, 16 * len(luma)), interpolation=cv2.INTER_AREA).reshape(len(luma), 256))
    x = np.stack(views, 1, dtype=np.float32)
    x -= np.einsum("tic->ti", x)[..., None] / 256
    x *= (1 / (np.sqrt(np.einsum("tic,tic->ti", x, x)) + 32))[..., None]
    return x


def zoom(a, b) -> list[np.ndarray]:
    """Correlation of two frames; how much higher it is, at best, of one with a middle of the other."""
    none = np.einsum("tc,tc->t", a[:, 0], b[:, 0])
    one, other = np.einsum("tic,tc->ti", a[:, 1:], b[:, 0]), np.einsum("tc,tic->ti", a[:, 0], b[:, 1:])
    return [none, np.maximum(np.maximum(one, other).max(1) - none, 0)]


def phases(small: UInt8[np.ndarray, "T 32 32"]) -> Complex64[np.ndarray, "T 32 17"]:
    """Spectra of unit magnitude of the windowed pictures."""
    small = small.astype(np.float32)
    window = np.hanning(SIZE // 2 + 2)[1:-1].astype(np.float32)
    small -= small.mean((1, 2), keepdims=True)
    spectrum = scipy.fft.rfft2(small * (window[:, None] * window))
    spectrum *= 1 / (np.abs(spectrum) + 10)
    return spectrum


def aligned(a, b) -> list[np.ndarray]:
    """Height of the phase correlation's peak, and its distance from the centre in widths of the picture."""
    n = a.shape[1]
    surface = scipy.fft.irfft2(a * b.conj(), s=(n, n)).reshape(len(a), -1)
    best = surface.argmax(1)
    dy, dx = np.minimum(best // n, n - best // n), np.minimum(best % n, n - best % n)
    return [surface[np.arange(len(a)), best], np.hypot(dy, dx) / n]


def histograms(thumbs: UInt8[np.ndarray, "T 96 64"]) -> Float32[np.ndarray, "T 192"]:
    """Histograms of the three planes, of mean 0 and length 1: their inner product is Pearson's correlation."""
    plane = np.zeros(thumbs.shape[1:], np.uint8)
    plane[SIZE:, : SIZE // 2], plane[SIZE:, SIZE // 2 :] = BINS, 2 * BINS
    bins = thumbs // (256 // BINS) + plane
    counts = np.stack([cv2.calcHist([image], [0], None, [3 * BINS], [0, 3 * BINS]).ravel() for image in bins])
    counts[:, BINS:] *= 2  # a chroma plane has a quarter of the pixels
    counts = cv2.blur(counts, (3, 1))  # a slight change of light moves values across the bounds of bins
    counts -= counts.mean(1, keepdims=True)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-6)


def tiny(thumbs) -> Float32[np.ndarray, "T 64 24"]:
    """4 × 4 luma and two 2 × 2 chroma values of each of 8 × 8 blocks."""
    n = SIZE // 4
    small = half(thumbs)
    split = lambda x, m: x.reshape(len(x), 8, m, 8, m).transpose(0, 1, 3, 2, 4).reshape(len(x), 64, m * m)  # noqa: E731
    parts = split(small[:, : 2 * n], 4), split(small[:, 2 * n :, :n], 2), split(small[:, 2 * n :, n:], 2)
    return np.concatenate(parts, 2).astype(np.float32)


def blend(before, now, after) -> list[np.ndarray]:
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


def states(thumbs: UInt8[np.ndarray, "T 96 64"]) -> Float32[np.ndarray, "T 9"]:
    """Brightness, contrast and saturation of each frame; along x and y its sharpness (log) and how far one line's edges stand out."""
    T = len(thumbs)
    luma, chroma = thumbs[:, :SIZE].reshape(T, -1), thumbs[:, SIZE:].reshape(T, -1)
    light, mean = luma.astype(np.float32), totals(luma) / SIZE**2
    light -= mean[:, None]
    contrast = np.sqrt(np.einsum("tc,tc->t", light, light)) / SIZE
    columns = [mean / 255, contrast / 255, totals(cv2.absdiff(chroma, 128.0)) / chroma.shape[1] / 255]
    turned = cv2.transpose(luma.reshape(-1, SIZE))
    across = totals(cv2.absdiff(turned[1:], turned[:-1]).reshape(-1, SIZE)).reshape(-1, T).T
    down = totals(cv2.absdiff(luma[:, SIZE:], luma[:, :-SIZE]).reshape(-1, SIZE)).reshape(T, -1)
    for steps in (across / SIZE, down / SIZE):  # [T, 63]: a value a line
        sharp = steps.mean(1)
        columns += [np.log(0.25 + sharp) / 4, np.log((1 + steps.max(1)) / (1 + sharp)), steps.argmax(1) / steps.shape[1]]
    return np.stack(columns, 1)
