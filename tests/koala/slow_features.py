"""The learned detector's features of one pair of frames, written plainly: frame by frame, in double precision."""
import cv2
import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter
from skimage.metrics import structural_similarity

from koala_jax.transitions import features as f


def features(thumbs: np.ndarray, t: int) -> np.ndarray:
    """The row of pair (t, t+1)."""
    at = lambda frame: thumbs[np.clip(frame, 0, len(thumbs) - 1)]  # noqa: E731
    row = []
    for k in f.REACHES:
        a, b = at(t + 1 - k), at(t + k)
        row += [np.dot(histogram(a), histogram(b)), *structure(a[:64], b[:64])]
        for r in f.RADII:
            row += stray(a[:64], b[:64], r)
    for r in f.RADII:
        row += burst(at, t, lambda a, b: strayed(a, b, r))  # noqa: B023
    row += burst(at, t, apart) + leap(at, t)
    for k in f.ALIGNED:
        row += aligned(at(t + 1 - k)[:64], at(t + k)[:64])
    for k in f.ZOOMS:
        row += zoom(at(t + 1 - k)[:64], at(t + k)[:64])
    row += changed(at, t)
    for k in f.BLENDS:
        row += blend(tiny(at(t + 1 - k)), tiny(at(t)), tiny(at(t + k)))
    now, then = state(at(t)), state(at(t + 1))
    return np.array([*row, *now, *(then - now)])


