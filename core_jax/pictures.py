"""Pictures: read from files, upright, and at the size that a model takes. Imports little, so that a decoding worker (video_worker.py) starts quickly."""
from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from core_jax.video_error import Source, VideoError, explained, name

if TYPE_CHECKING:
    from jaxtyping import UInt8

ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
"""EXIF's tag, and its values where rows and columns change places"""


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Image.Image]:
    """An image of which only the size was read. What goes wrong inside, with Pillow's many errors for what is none, broken or huge, is a VideoError."""
    with explained(source):
        data = source if isinstance(source, bytes) else _bytes(source)
    try:
        with Image.open(io.BytesIO(data)) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = "its format is not known" if isinstance(error, Image.UnidentifiedImageError) else error
        raise VideoError(name(source), f"cannot be read as an image: {what}") from error


def _bytes(path: str | os.PathLike) -> bytes:
    if "://" not in os.fspath(path):
        with open(path, "rb") as file:
            return file.read()
    from etils import epath

    return epath.Path(path).read_bytes()


def read_image(source: Source) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an image file, upright as its camera held it. Raises VideoError."""
    with opened(source) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def is_image(data: bytes) -> bool:
    """By how a file begins: JPEG, PNG or WebP."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n")) or data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def size_of(source: Source) -> tuple[int, int]:
    """(H, W) of an image file, upright, of which no pixel is decoded. Raises VideoError."""
    with opened(source) as image:
        return image.size if image.getexif().get(ORIENTATION) in TURNED else image.size[::-1]


def read_covering(source: Source, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """As `read_image`, resized to cover `size` = (H, W) and cut to it about the centre."""
    return cover(read_image(source), *size)


def cover(
    picture: UInt8[np.ndarray, "H W 3"], height: int, width: int, how: Image.Resampling | None = None, shown: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture resized so that it just covers the size, and the middle of it: of a wider one the sides are lost.

    Args:
      how: by default Lanczos' where it shrinks, bicubic where it grows.
      shown: its (H, W) in square pixels, where its own are not.
    """
    H, W = shown or picture.shape[:2]
    scale = max(height / H, width / W)
    rows, columns = max(height, round(H * scale)), max(width, round(W * scale))
    top, left = (rows - height) // 2, (columns - width) // 2
    how = how or (Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    return np.asarray(Image.fromarray(picture).resize((columns, rows), how))[top : top + height, left : left + width]
