"""One clip out of a video, in a decoding worker: pictures by `Cut`, sound as it is.

A clip is an MP4 whose first frame is shown at 0 s; rotation, colours and time between frames stay as they were.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections.abc import Generator, Iterator
from pathlib import Path

import av

from core_jax import video
from core_jax.video_out import settle
from koala_jax.shots import encode, sound, splice
from koala_jax.shots.encode import EVERY, Piece


class Cut(enum.Enum):
    """How the frames of a clip get into its file."""

    ENCODE = "encode"
    """every frame is encoded again (H.264)"""
    LOSSLESS = "lossless"
    """groups of pictures that lie wholly in the clip are copied, the frames around them encoded; `encode` where that cannot be"""


def partial_path(path: str) -> Path:
    """Where a clip is written before it gets its name."""
    return Path(path).with_name(f".{Path(path).name}.partial")


def cut(source: str, piece: Piece, path: str, how: Cut, crf: int) -> Generator[None, None, int]:
    """Writes a clip, under a temporary name until it is whole. Reports that work goes on, returns how many frames were copied.

    Raises VideoError: the source breaks, or the clip cannot be written; there is no file then.
    """
    partial = partial_path(path)
    try:
        plan = splice.plan(source, piece.start, piece.stop) if how is Cut.LOSSLESS else None
        partial.parent.mkdir(parents=True, exist_ok=True)
        yield from _write(source, piece, partial, plan, crf)
        if plan and (yield from _frames(partial)) != piece.frames:  # a stream that is not what it says
            plan = None
            yield from _write(source, piece, partial, plan, crf)
        settle(partial, path)
        return len(plan.shown) if plan else 0
    except (OSError, av.FFmpegError) as error:  # VideoErrors are told already
        raise video.VideoError(source, f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _write(source: str, piece: Piece, path: Path, plan: splice.Plan | None, crf: int) -> Iterator[None]:
    with av.open(f"file:{path}", "w", format="mp4") as out:
        pictures = splice.packets(source, piece, plan, out, crf) if plan else encode.packets(source, piece, out, crf)
        sounds = sound.packets(source, piece.start, piece.stop, out)
        pictures = encode.lasting(pictures, piece)
        for first in pictures:  # with it its stream is there; the sound's must be, too, before anything is written
            if first is not None:
                break
            yield
        next(sounds)
        at = lambda packet: -math.inf if packet is None else packet.dts * packet.time_base
        for written, packet in enumerate(heapq.merge(itertools.chain([first], pictures), sounds, key=at)):
            if packet is not None:
                out.mux(packet)
            if packet is None or written % EVERY == 0:
                yield


def _frames(path: Path) -> Generator[None, None, int]:
    number = 0
    for number, _ in enumerate(video.decode(path), 1):
        if number % EVERY == 0:
            yield
    return number
