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
import operator
from collections.abc import Iterator

import av

from core_jax import video
from koala_jax.shots import encode
from koala_jax.shots.encode import Piece

PARAMETER_SETS = "sps-id=23:annexb=0:repeat-headers=1:bframes=0:force-cfr=0"
IDR = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """Copy what is shown from `first` up to `last`: at the ascending ticks `shown`, with decoding ahead of showing by `delay` of them."""

    first: float
    last: float
    shown: list[int]
    delay: int


def plan(source: str, start: float, stop: float) -> Plan | None:
    """None where nothing can be copied."""
    with video.opened(source) as (container, stream):
        context = stream.codec_context
        header = context.extradata or b""
        if context.name != "h264" or context.pix_fmt != "yuv420p" or len(header) < 5 or header[0] != 1 or header[4] & 3 != 3:
            return None
        first = last = None
        coded, begin, end = [], 0, 0
        for packet, seconds in _demuxed(container, stream, start):
            if packet.is_discard or packet.is_corrupt:
                return None
            idr = packet.is_keyframe and _holds_idr(packet)
            if idr and first is None and seconds >= start:
                first, begin = seconds, len(coded)
            if idr and first is not None and seconds <= stop:
                last, end = seconds, len(coded)
            if seconds >= stop and (idr or packet.dts is not None and packet.dts * stream.time_base > stop):
                break
            coded.append(packet.pts)
        else:
            if first is not None and video.to_seconds(max(coded), stream.time_base) < stop:
                last, end = math.inf, len(coded)
        if begin >= end or len(set(coded)) < len(coded):  # no encoder takes two frames at one time as they are
            return None
        shown = sorted(coded[begin:end])
        return Plan(first, last, shown, max(map(operator.sub, shown, coded[begin:end])))


def packets(source: str, piece: Piece, plan: Plan, out: av.container.OutputContainer, crf: int) -> Iterator[av.Packet | None]:
    """Adds the stream, then yields its packets, from 0 s on; None while there is none yet."""
    with video.opened(source) as (container, stream):
        target, zero = out.add_stream_from_template(stream), round(piece.start / stream.time_base)
        parts = [_encoded(source, piece.start, plan.first, plan, piece, crf), _copied(container, stream, plan, zero)]
        parts.append(_encoded(source, plan.last, piece.stop, plan, piece, crf))
        for packet in itertools.chain(*parts):
            if packet is not None:
                packet.stream = target
            yield packet


def _copied(container, stream, plan: Plan, zero: int) -> Iterator[av.Packet]:
    """Decoding times are made anew: Matroska has none, and those of a variable rate run ahead by more here and less there, which no seam takes."""
    begun = itertools.dropwhile(lambda one: one[1] != plan.first, _demuxed(container, stream, plan.first))
    for (packet, _), shown in zip(begun, plan.shown):
        packet.pts, packet.dts = packet.pts - zero, shown - plan.delay - zero
        yield packet


def _encoded(source: str, start: float, stop: float, plan: Plan, piece: Piece, crf: int) -> Iterator[av.Packet | None]:
    context = None
    for shown in encode.decoded(source, start, stop) if start < stop else ():
        if shown is None:
            yield None
            continue
        seconds, frame = shown
        if context is None:
            context = av.CodecContext.create("libx264", "w")
            context.framerate = piece.rate
            encode.configure(context, source, frame, crf, PARAMETER_SETS)
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
        if packet.pts is not None and packet.size:
            yield packet, video.to_seconds(packet.pts, stream.time_base)


def _holds_idr(packet: av.Packet) -> bool:
    data, at = bytes(packet), 0
    while at + 4 < len(data):
        if data[at + 4] & 31 == IDR:
            return True
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return False
