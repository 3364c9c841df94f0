"""A frame as the learned detector keeps it: 6 kB."""
from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    import av
    from jaxtyping import UInt8

SIZE = 64
"""Pixels a side of a thumbnail's luma; its two chroma planes have half."""
LINE = 64
"""Bytes that come from memory together."""
PLANAR = {"yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p"}


def thumbnail(y: UInt8[np.ndarray, "H W"], u: UInt8[np.ndarray, "h w"], v: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "96 64"]:
    """The 64 × 64 luma of a frame and, below it, its two 32 × 32 chroma planes side by side; the aspect ratio is given up.

    Of a large plane every so many rows are read, and of them about four pixels a cell by bilinear sampling: most of the time goes into
    reading the planes from memory.
    """
    thumb = np.empty((SIZE * 3 // 2, SIZE), np.uint8)
    for plane, out in ((y, thumb[:SIZE]), (u, thumb[SIZE:, : SIZE // 2]), (v, thumb[SIZE:, SIZE // 2 :])):
        twice = 2 * out.shape[1], 2 * out.shape[0]
        if plane.shape[0] >= twice[1] and plane.shape[1] >= twice[0]:
            step = plane.shape[0] // twice[1]
            plane = plane[step // 2 :: step]
            plane[:, ::LINE].copy()  # asks for all lines at once: the resize would wait for one after the other where all cores decode
            plane = cv2.resize(plane, twice)
        cv2.resize(plane, out.shape[::-1], out, interpolation=cv2.INTER_AREA)
    return thumb


def from_planes(frame: av.VideoFrame) -> UInt8[np.ndarray, "96 64"]:
    """The thumbnail of a decoded frame; 8-bit planar YUV, which nearly all video is, is read where it lies."""
    if frame.format.name not in PLANAR:
        frame = frame.reformat(format="yuv420p", threads=1)
    return thumbnail(*(np.ndarray((p.height, p.width), np.uint8, p, strides=(p.line_size, 1)) for p in frame.planes))
