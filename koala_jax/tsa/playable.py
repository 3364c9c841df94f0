"""Clips as any browser plays them: as they are, or by a copy."""
import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from etils import epath
from jaxtyping import UInt8

from core_jax import video
from core_jax.files import existing
from core_jax.video_out import write_video
from core_jax.video_worker import DecodePool

CONTAINERS, CODECS, PIXELS = (".mp4", ".mov", ".webm"), ("h264", "vp8", "vp9", "av1"), ("yuv420p", "yuvj420p")
"""what is played as it is: 8 bits, colour at half the resolution"""
SECONDS = 600
"""that a copy may take"""


def plays(source: str) -> bool:
    """Whether any browser plays a video. Raises VideoError."""
    with video.opened(source) as (_, stream):
        context = stream.codec_context
        return Path(source).suffix.lower() in CONTAINERS and context.codec.canonical_name in CODECS and context.pix_fmt in PIXELS


def copy(source: str, path: str) -> None:
    """Writes a video anew, H.264 in MP4, without its sound, in square pixels and at its mean rate. Raises VideoError."""
    info = video.probe(source)
    with video.opened(source) as (_, stream):
        aspect = float(stream.sample_aspect_ratio or 1)
    write_video(path, _steady(source, info, aspect), info.fps)


def _steady(source: str, info: video.VideoInfo, aspect: float) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    """The frames shown in the middle of each place at a constant rate, all in one size."""
    places = info.seconds[0] + (np.arange(max(round(info.duration * info.fps), 1)) + 0.5) / info.fps
    done, shown = 0, None
    for _, seconds, frame in video.decode(source):
        until, pixels = int(np.searchsorted(places, seconds)), video.to_rgb(frame, info.shown, aspect)
        yield from itertools.repeat(pixels if shown is None else shown, until - done)
        done, shown = max(done, until), pixels
    yield from itertools.repeat(shown, len(places) - done)


class Playable:
    """The file that a browser is given for a clip. Copies are made when first asked for, and go with the context."""

    def __enter__(self) -> "Playable":
        self.folder, self.pool, self.lock = tempfile.TemporaryDirectory(), DecodePool(1, seconds=SECONDS), threading.Lock()
        self.known: dict[str, epath.Path] = {}
        return self

    def __exit__(self, *exc) -> None:
        self.pool.close()
        self.folder.cleanup()

    def __call__(self, clip: epath.Path) -> epath.Path:
        """Raises ValueError: it is not there, or cannot be decoded."""
        source = os.fspath(existing(clip))
        with self.lock:  # a browser asks for parts of a clip at once
            if source not in self.known:
                self.known[source] = clip if self.pool.run(plays, source) else self._copied(source)
            return self.known[source]

    def _copied(self, source: str) -> epath.Path:
        path = epath.Path(self.folder.name) / f"{len(self.known)}.mp4"
        self.pool.run(copy, source, str(path))
        return path
