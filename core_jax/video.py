"""The workspace's one video decoder, on PyAV (FFmpeg): streaming, in bounded memory; core_jax/video_out.py writes files.

Presentation timestamps are the truth: a frame is known by the seconds at which it is shown, as the file states them, so
variable frame rates are right by construction. Frame numbers count shown frames from 0 and stand beside the seconds.
Rotations and mirrorings that a file asks for are applied. Every codec and bit depth of FFmpeg becomes 8-bit RGB, or BGR.

Resizing is libswscale's: area averaging where a clip shrinks, bicubic where it grows, after which the centre is cut out.

A hostile file can crash a decoder, or keep it busy for ever: `core_jax.video_worker` runs these functions in processes
with limits. This module imports only numpy and av, so that such a process starts quickly.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import heapq
import io
import itertools
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np

from core_jax.video_error import Source, VideoError, explained, name

if TYPE_CHECKING:
    from jaxtyping import Float64, UInt8

MAX_PIXELS = 2**26
"""Largest frame that is decoded, in pixels (8192 × 8192); a worker process sets its own."""

SLACK = 0.1
"""Seconds, and share, by which a file may end before the time that it declares."""

AHEAD = 15.0
"""Seconds to the next frame that is wanted from which on to seek it costs less than to decode what lies between."""

LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Titles and tags in whatever encoding cost nothing; from PyAV 19 on that is so without asking."""

CONTAINERS = "asf,avi,dv,flv,gif,ivf,m4v,matroska,mov,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,webm,wtv,yuv4mpegpipe"
"""Playlists (HLS, DASH, concat) are left out: a file of theirs names other files, or addresses, for us to open."""


HDR = {16: "pq", 18: "hlg"}
"""transfer characteristics by their numbers in ITU-T H.273"""


@dataclasses.dataclass(frozen=True, eq=False)
class VideoInfo:
    """What a file holds: upright size in pixels, (H, W) as it is `shown`, in square ones, seconds at which each frame is shown, seconds from first
    frame to end, its bytes, and how its levels of light are coded, as it says: pq or hlg (HDR), or else sdr."""

    height: int
    width: int
    shown: tuple[int, int]
    seconds: Float64[np.ndarray, " T"]
    duration: float
    fps: float
    codec: str
    bytes: int
    transfer: str


def probe(source: Source) -> VideoInfo:
    """Reads all timestamps without decoding more than the first frame. Raises VideoError."""
    with opened(source) as (container, stream):
        rate = stream.average_rate
        stamps, last, length, first = [], -math.inf, 0.0, None
        for packet in packets(container, stream):
            if first is None:
                first = next(iter(packet.decode()), None)
            if not packet.size or packet.is_discard or packet.is_corrupt:
                continue
            stamps.append(to_seconds(packet.pts, stream.time_base))
            if stamps[-1] is not None and stamps[-1] > last:
                last, length = stamps[-1], to_seconds(packet.duration, stream.time_base) or 0.0
        codec, size = stream.codec_context.name, container.size
        if first is None:
            raise ValueError("holds no frame that decodes")
        height, width = upright_size(first)
        shown = upright_size(first, float(stream.sample_aspect_ratio or 1))
    if not stamps or None in stamps:  # no stamps on packets: only decoding tells them
        stamps = [seconds for seconds, *_ in _decoded(source, -math.inf)]
    seconds = np.sort(np.asarray(stamps, np.float64))
    span = seconds[-1] - seconds[0]
    length = length or (span / (len(seconds) - 1) if span else 1 / (rate or 25))
    fps = (len(seconds) - 1) / span if span else 1 / length
    return VideoInfo(height, width, shown, seconds, float(span + length), float(fps), codec, size, HDR.get(first.color_trc, "sdr"))


def decode(
    source: Source, start: float = -math.inf, stop: float = math.inf, number: int | None = None, before: bool = False
) -> Iterator[tuple[int, float, av.VideoFrame]]:
    """Yields (number, seconds, frame as decoded) for start ≤ seconds < stop; `to_rgb` makes pixels of a frame.

    A caller who knows the first frame's `number` spares us reading all timestamps for it. With `before`, the frames that are
    decoded on the way to `start` are yielded too, under the first one's number: they show who waits that work goes on.
    Raises VideoError, also in the middle, where a file breaks there.
    """
    if number is None:
        number = 0 if start == -math.inf else int(np.searchsorted(probe(source).seconds, start))
    for seconds, frame, _ in _decoded(source, start):
        if seconds >= stop:
            return
        if seconds >= start or before:
            yield number, seconds, frame
            number += seconds >= start


def frames(
    source: Source, start: float = -math.inf, stop: float = math.inf
) -> Iterator[tuple[int, float, UInt8[np.ndarray, "H W 3"]]]:
    """`decode` with upright RGB pixels, all in the size of the first frame: a stream may change its size midway."""
    size = None
    for number, seconds, frame in decode(source, start, stop):
        own = upright_size(frame)
        size = size or own
        with explained(source):
            rgb = to_rgb(frame, None if own == size else size)
        yield number, seconds, rgb


