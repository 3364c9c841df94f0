"""Frames of a clip to H.264 packets, on one thread: as many processes encode as there are cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np

from core_jax import video
from core_jax.video_out import SMPTE170M

PRESET = "veryfast"
ALIKE = "cpu-independent=1"
"""without it x264's code for AVX-512 codes the same frames otherwise now and then, so that a clip that is cut again is another one"""
DEEP = "yuv420p10le"
FIELDS = {2: "tff=1", 3: "bff=1", 4: "bff=1", 5: "tff=1"}
"""FFmpeg's order of fields to x264's: which of the two is shown first"""


@dataclasses.dataclass(frozen=True)
class Piece:
    """What to cut: frames with `start` ≤ seconds < `stop`, `frames` in number."""

    start: float
    stop: float
    frames: int

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        return Fraction(self.frames / (self.stop - self.start)).limit_denominator(1001)


EVERY = 64
"""frames, or packets, between two reports"""


def packets(source: str, piece: Piece, out: av.container.OutputContainer, crf: int) -> Iterator[av.Packet | None]:
    """Adds the stream, then yields its packets, from 0 s on; None while there is none yet. Raises VideoError."""
    stream, number, last = None, 0, -1
    for shown in decoded(source, piece.start, piece.stop):
        if shown is None:
            yield None
            continue
        seconds, frame = shown
        if stream is None:
            stream = out.add_stream("libx264", rate=piece.rate)
            configure(stream.codec_context, source, frame, crf)
            matrix = frame.side_data.get("DISPLAYMATRIX")
            if matrix is not None:
                stream.set_display_matrix(np.frombuffer(bytes(matrix), np.int32).tolist())
        number += 1
        frame = prepared(frame, stream.codec_context, seconds - piece.start)
        frame.pts = last = max(frame.pts, last + 1)  # files show two frames at one time, which no encoder takes
        if 1 < number == piece.frames - 1:  # so that the last frame is the last packet, see `lasting`
            frame.pict_type = av.video.frame.PictureType.P
        yield from stream.encode(frame)
        if number == piece.frames:  # the next one may be where the file breaks
            break
    if number != piece.frames:
        raise video.VideoError(source, f"gave {number} frames from {piece.start:.3f} s on, where {piece.frames} were seen before")
    yield from stream.encode()


def lasting(packets: Iterator[av.Packet | None], piece: Piece) -> Iterator[av.Packet | None]:
    """The packets, the last of which lasts until `stop`, which no encoder says; an MP4 counts a frame from when it is decoded to when the next one is."""
    held, begin, latest = None, 0, 0
    for packet in packets:
        if packet is not None and held is None:
            begin = packet.dts
        elif packet is not None:
            yield held
        else:
            yield None
            continue
        held, latest = packet, max(latest, packet.pts)
    if held.pts == latest:  # but for B-frames at the end of what is copied
        held.dts = max(held.dts, begin + latest)
    held.duration = max(round((piece.stop - piece.start) / held.time_base) - (held.dts - begin), 1)
    yield held


def decoded(source: str, start: float, stop: float) -> Iterator[tuple[float, av.VideoFrame] | None]:
    """Frames with start ≤ seconds < stop, and None for each `EVERY` frames between the key frame and `start`."""
    before = 0
    for _, seconds, frame in video.decode(source, start, stop, 0, True):
        before += seconds < start
        if seconds >= start:
            yield seconds, frame
        elif before % EVERY == 0:
            yield None


def configure(context: av.VideoCodecContext, source: str, frame: av.VideoFrame, crf: int, *parameters: str) -> None:
    """Size (even, as 4:2:0 wants: a last row or column goes), depth, colours and clock of the first frame, and what frames do not tell: the source's aspect of a pixel and the
    order of its fields; with further parameters of x264."""
    with video.opened(source) as (_, stream):
        context.sample_aspect_ratio = stream.sample_aspect_ratio or Fraction(0)
        order = int(stream.codec_context.field_order)
    context.width, context.height = frame.width - frame.width % 2 or 2, frame.height - frame.height % 2 or 2
    if frame.interlaced_frame and context.height % 4 == 0:  # x264 takes no other
        parameters = *parameters, FIELDS.get(order, "interlaced=1")
    context.pix_fmt = DEEP if max(part.bits for part in frame.format.components) > 8 else "yuv420p"
    context.time_base, context.thread_count = frame.time_base, 1
    context.color_primaries, context.color_trc, context.colorspace = frame.color_primaries, frame.color_trc, frame.colorspace
    context.color_range = frame.color_range
    if frame.format.is_rgb:  # which becomes YUV by libswscale's matrix, BT.601; its own tag is for 4:4:4 alone
        context.colorspace = SMPTE170M
    context.options = {"crf": str(crf), "preset": PRESET, "x264-params": ":".join((ALIKE, *parameters))}


def prepared(frame: av.VideoFrame, context: av.VideoCodecContext, seconds: float) -> av.VideoFrame:
    """The frame as the encoder wants it, shown at `seconds`."""
    duration, time_base = frame.duration, frame.time_base
    if (frame.width, frame.height, frame.format.name) != (context.width, context.height, context.pix_fmt):
        uneven = (frame.width - context.width, frame.height - context.height) in ((0, 1), (1, 0), (1, 1))
        size = (frame.width, frame.height) if uneven else (context.width, context.height)
        frame = frame.reformat(*size, context.pix_fmt, threads=1)
        frame = _cropped(frame, context.width, context.height) if uneven else frame
    frame.pict_type = av.video.frame.PictureType.NONE
    frame.pts, frame.time_base, frame.duration = round(seconds / time_base), time_base, duration
    return frame


def _cropped(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """Without what is right of `width` and below `height`: what is resized to one pixel less is blurred."""
    out = av.VideoFrame(width, height, frame.format.name)
    for whole, part in zip(frame.planes, out.planes):
        pixels = np.frombuffer(whole, np.uint8).reshape(-1, whole.line_size)
        kept = np.frombuffer(part, np.uint8).reshape(-1, part.line_size)
        columns = part.width * (1 if frame.format.components[0].bits == 8 else 2)
        kept[: part.height, :columns] = pixels[: part.height, :columns]
    return out
