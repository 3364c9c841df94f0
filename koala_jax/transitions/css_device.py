"""Color-Struct SVM on batches of frames, for a GPU or a TPU: `css`'s features and scores, as one program.

Everything up to the windows' sums is whole numbers, so it equals OpenCV's to the bit:

    (1) grey = (3735 B + 19235 G + 9798 R + 2¹⁴) ≫ 15, then at half the size (sum of 2 × 2 + 2) ≫ 2
    (2) Canny: Sobel 3 × 3, |gx| + |gy|, thinned along the gradient's direction to the next eighth of a turn (tan 22.5° = 13573 / 2¹⁵);
        above 200 an edge, above 100 one where it touches an edge

The scores are float32 from there on. On a CPU this is slower than OpenCV by one to two orders of magnitude.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, Int32, UInt8

from koala_jax.transitions.css import C1, C2, CANNY, EDGE_SIZE, N, WINDOW, svm

TAN = 13573


def histogram(small: UInt8[Array, "B 256 256 3"]) -> Int32[Array, "B 762"]:
    """Counts of the values 1 to 254 of each channel: how often upper four bits meet lower four, a product of matrices, in bf16 exact. Counting one
    by one would take a TPU eight times as long as all else here."""
    upper, lower = (jax.nn.one_hot(bits, 16, dtype=jnp.bfloat16) for bits in (small >> 4, small & 15))
    counts = jnp.einsum("byxci,byxcj->bcij", upper, lower, preferred_element_type=jnp.float32).reshape(len(small), 3, 256)
    return counts[..., 1:255].reshape(len(small), -1).astype(jnp.int32)


def edges(small: UInt8[Array, "B 256 256 3"]) -> Int32[Array, "B 128 128"]:
    """(1) and (2): the grey picture with its edges at 255."""
    b, g, r = jnp.moveaxis(jnp.asarray(small, jnp.int32), -1, 0)
    grey = (3735 * b + 19235 * g + 9798 * r + 2**14) >> 15
    grey = (grey.reshape(-1, EDGE_SIZE, 2, EDGE_SIZE, 2).sum((2, 4)) + 2) >> 2
    return jnp.where(canny(grey), 255, grey)


def canny(grey: Int32[Array, "B H W"]) -> Array:
    """(2), a mask."""
    p = jnp.pad(grey, ((0, 0), (1, 1), (1, 1)), "edge")
    gx = _at(p, -1, 1) - _at(p, -1, -1) + 2 * (_at(p, 0, 1) - _at(p, 0, -1)) + _at(p, 1, 1) - _at(p, 1, -1)
    gy = _at(p, 1, -1) - _at(p, -1, -1) + 2 * (_at(p, 1, 0) - _at(p, -1, 0)) + _at(p, 1, 1) - _at(p, -1, 1)
    x, y = jnp.abs(gx), jnp.abs(gy)
    m = x + y
    q = jnp.pad(m, ((0, 0), (1, 1), (1, 1)))
    flat, steep = (y << 15) < x * TAN, (y << 15) > x * TAN + (x << 16)
    along = (m > _at(q, 0, -1)) & (m >= _at(q, 0, 1))
    across = (m > _at(q, -1, 0)) & (m >= _at(q, 1, 0))
    falling = (gx < 0) == (gy < 0)
    diagonal = jnp.where(
        falling, (m > _at(q, -1, -1)) & (m > _at(q, 1, 1)), (m > _at(q, -1, 1)) & (m > _at(q, 1, -1))
    )
    ridge = jnp.where(flat, along, jnp.where(steep, across, diagonal))
    weak, strong = ridge & (m > CANNY[0]), ridge & (m > CANNY[1])

    def grow(state):
        found, _ = state
        grown = weak & jax.lax.reduce_window(found, False, jax.lax.bitwise_or, (1, 3, 3), (1, 1, 1), "SAME")
        return grown, (grown != found).any()

    return jax.lax.while_loop(lambda state: state[1], grow, (strong, jnp.array(True)))[0]


def correlation(a: Int32[Array, "B F"], b: Int32[Array, "B F"]) -> Float32[Array, " B"]:
    """Pearson's; 1 where one of them is constant."""
    a, b = (h - h.mean(1, keepdims=True) for h in (a.astype(jnp.float32), b.astype(jnp.float32)))
    variances = (a * a).sum(1) * (b * b).sum(1)
    return jnp.where(variances > 0, (a * b).sum(1) / jnp.sqrt(jnp.where(variances > 0, variances, 1)), 1)


def ssim(a: Int32[Array, "B H W"], b: Int32[Array, "B H W"]) -> Float32[Array, " B"]:
    """`css` (6)."""
    sa, sb = _windows(a), _windows(b)
    p = sa * sb
    q, va, vb = N * _windows(a * b) - p, N * _windows(a * a) - sa * sa, N * _windows(b * b) - sb * sb
    above = (2.0 * p + C1) * (2.0 * q + C2)
    below = (sa * sa + sb * sb + C1) * (va + vb + C2)
    return (above / below).mean((1, 2))


@jax.jit
def pair_scores(small: UInt8[Array, "B 256 256 3"]) -> Float32[Array, "b 2"]:
    """bgr and canny of the b = B − 1 pairs of neighbours among BGR frames."""
    h, e = histogram(small), edges(small)
    return jnp.stack([correlation(h[:-1], h[1:]), ssim(e[:-1], e[1:])], 1)


class BatchScorer:
    """Scores a stream that comes in batches of `size` frames, the last one smaller; one shape is compiled."""

    def __init__(self, size: int):
        self.size, self.last, self.scores = size, None, []

    def push(self, small: UInt8[np.ndarray, "B 256 256 3"]) -> None:
        head = small[:1] if self.last is None else self.last
        batch = np.concatenate([head, small, np.broadcast_to(small[-1:], (self.size - len(small), *small.shape[1:]))])
        pairs = pair_scores(batch)[: len(small)]
        self.scores.append(pairs if self.last is not None else pairs[1:])
        self.last = small[-1:]

    def finish(self) -> dict[str, Float64[np.ndarray, " n"]]:
        """The columns of `css.Score`, the decisive one first."""
        bgr, canny = np.concatenate([np.empty((0, 2)), *map(np.asarray, self.scores)]).astype(np.float64).T
        return {"svm": svm(bgr, canny), "bgr": bgr, "canny": canny}


def _at(padded: Array, dy: int, dx: int) -> Array:
    """The picture inside a border of 1, seen from so many pixels away."""
    B, H, W = padded.shape
    return padded[:, 1 + dy : H - 1 + dy, 1 + dx : W - 1 + dx]


def _windows(image: Int32[Array, "B H W"]) -> Int32[Array, "B h w"]:
    for dims in ((1, WINDOW, 1), (1, 1, WINDOW)):
        image = jax.lax.reduce_window(image, 0, jax.lax.add, dims, (1, 1, 1), "VALID")
    return image
