"""The sound of a clip: whole packets as they are where MP4 holds their codec, else encoded as AAC."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import av

from core_jax import video

IN_MP4 = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")


def packets(source: str, start: float, stop: float, out: av.container.OutputContainer) -> Iterator[av.Packet | None]:
    """Adds the stream, if the source has sound, and yields None, then its packets, moved so that `start` is 0 s."""
    with video.opened(source) as (container, _):
        stream = container.streams.best("audio")
        if stream is None or stream.codec_context is None:
            yield None
            return
        copied = stream.codec_context.codec.canonical_name in IN_MP4  # a decoder has a name of its own: mp3float
        rates = av.Codec("aac", "w").audio_rates
        target = out.add_stream_from_template(stream) if copied else out.add_stream("aac", rate=min(rates, key=lambda rate: abs(rate - stream.rate)))
        yield None
        last = -math.inf
        with contextlib.suppress(av.FFmpegError):  # Matroska whose sound begins later, or never: then from the file's beginning
            container.seek(math.floor(start / stream.time_base), stream=stream)
        for packet in video.packets(container, stream):
            seconds = video.to_seconds(packet.pts, stream.time_base)
            if seconds is None or packet.dts is None or seconds < start or seconds <= last:  # after a jump MPEG-PS gives two at one time
                continue
            last = seconds
            if seconds >= stop:
                break
            if copied:
                zero = round(start / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - zero, packet.dts - zero, target
                yield packet
            else:
                yield from _encoded(packet, target, start)
        if not copied:
            yield from target.encode()


def _encoded(packet: av.Packet, target: av.AudioStream, start: float) -> Iterator[av.Packet]:
    try:
        frames = packet.decode()
    except av.error.InvalidDataError:  # reading began in the middle of it
        return
    for frame in frames:
        if frame.pts is not None:
            frame.pts = round(frame.time / frame.time_base - start / frame.time_base)
            yield from target.encode(frame)