def read_clip(
    source: Source, seconds: Float64[np.ndarray, " T"], size: tuple[int, int], part: tuple[int, int, int, int] | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames shown at the ascending times `seconds`, resized to cover `size` = (H, W) and cut to it about the centre.

    A time before the first frame gives the first, one after the last the last. Only frames that are wanted are converted, and of these only
    `part` = (top, left, height, width) is kept, where it is given. Raises VideoError.
    """
    wanted = np.asarray(seconds, np.float64)
    if wanted.ndim != 1 or not len(wanted) or not np.all(np.diff(wanted) >= 0):
        raise ValueError(f"read_clip wants one time or more, in ascending order, but got {wanted.tolist()}")
    top, left, height, width = part or (0, 0, *size)
    kept = lambda frame, aspect: to_rgb(frame, size, aspect)[top : top + height, left : left + width]
    clip = np.empty((len(wanted), height, width, 3), np.uint8)
    done, last, ahead = 0, -math.inf, AHEAD
    with explained(source):
        while True:
            start, shown = wanted[done], None
            for stamp, frame, aspect in _decoded(source, start, wanted):
                until = int(np.searchsorted(wanted, stamp))
                if until > done and shown is not None:
                    clip[done:until] = kept(shown, aspect)
                    done = until
                if done == len(wanted):
                    return clip
                if shown is None and stamp <= last:
                    ahead = math.inf  # the key frame lies behind what was decoded: to seek gains nothing here
                shown, last = frame, stamp
                if wanted[done] > start and wanted[done] - stamp > ahead:
                    break
            else:
                if shown is None:
                    raise VideoError(name(source), "holds no frame that decodes")
                clip[done:] = kept(shown, aspect)
                return clip


def to_rgb(
    frame: av.VideoFrame, size: tuple[int, int] | None = None, aspect: float = 1.0
) -> UInt8[np.ndarray, "H W 3"]:
    """Upright pixels of a decoded frame; with `size` = (H, W), resized to cover it and cut about the centre.

    `aspect` is the width of one stored pixel over its height. High dynamic range is not tone-mapped.
    """
    transpose, *flips = _orientation(frame)
    if size is None:
        rgb = frame.reformat(format="rgb24", threads=1).to_ndarray()
    else:
        height, width = size[::-1] if transpose else size
        scale = max(height / frame.height, width / (frame.width * aspect))
        cover_h, cover_w = max(height, round(frame.height * scale)), max(width, round(frame.width * aspect * scale))
        kind = "AREA" if scale < 1 else "BICUBIC"
        rgb = frame.reformat(cover_w, cover_h, "rgb24", interpolation=kind, threads=1).to_ndarray()
        top, left = (cover_h - height) // 2, (cover_w - width) // 2
        rgb = rgb[top : top + height, left : left + width]
    return _upright(rgb, transpose, flips)


def upright_size(frame: av.VideoFrame, aspect: float = 1.0) -> tuple[int, int]:
    """Height and width of a decoded frame as it is shown; with the `aspect` of `to_rgb`, in square pixels."""
    width = round(frame.width * aspect)
    return (width, frame.height) if _orientation(frame)[0] else (frame.height, width)


def to_bgr(frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    """Upright pixels of a decoded frame in OpenCV's order, bit for bit what its own reader gives for 8-bit 4:2:0."""
    transpose, *flips = _orientation(frame)
    return _upright(frame.reformat(format="bgr24", threads=1).to_ndarray(), transpose, flips)


def _upright(pixels: UInt8[np.ndarray, "h w 3"], transpose: bool, flips: list[bool]) -> UInt8[np.ndarray, "H W 3"]:
    pixels = pixels.transpose(1, 0, 2) if transpose else pixels
    return np.ascontiguousarray(pixels[tuple(slice(None, None, -1 if flip else 1) for flip in flips)])


@contextlib.contextmanager
def opened(source: Source) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its main video stream, ready to decode on one thread; what goes wrong inside is a VideoError."""
    options = {
        "max_pixels": str(MAX_PIXELS),
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "file",
        "fflags": "+discardcorrupt",  # the packet in which a truncated file ends
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(explained(source))
        if isinstance(source, bytes):
            file = io.BytesIO(source)
        elif "://" in os.fspath(source):
            from etils import epath

            file = stack.enter_context(epath.Path(source).open("rb"))
        else:
            file = "file:" + os.fspath(source)
        try:
            container = stack.enter_context(av.open(file, options=options, **LENIENT))
        except av.ArgumentError as error:  # as of a picture: FFmpeg knows the format, and may not read it
            raise VideoError(name(source), "is in none of the formats that are read: " + CONTAINERS.replace(",", ", ")) from error
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise VideoError(name(source), "holds no video that FFmpeg can decode")
        context = stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            size = f"{context.width} × {context.height} pixels"
            raise VideoError(name(source), f"declares frames of {size}, where {MAX_PIXELS} in all are allowed")
        context.options, context.thread_count = options, 1
        sized = context.width * context.height > 0
        try:
            yield container, stream
        except av.ArgumentError as error:
            if sized:
                raise
            raise VideoError(name(source), f"declares frames of no size, or of more than the {MAX_PIXELS} pixels allowed") from error


def packets(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """Of some streams, or of all, to the end and one of no size.

    Where an MPEG-TS file brings a new stream midway, PyAV stumbles over that one when all is said.
    """
    with contextlib.suppress(IndexError):
        yield from container.demux(*streams)


def _decoded(
    source: Source, start: float, wanted: Float64[np.ndarray, " T"] | None = None
) -> Iterator[tuple[float, av.VideoFrame, float]]:
    """Yields (seconds, frame, pixel aspect) from a frame at or before `start`, where there is one, to the end; all of them, or as `_frames` does.

    Seeking lands on the keyframe before. An index can point too late: then once more from further back, and at last from
    the beginning.
    """
    for back in (0.0, 3.0, 30.0, math.inf):
        with opened(source) as (container, stream):
            begin = to_seconds(stream.start_time, stream.time_base) or 0.0
            trusted = start - back <= begin  # from the beginning, whatever comes first is right
            if not trusted:
                try:
                    container.seek(math.floor((start - back) / stream.time_base), stream=stream)
                except av.FFmpegError:
                    continue
            aspect = float(stream.sample_aspect_ratio or 1)
            try:
                for seconds, frame in _in_order(container, stream, wanted):
                    trusted = trusted or seconds <= start
                    if not trusted:
                        break
                    yield seconds, frame, aspect
            except av.error.InvalidDataError:  # MPEG-TS is entered anywhere: of what the codec needs to begin nothing may have come
                if trusted:
                    raise
            if trusted:
                return


def shortfall(source: Source, seconds: float) -> str | None:
    """What is wrong with a file whose frames last so long where it declares clearly more, as one that was cut short does.

    Matroska and FLV declare one length for all streams, and count it from 0 s even where they begin later: where sound lasts that long, or anything
    until then, nothing is missing.
    """
    with opened(source) as (container, stream):
        promised, all_streams = to_seconds(stream.duration, stream.time_base), ()
        if promised is None and container.duration is not None:
            promised, all_streams = container.duration / av.time_base, packets(container)
        if promised is None or seconds >= (least := promised - max(SLACK, SLACK * promised)):
            return None
        if any(packet.pts is not None and to_seconds(packet.pts, packet.time_base) >= least for packet in all_streams):
            return None
    return f"ends after {seconds:.1f} s, where {promised:.1f} s are declared"


def _frames(container, stream, wanted: Float64[np.ndarray, " T"] | None) -> Iterator[av.VideoFrame]:
    """Frames as they are decoded: all, or without many of those that are shown at none of the times `wanted`.

    A frame is shown until the next one. If one that came before it in the file, as what a B-frame leans on does, is shown between it and the next
    wanted time, it is not wanted, and the decoder leaves it out if no frame leans on it: up to half the work on the way from a key frame.
    """
    latest = {}
    for packet in packets(container, stream):
        needed = True
        if wanted is not None and packet.pts is not None and not packet.is_discard:
            stamp = to_seconds(packet.pts, stream.time_base)
            place = int(np.searchsorted(wanted, stamp))
            needed = stamp >= latest.get(place, -math.inf)
            if needed:
                latest[place] = stamp
        stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
        yield from packet.decode()


def _in_order(container, stream, wanted: Float64[np.ndarray, " T"] | None) -> Iterator[tuple[float, av.VideoFrame]]:
    """`_frames` in the order shown, each with its time.

    AVI keeps no presentation stamps, so FFmpeg guesses them a packet, in coded order: there they are put in order over a
    window as long as any codec reorders. Elsewhere they stand as they are.
    """
    window = 16 if container.format.name == "avi" else 0
    held, stamps, last, orientation = collections.deque(), [], 0.0, None
    frames = _frames(container, stream, None if window else wanted)
    for frame in itertools.chain(frames, itertools.repeat(None)):
        if frame is not None:
            if orientation is None or frame.key_frame:
                orientation = _orientation(frame)
            frame.opaque = (*orientation,)  # an object of its own: PyAV forgets one when the first frame that has it goes
            stamp = to_seconds(frame.pts if frame.pts is not None else frame.dts, stream.time_base)
            last = stamp if stamp is not None else last
            held.append(frame)
            heapq.heappush(stamps, last)
        if len(held) > window or frame is None:
            if not held:
                return
            yield heapq.heappop(stamps), held.popleft()


def to_seconds(ticks: int | None, base: Fraction) -> float | None:
    """Of a timestamp; None stays None."""
    return None if ticks is None else ticks * base.numerator / base.denominator


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """(transpose, then flip rows, flip columns) that set a frame upright, from the display matrix of its file.

    The matrix [[a, b], [c, d]] takes a stored pixel (x, y) to (a x + c y, b x + d y); only quarter turns and mirrorings
    are applied, others go to the nearest. `_in_order` keeps the answer in `opaque`: a frame and its `side_data` hold each other,
    so that a frame that was asked lives until Python collects cycles, which is hundreds of frames later.
    """
    if frame.opaque is not None:
        return frame.opaque
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    transpose = abs(b) > abs(a)
    return (transpose, b < 0, c < 0) if transpose else (False, d < 0, a < 0)
