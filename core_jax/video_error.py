"""What a video that cannot be read raises, and patience where the fault is not the video's but that of a disk, a store or the system."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import av

Source = str | os.PathLike | bytes
"""A path, or a whole file in memory."""

Value = TypeVar("Value")

AWAY = {errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EHOSTDOWN, errno.EREMOTEIO}
"""what the system says where it, or a disk in the network, is at fault and no file"""
PATIENCE = 60
"""seconds for which bytes that cannot be read are asked for again"""
LONGEST_PAUSE = 5
"""seconds between two tries, at most"""

log = logging.getLogger(__name__)


class VideoError(ValueError):
    """A video that cannot be read; `path` and `reason` say which and why."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Unread(VideoError):
    """Its bytes could not be read: it says nothing about the video, and may be over soon."""


def patiently(read: Callable[[], Value]) -> Value:
    """read(), tried again after growing pauses for up to PATIENCE seconds while it raises Unread, which then is raised."""
    until, pause = time.monotonic() + PATIENCE, 0.5
    while True:
        try:
            return read()
        except Unread as error:
            if time.monotonic() + pause > until:
                raise Unread(error.path, f"{error.reason} (tried for {PATIENCE} s)") from error
            if pause == 0.5:
                log.warning("%s; it is tried again for up to %d s", error, PATIENCE)
        time.sleep(pause)
        pause = min(1.5 * pause, LONGEST_PAUSE)


@contextlib.contextmanager
def explained(source: Source) -> Iterator[None]:
    """Turns what FFmpeg, PyAV and a store raise for a bad file into a VideoError; Unread where the bytes could not be read."""
    try:
        yield
    except VideoError:
        raise
    except av.FFmpegError as error:
        away = error.errno in AWAY or error.errno == errno.EIO and not _reads(source)  # FFmpeg says EIO of some files that are cut short, too
        reason = "is an empty file" if _empty(source) else f"FFmpeg says: {error.strerror}"  # which of one says what it says of text
        raise (Unread if away else VideoError)(name(source), reason) from error
    except FileNotFoundError as error:
        raise VideoError(name(source), f"cannot be read: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:
        raise VideoError(name(source), str(error)) from error
    except (MemoryError, ImportError):
        raise
    except Exception as error:
        if not isinstance(error, OSError) and "://" not in name(source):
            raise
        raise Unread(name(source), f"cannot be read: {getattr(error, 'strerror', None) or error!r}") from error  # gcsfs' errors have kinds of their own


def _empty(source: Source) -> bool:
    """Whether it has no bytes; of an object in a store that is not asked."""
    if isinstance(source, bytes):
        return not source
    try:
        return "://" not in name(source) and not os.stat(source).st_size
    except OSError:
        return False


def _reads(source: Source) -> bool:
    """Whether a file can be read to its end, whatever it holds."""
    if isinstance(source, bytes) or "://" in name(source):  # what a store fails at has another kind
        return True
    try:
        with open(source, "rb") as file:
            while file.read(2**20):
                pass
    except OSError:
        return False
    return True


def name(source: Source) -> str:
    """How messages call a source."""
    return "video in memory" if isinstance(source, bytes) else str(source)
