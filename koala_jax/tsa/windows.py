"""Where the tokens of a Swin3D lie: windows, shifts, relative positions and fragments, as small constant arrays.

A block of a grid of (T, H, W) tokens pads it to multiples of the window, rolls it by the shift and cuts it into G windows of S tokens.
For two tokens of a window,

  index  = their offset (Δt, Δh, Δw) as a row of a table of (2·8−1)(2·7−1)(2·7−1) rows     whatever the window's own size
  m      = |Δ fragment row| + |Δ fragment column|,  fragment = ⌊position · window / tokens⌋   not clipped to 1
  hidden = they lie in different regions, which only the roll has put side by side
"""
import dataclasses
import functools
import math

import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

BASE_INPUT = (32, 224, 224)
"""frames, rows and columns of the video for which the full window is made"""
BASE_WINDOW = (8, 7, 7)
SHIFT = (4, 3, 3)
REGIONS = 3
"""along an axis that is rolled"""

Size = tuple[int, int, int]


def offsets(window: tuple[int, ...], base: tuple[int, ...]) -> Int[np.ndarray, "S S"]:
    """Row of a table of the offsets in windows of up to `base`, for query and key of one."""
    place = np.stack(np.meshgrid(*map(np.arange, window), indexing="ij"), -1).reshape(-1, len(window))
    offset = place[:, None] - place[None] + np.array(base) - 1
    return np.ravel_multi_index(np.moveaxis(offset, -1, 0), [2 * w - 1 for w in base])


def adaptive_window(video: Size) -> Size:
    """The window for a video of (T, H, W) pixels: ⌊8T/32⌋, ⌊7H/224⌋, ⌊7W/224⌋.

    Raises:
      ValueError: the video is too small to give a window, or so large that its window exceeds the table of positions.
    """
    window = tuple(base * size // whole for base, size, whole in zip(BASE_WINDOW, video, BASE_INPUT))
    if any(not 1 <= size <= base for size, base in zip(window, BASE_WINDOW)):
        raise ValueError(
            f"a clip of {video[0]} frames, {video[1]}×{video[2]} gives attention windows of {window}, where (1, 1, 1) to "
            f"{BASE_WINDOW} are possible: 4 to 35 frames and 32 to 255 rows and columns"
        )
    return window


@dataclasses.dataclass(frozen=True)
class Windows:
    """How one block cuts its grid; equal ones are made once."""

    grid: Size
    window: Size
    shift: Size

    @classmethod
    def of(cls, grid: Size, window: Size, shifted: bool) -> "Windows":
        """An axis no longer than the window is one window, which needs no shift."""
        fits = [n <= w for n, w in zip(grid, window)]
        shift = tuple(s if shifted and not fit else 0 for s, fit in zip(SHIFT, fits))
        return cls(grid, tuple(min(n, w) for n, w in zip(grid, window)), shift)

    @property
    def padded(self) -> Size:
        return tuple(math.ceil(n / w) * w for n, w in zip(self.grid, self.window))

    @property
    def number(self) -> int:
        """G."""
        return math.prod(p // w for p, w in zip(self.padded, self.window))

    def cut(self, x: Float[Array, "B T H W E"]) -> Float[Array, "B*G S E"]:
        """Padding, rolling, cutting: the windows of one example one after the other."""
        xp = x.__array_namespace__()  # numpy for constants, jax.numpy for the rest
        x = xp.pad(x, ((0, 0), *((0, p - n) for p, n in zip(self.padded, self.grid)), (0, 0)))
        if any(self.shift):
            x = xp.roll(x, [-s for s in self.shift], (1, 2, 3))
        return rearrange(x, "B (T t) (H h) (W w) E -> (B T H W) (t h w) E", **dict(zip("thw", self.window)))

    def join(self, windows: Float[Array, "B*G S E"]) -> Float[Array, "B T H W E"]:
        """The inverse of `cut`; padding falls away."""
        sizes = dict(zip("thwTHW", (*self.window, *(p // w for p, w in zip(self.padded, self.window)))))
        x = rearrange(windows, "(B T H W) (t h w) E -> B (T t) (H h) (W w) E", **sizes)
        if any(self.shift):
            x = x.__array_namespace__().roll(x, self.shift, (1, 2, 3))
        T, H, W = self.grid
        return x[:, :T, :H, :W]

    @functools.cached_property
    def index(self) -> Int[np.ndarray, "S S"]:
        """Row of the position table for query and key."""
        return offsets(self.window, BASE_WINDOW)

    @functools.cached_property
    def fragments(self) -> Int[np.ndarray, "G S 2"]:
        """Fragment row and column of each token; there are as many as a window has rows and columns."""
        _, H, W = self.padded
        rows, columns = np.arange(H) * self.window[1] // H, np.arange(W) * self.window[2] // W
        place = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
        return dataclasses.replace(self, grid=self.padded).cut(np.broadcast_to(place, (1, *self.padded, 2)))

    @functools.cached_property
    def regions(self) -> Int[np.ndarray, "G S 3"] | None:
        """Along an axis of n tokens the last s, and those before among the last w, came from elsewhere; None where nothing is rolled."""
        if not any(self.shift):
            return None
        axes = [np.where(np.arange(n) >= n - s, 2, np.arange(n) >= n - w) * (s > 0) for n, w, s in zip(self.padded, self.window, self.shift)]
        region = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        return dataclasses.replace(self, grid=self.padded, shift=(0, 0, 0)).cut(region[None])
