"""Lossless clips: whole groups of pictures are copied, the frames before and after them are encoded.

A group that begins with an IDR picture needs nothing that stands before it, so a clip is

    encoded [start, first IDR) · copied [first IDR, last IDR) · encoded [last IDR, stop)

The encoded parts carry parameter sets of their own, under an id that encoders do not use, beside the source's, which the file's
header keeps. Only H.264 with 4-byte lengths (MP4, Matroska, FLV) is spliced, at 8 bits 4:2:0.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import av

from core_jax import video
from koala_jax.shots import encode
from koala_jax.shots.encode import Piece

PARAMETER_SETS = "sps-id=23:annexb=0:repeat-headers=1:bframes=0:force-cfr=0"
IDR = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """Copy what is shown from `first` up to `last`; `delay` is by how much decoding runs ahead of it, in ticks."""

    first: float
    last: float
    delay: int
    copied: int
    """frames"""


def plan(source: str, start: float, stop: float) -> Plan | None:
    """None where nothing can be copied."""
    with video.opened(source) as (container, stream):
        context = stream.codec_context
        header = context.extradata or b""
        if context.name != "h264" or context.pix_fmt != "yuv420p" or len(header) < 5 or header[0] != 1 or header[4] & 3 != 3:
            return None
        first = last = delay = None
        counted = copied = 0
        for packet, seconds in _demuxed(container, stream, start):
            if packet.is_discard or packet.is_corrupt:
                return None
            idr = packet.is_keyframe and _holds_idr(packet)
            if idr and first is None and seconds >= start:
                first, delay = seconds, packet.pts - packet.dts
            if idr and first is not None and seconds <= stop:
                last, copied = seconds, counted
            if seconds >= stop and (idr or packet.dts * stream.time_base > stop):
                break
            counted += first is not None
        else:
            last, copied = math.inf, counted
        return Plan(first, last, delay, copied) if first is not None and copied else None


def packets(source: str, piece: Piece, plan: Plan, out: av.container.OutputContainer, crf: int) -> Iterator[av.Packet | None]:
    """Adds the stream and yields None, then its packets, from 0 s on."""
    with video.opened(source) as (container, stream):
        target, zero = out.add_stream_from_template(stream), round(piece.start / stream.time_base)
        yield None
        parts = [_encoded(source, piece.start, plan.first, plan, piece, crf), _copied(container, stream, plan, zero)]
        parts.append(_encoded(source, plan.last, piece.stop, plan, piece, crf))
        for packet in itertools.chain(*parts):
            packet.stream = target
            yield packet


def _copied(container, stream, plan: Plan, zero: int) -> Iterator[av.Packet]:
    begun = False
    for packet, seconds in _demuxed(container, stream, plan.first):
        begun = begun or seconds == plan.first
        if begun and packet.is_keyframe and seconds == plan.last:
            return
        if begun:
            packet.pts, packet.dts = packet.pts - zero, packet.dts - zero
            yield packet


def _encoded(source: str, start: float, stop: float, plan: Plan, piece: Piece, crf: int) -> Iterator[av.Packet]:
    context = None
    for _, seconds, frame in video.decode(source, start, stop, 0) if start < stop else ():
        if context is None:
            context = av.CodecContext.create("libx264", "w")
            context.framerate = piece.rate
            encode.configure(context, frame, crf, **{"x264-params": PARAMETER_SETS})
        yield from _shifted(context.encode(encode.prepared(frame, context, seconds - piece.start)), plan.delay)
    if context is not None:
        yield from _shifted(context.encode(), plan.delay)


def _shifted(packets: list[av.Packet], delay: int) -> Iterator[av.Packet]:
    """Without B-frames decoding could follow showing; it must run ahead as it does in what is copied."""
    for packet in packets:
        packet.dts = packet.pts - delay
        yield packet


def _demuxed(container, stream, start: float) -> Iterator[tuple[av.Packet, float]]:
    """Packets with their seconds, from a key frame at or before `start`."""
    container.seek(math.floor(start / stream.time_base), stream=stream)
    for packet in video.packets(container, stream):
        if packet.pts is not None and packet.dts is not None and packet.size:
            yield packet, video.to_seconds(packet.pts, stream.time_base)


def _holds_idr(packet: av.Packet) -> bool:
    data, at = bytes(packet), 0
    while at + 4 < len(data):
        if data[at + 4] & 31 == IDR:
            return True
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return False
