"""Writing video files, each whole or not at all. As core_jax/video.py it imports only numpy and av, so that a process starts quickly."""

from __future__ import annotations

import glob
import itertools
import os
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import UInt8


SMPTE170M = 6
"""AVCOL_SPC_SMPTE170M, the matrix of BT.601, by which libswscale makes YUV of RGB"""


def write_video(path: str | os.PathLike, frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float) -> None:
    """Writes an MP4, H.264 where the encoder is there and MPEG-4 where not, whole or not at all.

    The encoders want even sizes: an odd one is padded by repeating its last row or column.

    Args:
      frames: all of one size; an array, or one after the other, of which only one is kept.
    """
    if "://" in os.fspath(path):  # an encoder goes back to write the head, which no object store allows
        from etils import epath

        with tempfile.TemporaryDirectory() as folder:
            write_video(local := Path(folder) / "video.mp4", frames, fps)
            epath.Path(path).write_bytes(local.read_bytes())
        return
    frames = iter(frames)
    first = next(frames, np.zeros(0))
    if first.ndim != 3 or first.shape[-1] != 3 or first.dtype != np.uint8 or not first.size:
        raise ValueError(f"write_video wants uint8 frames [H, W, 3], at least one, but got {first.dtype} {list(first.shape)}")
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    height, width, _ = first.shape
    pad = (0, height % 2), (0, width % 2), (0, 0)
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    try:
        with av.open(f"file:{partial}", "w", format="mp4") as container:  # else what stands before a colon is a protocol to FFmpeg
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(60000))
            stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
            stream.codec_context.colorspace, stream.codec_context.color_range = SMPTE170M, 1  # players take BT.709 for what is untagged and large
            # without cpu-independent x264's code for AVX-512 codes the same frames otherwise now and then
            stream.options = {"crf": "18", "x264-params": "cpu-independent=1"} if codec == "libx264" else {"qscale": "3"}
            for image in itertools.chain([first], frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.pad(image, pad, "edge"), "rgb24")))
            container.mux(stream.encode())
        settle(partial, path)
    except av.FFmpegError as error:  # which does not say where
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Removes what writers of this file that were killed have left beside it."""
    for partial in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        process = partial.name.split(".")[-2]
        if process.isdigit() and not _runs(int(process)):
            partial.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 asks alone
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def settle(partial: Path, path: str | os.PathLike) -> None:
    """Gives a file its name once all of it is on the disk, as core_jax.files.write_bytes does."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
