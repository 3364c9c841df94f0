"""One clip out of a video, in a decoding worker: pictures by `Cut`, sound as it is.

A clip is an MP4 whose first frame is shown at 0 s; rotation, colours and time between frames stay as they were.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Generator, Iterator
from pathlib import Path

import av

from core_jax import video
from core_jax.video_out import settle
from koala_jax.shots import encode, sound, splice
from koala_jax.shots.encode import Piece


class Cut(enum.Enum):
    """How the frames of a clip get into its file."""

    ENCODE = "encode"
    """every frame is encoded again (H.264)"""
    LOSSLESS = "lossless"
    """groups of pictures that lie wholly in the clip are copied, the frames around them encoded; `encode` where that cannot be"""


EVERY = 64
"""packets between two reports"""


def partial_path(path: str) -> Path:
    """Where a clip is written before it gets its name."""
    return Path(path).with_name(f".{Path(path).name}.partial")


def cut(source: str, piece: Piece, path: str, how: Cut, crf: int) -> Generator[int, None, int]:
    """Writes a clip, under a temporary name until it is whole. Reports packets written, returns how many frames were copied.

    Raises VideoError: the source breaks, or the clip cannot be written; there is no file then.
    """
    partial = partial_path(path)
    try:
        plan = splice.plan(source, piece.start, piece.stop) if how is Cut.LOSSLESS else None
        partial.parent.mkdir(parents=True, exist_ok=True)
        yield from _write(source, piece, partial, plan, crf)
        if plan and _frames(partial) != piece.frames:  # a stream that is not what it says
            plan = None
            yield from _write(source, piece, partial, plan, crf)
        settle(partial, path)
        return len(plan.shown) if plan else 0
    except (OSError, av.FFmpegError) as error:  # VideoErrors are told already
        raise video.VideoError(source, f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write(source: str, piece: Piece, path: Path, plan: splice.Plan | None, crf: int) -> Iterator[int]:
    with av.open(f"file:{path}", "w", format="mp4") as out:
        pictures = splice.packets(source, piece, plan, out, crf) if plan else encode.packets(source, piece, out, crf)
        sounds = sound.packets(source, piece.start, piece.stop, out)
        next(pictures), next(sounds)  # both add their streams before the first packet is written
        for written, packet in enumerate(heapq.merge(pictures, sounds, key=lambda packet: packet.dts * packet.time_base)):
            out.mux(packet)
            if written % EVERY == 0:
                yield written


def _frames(path: Path) -> int:
    return sum(1 for _ in video.decode(path))