def blocks(x: np.ndarray, side: int) -> np.ndarray:
    """Means over blocks of side × side."""
    return x.reshape(x.shape[0] // side, side, -1, side).mean((1, 3))


def histogram(thumb: np.ndarray) -> np.ndarray:
    planes = (thumb[:64], 1), (thumb[64:, :32], 2), (thumb[64:, 32:], 2)
    counts = np.concatenate([weight * np.histogram(plane, 64, (0, 256))[0] for plane, weight in planes])
    counts = np.convolve(np.pad(counts, 1, "reflect"), np.full(3, 1 / 3), "valid")
    counts -= counts.mean()
    return counts / max(np.linalg.norm(counts), 1e-6)


def structure(a: np.ndarray, b: np.ndarray) -> list[float]:
    a, b = (np.floor(blocks(x, 2) + 0.5).astype(np.uint8) for x in (a, b))
    mean, surface = structural_similarity(a, b, win_size=7, data_range=255, full=True)
    cells = np.sort(blocks(surface[4:-4, 4:-4], 4).ravel())
    return [mean, *(cells[int(share * len(cells))] for share in (0.1, 0.5, 0.9))]


def equalised(luma: np.ndarray) -> np.ndarray:
    """Levels spread so that as many pixels lie between any two: the lowest is 0, the highest 255."""
    below = np.searchsorted(np.sort(luma.ravel()), luma.ravel(), "right").reshape(luma.shape).astype(float)
    lowest = (luma == luma.min()).sum()
    return np.rint((below - lowest) * 255 / max(luma.size - lowest, 1)).astype(np.uint8) if lowest < luma.size else luma


def strayed(a: np.ndarray, b: np.ndarray, r: int) -> np.ndarray:
    """[8, 8] blocks"""
    a, b = (a, b) if r == f.RADII[0] else (equalised(a), equalised(b))
    away = np.zeros((64, 64))
    for one, other in ((a, b), (b, a)):
        low, high = minimum_filter(one, 2 * r + 1, mode="nearest"), maximum_filter(one, 2 * r + 1, mode="nearest")
        away += np.abs(other.astype(float) - np.clip(other, low, high))
    return np.rint(blocks(np.minimum(away, 255), 8))


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return blocks(np.abs(a.astype(float) - b), 8)


def burst(at, t: int, measure) -> list[float]:
    pairs = {d: measure(at(t + d)[:64], at(t + d + 1)[:64]) for d in range(-2, 3)}
    usual = np.max([maximum_filter(pairs[d], 3, mode="constant") for d in (-2, -1, 1, 2)], 0)
    beyond = np.sort(np.maximum(pairs[0] - usual, 0).ravel())
    return [np.log1p(x) for x in (beyond.mean(), beyond[57], beyond[60])]


def leap(at, t: int) -> list[float]:
    row = []
    for part, least in ((np.mean, 0.5), (lambda x: np.sort(x.ravel())[32], 0.3)):
        pairs = [part(apart(at(t + d)[:64], at(t + d + 1)[:64])) for d in range(-2, 3)]
        row.append(np.log((pairs[2] + least) / (max(pairs[:2] + pairs[3:]) + least)))
    return row


def zoom(a: np.ndarray, b: np.ndarray) -> list[float]:
    def view(x, side):
        edge = (64 - side) // 2
        part = np.ascontiguousarray(x[edge : edge + side, edge : edge + side])
        small = cv2.resize(part, (16, 16), interpolation=cv2.INTER_AREA).astype(float)
        small -= small.mean()
        return small / (np.linalg.norm(small) + 32)

    none = (view(a, 64) * view(b, 64)).sum()
    best = max(max((view(a, side) * view(b, 64)).sum(), (view(a, 64) * view(b, side)).sum()) for side in (53, 44, 37, 31))
    return [none, max(best - none, 0)]


def changed(at, t: int) -> list[float]:
    by = lambda one, two: at(two)[:64].astype(float) - at(one)[:64]  # noqa: E731
    row = []
    for least in (12, 30):
        now = np.abs(by(t, t + 1)) > least
        share, rows, columns = now.mean(), (now.sum(1) > 6).mean(), (now.sum(0) > 6).mean()
        row += [np.log(share + 0.002), rows, columns, share / (rows * columns + 0.02)]
    now = np.abs(by(t, t + 1)) > 12
    row.append(abs(by(t, t + 1)[now].sum()) / (np.abs(by(t, t + 1))[now].sum() + 200))
    for lag in (3, 8):
        row += [(now & (np.abs(x) > 12)).mean() / (now.mean() + 0.002) for x in (by(t + 1, t + 1 + lag), by(t - lag, t))]
    return row


def stray(a: np.ndarray, b: np.ndarray, r: int) -> list[float]:
    cells = np.sort(strayed(a, b, r).ravel())
    return [np.log1p(x) for x in (cells.mean(), cells[32], cells[57])]


def aligned(a: np.ndarray, b: np.ndarray) -> list[float]:
    window = np.hanning(34)[1:-1]
    spectra = []
    for x in (a, b):
        small = np.floor(blocks(x, 2) + 0.5)
        spectrum = np.fft.fft2((small - small.mean()) * np.outer(window, window))
        spectra.append(spectrum / (np.abs(spectrum) + 10))
    surface = np.fft.ifft2(spectra[0] * spectra[1].conj()).real
    y, x = np.unravel_index(surface.argmax(), surface.shape)
    return [surface.max(), np.hypot(min(y, 32 - y), min(x, 32 - x)) / 32]


def tiny(thumb: np.ndarray) -> np.ndarray:
    """[8 × 8 blocks, their 24 values]"""
    small = np.floor(blocks(thumb, 2) + 0.5)
    luma, u, v = small[:32], small[32:, :16], small[32:, 16:]
    return np.array([
        [*luma[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].ravel(), *u[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel(), *v[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel()]
        for y in range(8) for x in range(8)
    ])  # fmt: skip


def blend(before: np.ndarray, now: np.ndarray, after: np.ndarray) -> list[float]:
    change, part = after - before, now - before
    noise = 4 * 24
    total = (change**2).sum() + 16 * noise
    w = (change * part).sum() / total
    cc, cp = (change**2).sum(1), (change * part).sum(1)
    spread = np.sqrt((cc * (cp / (cc + noise) - w) ** 2).sum() / total)
    explained = 1 - ((part - w * change) ** 2).sum() / ((part**2).sum() + 16 * noise)
    return [explained, np.clip(w, -1, 2), spread, np.log1p((change**2).sum() / (64 * noise))]


def state(thumb: np.ndarray) -> np.ndarray:
    luma = thumb[:64].astype(float)
    row = [luma.mean() / 255, luma.std() / 255, np.abs(thumb[64:] - 128.0).mean() / 255]
    for picture in (luma, luma.T):
        lines = np.abs(np.diff(picture, axis=1)).mean(0)
        row += [np.log(0.25 + lines.mean()) / 4, np.log((1 + lines.max()) / (1 + lines.mean())), lines.argmax() / len(lines)]
    return np.array(row)
