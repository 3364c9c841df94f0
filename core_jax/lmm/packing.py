"""How LLaVA-OneVision turns images and videos into tokens of the sequence, as gathers that are laid out on the host.

  one image        [whole image as one tile] ++ rows of [the image cut in tiles, without its borders], each row ended by the newline
  several images   for each: [the padded image as one tile], newline
  a video          for each frame: [the frame as one tile, halved along both sides]; at the end of all, one newline

Cutting borders, scaling features and pooling are bilinear: a visual token is a weighted sum of at most four features of the
tower. So a sequence is two small tables, `sources` and `weights`, and the device needs one gather whatever the images' sizes.
"""
import dataclasses
import math

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from PIL import Image

from core_jax.lmm.config import PackingConfig, TowerConfig

NEWLINE = -1
"""the source that stands for the learned newline"""


@dataclasses.dataclass(frozen=True)
class Visual:
    """One image or video, on its way into a sequence."""

    tiles: Float[np.ndarray, "N H W C"]
    """normalised pixels"""
    sources: Int[np.ndarray, "S 4"]
    """for each token four features: tile · patches of a tile + patch, or NEWLINE"""
    weights: Float[np.ndarray, "S 4"]
    """and their weights"""


Pixels = UInt8[np.ndarray, "H W 3"]


def _resize(image: Pixels, rows: int, columns: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC))


def _normalise(tiles: UInt8[np.ndarray, "N H W 3"], tower: TowerConfig) -> Float[np.ndarray, "N H W 3"]:
    return ((tiles / 255 - np.array(tower.mean)) / np.array(tower.std)).astype(np.float32)


def _bilinear(size: int, new: int) -> tuple[Int[np.ndarray, "new 2"], Float[np.ndarray, "new 2"]]:
    """Which two places of `size` make each of `new`, and their weights (pixels are areas, corners are not aligned)."""
    place = np.maximum((np.arange(new) + 0.5) * size / new - 0.5, 0)
    low = np.floor(place).astype(np.int32)
    part = (place - low).astype(np.float32)
    return np.stack([low, np.minimum(low + 1, size - 1)], -1), np.stack([1 - part, part], -1)


def _scaled(features: Int[np.ndarray, "H W"], rows: int, columns: int) -> tuple[Int[np.ndarray, "H W 4"], Float[np.ndarray, "H W 4"]]:
    """A grid of features scaled to another size: sources and weights of each place."""
    (y, a), (x, b) = _bilinear(features.shape[0], rows), _bilinear(features.shape[1], columns)
    sources = features[y[:, None, :, None], x[None, :, None, :]]
    weights = a[:, None, :, None] * b[None, :, None, :]
    return sources.reshape(rows, columns, 4), weights.reshape(rows, columns, 4)


def _plain(features: Int[np.ndarray, "..."]) -> tuple[Int[np.ndarray, "... 4"], Float[np.ndarray, "... 4"]]:
    """Features as they are."""
    weights = np.zeros((*features.shape, 4), np.float32)
    weights[..., 0] = 1
    return np.repeat(features[..., None], 4, -1).astype(np.int32), weights


def _join(*parts: tuple[np.ndarray, np.ndarray]) -> tuple[Int[np.ndarray, "S 4"], Float[np.ndarray, "S 4"]]:
    return tuple(np.concatenate([part[i].reshape(-1, 4) for part in parts]) for i in range(2))


def best_resolution(size: tuple[int, int], resolutions: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Of the resolutions the one that keeps most of an image's pixels; of several, the one that wastes fewest of its own."""

    def merit(resolution: tuple[int, int]) -> tuple[int, int]:
        scale = min(resolution[0] / size[0], resolution[1] / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return kept, kept - resolution[0] * resolution[1]

    return max(resolutions, key=merit)


def single_image(image: Pixels, tower: TowerConfig, config: PackingConfig) -> Visual:
    """An image that stands alone in its sequence: at several resolutions."""
    rows, columns = best_resolution(image.shape[:2], config.resolutions)
    across = rows // tower.tile, columns // tower.tile
    tiles = rearrange(_fit(image, rows, columns), "(R H) (C W) c -> (R C) H W c", H=tower.tile, W=tower.tile)
    tiles = np.concatenate([_resize(image, tower.tile, tower.tile)[None], tiles])
    sources, weights = _join(_plain(np.arange(tower.grid**2)), _image_rows(image.shape[:2], across, tower.grid, config.most_tiles))
    return Visual(_normalise(tiles, tower), sources, weights)


def _fit(image: Pixels, rows: int, columns: int) -> Pixels:
    """The image as large as fits, in the middle of black."""
    down, right = rows / image.shape[0], columns / image.shape[1]
    if right < down:
        size = min(math.ceil(image.shape[0] * right), rows), columns
    else:
        size = rows, min(math.ceil(image.shape[1] * down), columns)
    top, left = (rows - size[0]) // 2, (columns - size[1]) // 2
    canvas = np.zeros((rows, columns, 3), np.uint8)
    canvas[top : top + size[0], left : left + size[1]] = _resize(image, *size)
    return canvas


def _image_rows(size: tuple[int, int], across: tuple[int, int], grid: int, most_tiles: int):
    """Tokens of an image cut in `across` tiles (after one tile of the whole): without borders, scaled down if many, rows ended."""
    places = np.arange(across[0] * across[1] * grid * grid) + grid * grid
    features = rearrange(places, "(R C h w) -> (R h) (C w)", R=across[0], C=across[1], h=grid, w=grid)
    rows, columns = features.shape
    if size[1] / size[0] > columns / rows:
        border = (rows - int(round(size[0] * (columns / size[1]), 7))) // 2
        features = features[border : rows - border]
    else:
        border = (columns - int(round(size[1] * (rows / size[0]), 7))) // 2
        features = features[:, border : columns - border]
    rows, columns = features.shape
    ratio = math.sqrt(rows * columns / (most_tiles * grid**2))
    if ratio > 1.1:
        sources, weights = _scaled(features, int(rows // ratio), int(columns // ratio))
    else:
        sources, weights = _plain(features)
    ends = _plain(np.full((len(sources), 1), NEWLINE))
    return np.concatenate([sources, ends[0]], 1), np.concatenate([weights, ends[1]], 1)


def one_of_images(image: Pixels, tower: TowerConfig) -> Visual:
    """An image that shares its sequence with others: one tile, padded to a square."""
    side = max(image.shape[:2])
    top, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    square = np.broadcast_to((np.array(tower.mean) * 255).astype(np.uint8), (side, side, 3)).copy()
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    sources, weights = _join(_plain(np.arange(tower.grid**2)), _plain(np.array([NEWLINE])))
    return Visual(_normalise(_resize(square, tower.tile, tower.tile)[None], tower), sources, weights)


def video(frames: UInt8[np.ndarray, "T H W 3"], tower: TowerConfig) -> Visual:
    """Frames of a video, each one tile, pooled."""
    tiles = np.stack([_resize(frame, tower.tile, tower.tile) for frame in frames])
    half = math.ceil(tower.grid / 2)
    places = np.arange(len(frames) * tower.grid**2).reshape(len(frames), tower.grid, tower.grid)
    sources, weights = _join(*(_scaled(frame, half, half) for frame in places), _plain(np.array([NEWLINE])))
    return Visual(_normalise(tiles, tower), sources, weights)
