"""What the learned detector sees of a video: how alike two frames are, at several distances, on thumbnails of 64 × 64 pixels.

A transition lies between the frames t and t+1, or around them. Around every such pair the frames t-k+1 and t+k (k = 1, 2, 4 … 32,
so 1, 3, 7 … 63 frames apart) are compared: a flash, an occlusion or a whip comes back, and far frames are alike again; a transition does
not. Two measures are Koala-36M's (arXiv:2410.08260, eq. 2 and 4), the others answer what those two cannot:

  colour     correlation of colour histograms                        (indifferent to motion)
  structure  SSIM of max(grey, edges), mean and worst blocks           (wipes and shapes change some blocks before others)
  stray      how far a pixel leaves the range that the other frame has around it: motion up to the radius costs nothing
  aligned    peak of the phase correlation, and where it lies: the same picture after a translation (handheld, pans, slides)
  blend      is frame t a mixture of t-k and t+k? share of the change explained, mixing weight, its spread over blocks
  frame      brightness, contrast, sharpness: fades, flashes, blur and blocks; a line that stands out: the border of a slide or wipe
"""
import av
import cv2
import numpy as np
from jaxtyping import Float32, UInt8

cv2.setNumThreads(1)  # the processes that decode are as many as there are cores

SIZE = 64
"""Pixels a side of a thumbnail's luma; its two chroma planes have half."""
BLOCK = 8
REACHES = (1, 2, 4, 8, 16, 32)
"""k: the frames t-k+1 and t+k are compared."""
HALO = max(REACHES)
"""Frames on either side of a pair that its features depend on."""
RADII = (1, 4)
"""Pixels of a thumbnail that things may move without counting as `stray`."""
ALIGNED = (1, 4, 16)
BLENDS = (3, 8, 16)
BINS = 64
GREY = np.full((SIZE // 2, SIZE), 128, np.uint8)
PLANAR = {"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p"}
NEAR = 2
"""Up to this reach the structure is compared at 64 × 64, beyond it at 32 × 32: there more has moved than details could tell."""
PIECE = 16
"""Pairs whose pictures are compared at once."""

_SIMILARITIES = ("colour", "structure", "structure low", "structure median", "structure high") + tuple(
    f"stray {r} {part}" for r in RADII for part in ("mean", "median", "high")
)
_FRAMES = ("brightness", "contrast", "saturation", "sharp x", "seam x", "sharp y", "seam y")
NAMES = (
    tuple(f"{name} @{2 * k - 1}" for k in REACHES for name in _SIMILARITIES)
    + tuple(f"aligned {part} @{2 * k - 1}" for k in ALIGNED for part in ("peak", "shift"))
    + tuple(f"blend {part} @{2 * k}" for k in BLENDS for part in ("explained", "weight", "spread", "change"))
    + tuple(f"frame {name}" for name in _FRAMES)
    + tuple(f"frame {name} step" for name in _FRAMES)
)
"""One name a feature, in the order of `features`; @d is the distance in frames."""


def thumbnail(y: UInt8[np.ndarray, "H W"], u: UInt8[np.ndarray, "h w"], v: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "96 64"]:
    """The 64 × 64 luma of a frame and, below it, its two 32 × 32 chroma planes side by side; the aspect ratio is given up.

    Of a large plane bilinear sampling reads about 4 × 4 of a cell's pixels, which costs 20 µs where the whole area costs 2 ms.
    """
    thumb = np.empty((SIZE * 3 // 2, SIZE), np.uint8)
    for plane, out in ((y, thumb[:SIZE]), (u, thumb[SIZE:, : SIZE // 2]), (v, thumb[SIZE:, SIZE // 2 :])):
        twice = 2 * out.shape[1], 2 * out.shape[0]
        if plane.shape[0] >= twice[1] and plane.shape[1] >= twice[0]:
            plane = cv2.resize(plane, twice)
        out[:] = cv2.resize(plane, out.shape[::-1], interpolation=cv2.INTER_AREA)
    return thumb


def from_planes(frame: av.VideoFrame) -> UInt8[np.ndarray, "96 64"]:
    """The thumbnail of a decoded frame; 8-bit planar YUV, which nearly all video is, is read where it lies."""
    if frame.format.name not in PLANAR:
        frame = frame.reformat(format="yuv420p", threads=1)
    planes = [np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width] for p in frame.planes]
    return thumbnail(*planes)


def _tall(x: np.ndarray) -> np.ndarray:
    """[T, h, w] as one image, on which OpenCV runs once for all frames."""
    return x.reshape(-1, x.shape[-1])


def _blocks(x: np.ndarray) -> np.ndarray:
    """Means over blocks: [T, 64, 64] → [T, 64]."""
    small = cv2.resize(_tall(x), (SIZE // BLOCK, len(x) * SIZE // BLOCK), interpolation=cv2.INTER_AREA)
    return small.reshape(len(x), -1)


def _moments(x: UInt8[np.ndarray, "T h w"]) -> tuple[np.ndarray, ...]:
    """The pictures, their means over windows and the means of their squares."""
    x = x.astype(np.float32)
    pieces = [x[i : i + PIECE] for i in range(0, len(x), PIECE)]
    return x, np.concatenate([_box(part) for part in pieces]), np.concatenate([_box(part * part) for part in pieces])


def _box(x: np.ndarray) -> np.ndarray:
    """Means over windows of 7 × 7, without the border that a window leaves: [T, h, w] → [T, h-6, w-6]."""
    return cv2.boxFilter(_tall(x), cv2.CV_32F, (7, 7)).reshape(x.shape)[:, 3:-3, 3:-3]


def _structure(luma: UInt8[np.ndarray, "T 64 64"]) -> UInt8[np.ndarray, "T 64 64"]:
    """Koala-36M eq. 3: the larger of grey and Canny edges."""
    return np.stack([np.maximum(image, cv2.Canny(image, 100, 200)) for image in luma])


def _phases(luma: UInt8[np.ndarray, "T 64 64"]) -> np.ndarray:
    """Spectra of unit magnitude of the windowed thumbnails at 32 × 32."""
    n = SIZE // 2
    small = cv2.resize(_tall(luma), (n, len(luma) * n), interpolation=cv2.INTER_AREA).reshape(-1, n, n).astype(np.float32)
    window = np.hanning(n + 2)[1:-1].astype(np.float32)
    spectrum = np.fft.rfft2((small - small.mean((1, 2), keepdims=True)) * (window[:, None] * window))
    return spectrum / (np.abs(spectrum) + 10)


def _histograms(thumbs: UInt8[np.ndarray, "T 96 64"]) -> Float32[np.ndarray, "T 192"]:
    """Histograms of the three planes, of mean 0 and length 1: their inner product is Pearson's correlation."""
    planes = (slice(0, SIZE), slice(None)), (slice(SIZE, None), slice(0, SIZE // 2)), (slice(SIZE, None), slice(SIZE // 2, None))
    counts = np.stack([np.concatenate([cv2.calcHist([thumb[p]], [0], None, [BINS], [0, 256]).ravel() for p in planes]) for thumb in thumbs])
    counts[:, BINS:] *= 2  # a chroma plane has a quarter of the pixels
    counts = cv2.blur(counts, (3, 1))  # a slight change of light moves values across the bounds of bins
    counts -= counts.mean(1, keepdims=True)
    return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-6)


def features(thumbs: UInt8[np.ndarray, "T 96 64"], first: int = 0, stop: int | None = None) -> Float32[np.ndarray, "P F"]:
    """Features of the pairs (t, t+1) for first ≤ t < stop (by default all T-1); frames beyond an end are copies of the end frame."""
    T = len(thumbs)
    stop = T - 1 if stop is None else stop
    low, high = max(first - HALO, 0), min(stop + HALO + 1, T)
    thumbs = thumbs[low:high]
    t = np.arange(first - low, stop - low)
    at = lambda offset: np.clip(t + offset, 0, len(thumbs) - 1)  # noqa: E731

    luma = np.ascontiguousarray(thumbs[:, :SIZE])
    colour, phases = _histograms(thumbs), _phases(luma)
    edges = _structure(luma)
    half = cv2.resize(_tall(edges), (SIZE // 2, len(edges) * SIZE // 2), interpolation=cv2.INTER_AREA).reshape(-1, SIZE // 2, SIZE // 2)
    fine, coarse = _moments(edges), _moments(half)
    ranges = []
    for r in RADII:
        kernel = np.ones((2 * r + 1, 2 * r + 1), np.uint8)
        ranges.append((np.stack([cv2.erode(x, kernel) for x in luma]), np.stack([cv2.dilate(x, kernel) for x in luma])))

    columns = [np.concatenate(parts) for parts in zip(*(
        _similarities(colour, fine, coarse, luma, ranges, t[start : start + PIECE]) for start in range(0, len(t), PIECE)
    ))]
    for k in ALIGNED:
        columns += _aligned(phases[at(1 - k)], phases[at(k)])
    tiny = _tiny(thumbs)
    for k in BLENDS:
        columns += _blend(tiny, at(1 - k), at(0), at(k))
    states = _states(thumbs)
    columns += list(states[at(0)].T) + list((states[at(1)] - states[at(0)]).T)
    return np.stack(columns, 1).astype(np.float32)


def _similarities(colour, fine, coarse, luma, ranges, t) -> list[np.ndarray]:
    """The similarities of the pairs t at every reach, few pairs at once so that the pictures stay in the processor's cache."""
    columns = []
    for k in REACHES:
        i, j = np.clip(t + 1 - k, 0, len(luma) - 1), np.clip(t + k, 0, len(luma) - 1)
        columns.append(np.einsum("tc,tc->t", colour[i], colour[j]))
        columns += _ssim(*(fine if k <= NEAR else coarse), i, j)
        for lows, highs in ranges:
            columns += _stray(luma, lows, highs, i, j)
    return columns


def _ssim(edges, mean, square, i, j) -> list[np.ndarray]:
    """SSIM with sample covariance, as in scikit-image: its mean over the picture, then quantiles over blocks."""
    c1, c2, n = (0.01 * 255) ** 2, (0.03 * 255) ** 2, 49 / 48
    mi, mj = mean[i], mean[j]
    both = mi * mj
    squares = mi * mi
    squares += mj * mj
    cross = _box(edges[i] * edges[j])
    variances = square[i] + square[j]
    variances -= squares
    cross -= both
    ssim = (2 * both + c1) * (2 * n * cross + c2)
    ssim /= (squares + c1) * (n * variances + c2)
    inner = ssim[:, 1:-1, 1:-1]  # 56 or 24 a side: blocks of 8 or 4
    side = inner.shape[1] // (8 if inner.shape[1] > 32 else 4)
    blocks = np.sort(cv2.resize(_tall(inner), (side, len(inner) * side), interpolation=cv2.INTER_AREA).reshape(len(inner), -1), axis=1)
    return [ssim.mean((1, 2)), *(blocks[:, int(share * side * side)] for share in (0.1, 0.5, 0.9))]


def _stray(luma, lows, highs, i, j) -> list[np.ndarray]:
    """Mean, median and 90th percentile over blocks of the distance to the range around the same place in the other frame."""
    away = cv2.subtract(_tall(luma[j]), _tall(highs[i]))
    for one, other in ((lows[i], luma[j]), (luma[i], highs[j]), (lows[j], luma[i])):
        away = cv2.add(away, cv2.subtract(_tall(one), _tall(other)))
    blocks = np.sort(_blocks(away.reshape(len(i), SIZE, SIZE)).astype(np.float32), axis=1)
    return [np.log1p(x) for x in (blocks.mean(1), blocks[:, 32], blocks[:, 57])]


def _aligned(a, b) -> list[np.ndarray]:
    """Height of the phase correlation's peak, and its distance from the centre in widths of the picture."""
    n = a.shape[1]
    surface = np.fft.irfft2(a * b.conj(), s=(n, n)).reshape(len(a), -1)
    best = surface.argmax(1)
    dy, dx = np.minimum(best // n, n - best // n), np.minimum(best % n, n - best % n)
    return [surface[np.arange(len(a)), best], np.hypot(dy, dx) / n]


def _tiny(thumbs) -> Float32[np.ndarray, "T 64 24"]:
    """4 × 4 luma and two 2 × 2 chroma values of each of 8 × 8 blocks."""
    n = SIZE // 4
    small = cv2.resize(_tall(thumbs), (2 * n, len(thumbs) * 3 * n), interpolation=cv2.INTER_AREA).reshape(len(thumbs), 3 * n, 2 * n)
    split = lambda x, m: x.reshape(len(x), 8, m, 8, m).transpose(0, 1, 3, 2, 4).reshape(len(x), 64, m * m)  # noqa: E731
    parts = split(small[:, : 2 * n], 4), split(small[:, 2 * n :, :n], 2), split(small[:, 2 * n :, n:], 2)
    return np.concatenate(parts, 2).astype(np.float32)


def _blend(tiny, i, t, j) -> list[np.ndarray]:
    """Fits frame t as frame i + w (frame j - frame i): share of its change explained, w, the spread of w over blocks, the change."""
    change, part = tiny[j] - tiny[i], tiny[t] - tiny[i]
    cc, cp = np.einsum("tbc,tbc->tb", change, change), np.einsum("tbc,tbc->tb", change, part)
    pp = np.einsum("tbc,tbc->t", part, part)
    noise = 4.0 * tiny.shape[2]
    total = cc.sum(1) + 16 * noise
    weight = cp.sum(1) / total
    spread = np.sqrt(np.maximum((cc * (cp / (cc + noise) - weight[:, None]) ** 2).sum(1) / total, 0))
    rest = np.einsum("tbc,tbc->t", part, part) - 2 * weight * cp.sum(1) + weight**2 * cc.sum(1)
    explained = 1 - rest / (pp + 16 * noise)
    return [explained, np.clip(weight, -1, 2), spread, np.log1p(cc.sum(1) / (64 * noise))]


def _states(thumbs) -> Float32[np.ndarray, "T 7"]:
    """Brightness, contrast and saturation of each frame; along x and y its sharpness (log) and how far one line's edges stand out."""
    rows = []
    for thumb in thumbs:
        luma = thumb[:SIZE]
        (mean,), (deviation,) = (v.ravel() for v in cv2.meanStdDev(luma))
        row = [mean / 255, deviation / 255, cv2.norm(thumb[SIZE:], GREY, cv2.NORM_L1) / GREY.size / 255]
        for picture in (luma, np.ascontiguousarray(luma.T)):
            edges = cv2.reduce(cv2.absdiff(np.ascontiguousarray(picture[:, 1:]), np.ascontiguousarray(picture[:, :-1])), 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F)
            sharp = float(edges.mean())
            row += [np.log(0.25 + sharp) / 4, np.log((1 + float(edges.max())) / (1 + sharp))]
        rows.append(row)
    return np.array(rows, np.float32)
