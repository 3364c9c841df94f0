"""Whose fault it is that a video cannot be read, and patience where it is not the video's."""
import errno
import io
import itertools
import logging
import time

import av
import pytest
from etils import epath

from core_jax import video, video_error
from core_jax.video_error import Unread, VideoError, explained, patiently
from core_jax.video_worker import DecodePool
from tests.core.video_files import make, unread_once


class HttpError(Exception):
    """As gcsfs', which is no OSError."""


class Breaks(io.BytesIO):
    """An object of a store that answers 503 from its middle on."""

    def read(self, size=-1):
        if self.tell() > 100:
            raise HttpError("503")
        return super().read(min(size, 200) if size > 0 else 200)


def raised(error, source="gs://bucket/a.mp4"):
    with pytest.raises(VideoError) as caught, explained(source):
        raise error
    return caught.value


@pytest.mark.parametrize("error", [TimeoutError(), OSError(5, "Input/output error"), HttpError("503"), PermissionError(13, "Permission denied")])
def test_what_a_store_fails_at_is_not_the_videos_fault(error):
    assert type(raised(error)) is Unread


def test_what_is_wrong_with_a_video_stays_its_fault(tmp_path):
    (tmp_path / "a.mp4").write_text("text")
    for error, source in (
        (FileNotFoundError(2, "gone"), "gs://bucket/a.mp4"), (ValueError("no"), "gs://bucket/a.mp4"), (av.error.InvalidDataError(1, "no"), "gs://bucket/a.mp4"),
        (av.error.OSError(errno.EIO, "of a file that is cut short"), str(tmp_path / "a.mp4")), (av.error.OSError(errno.EIO, "likewise"), b"text"),
        (av.error.FileNotFoundError(errno.ENOENT, "gone"), "a.mp4"), (av.error.PermissionError(errno.EACCES, "not ours"), "a.mp4"),
    ):  # fmt: skip
        assert type(raised(error, source)) is VideoError
    for error in (MemoryError(), ImportError("gcsfs")):
        with pytest.raises(type(error)), explained("gs://bucket/a.mp4"):
            raise error
    with pytest.raises(KeyError), explained("a.mp4"):
        raise KeyError


def test_an_empty_file_is_called_so(tmp_path):
    (tmp_path / "a.mp4").touch()
    for source in (tmp_path / "a.mp4", b""):
        with pytest.raises(VideoError, match="a.mp4|in memory") as caught:
            video.probe(source)
        assert caught.value.reason == "is an empty file"


def test_what_a_disk_or_the_system_fails_at_is_not_the_videos_fault(tmp_path):
    for number in (errno.EMFILE, errno.ESTALE, errno.ETIMEDOUT):
        assert type(raised(av.error.OSError(number, "says the system"), "a.mp4")) is Unread
    assert type(raised(av.error.OSError(errno.EIO, "a disk"), str(tmp_path / "unreadable.mp4"))) is Unread


def test_a_store_that_fails_in_the_middle_of_a_video_does_not_cut_it_short(tmp_path, monkeypatch):
    whole = make(tmp_path / "a.mp4").read_bytes()
    monkeypatch.setattr(epath, "Path", lambda path: type("Path", (), {"open": lambda self, mode: Breaks(whole)})())
    with pytest.raises(Unread, match="gs://bucket/a.mp4: cannot be read: HttpError"):
        video.probe("gs://bucket/a.mp4")


def test_it_is_tried_again_after_growing_pauses_and_for_a_minute(monkeypatch, caplog):
    clock, slept = itertools.count(), []
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(time, "sleep", slept.append)

    def fails():
        next(clock)
        raise Unread("gs://bucket/a.mp4", "503")

    with caplog.at_level(logging.WARNING), pytest.raises(Unread, match=r"^gs://bucket/a.mp4: 503 \(tried for 60 s\)$"):
        patiently(fails)
    assert slept == sorted(slept) and len(slept) == next(clock) - 1 and 50 < sum(slept) <= 60 and max(slept) == video_error.LONGEST_PAUSE
    assert [record.getMessage() for record in caplog.records] == ["gs://bucket/a.mp4: 503; it is tried again for up to 60 s"]


def test_a_pool_has_patience(tmp_path):
    with DecodePool(1) as pool:
        assert pool.run(unread_once, str(tmp_path / "tried")) == 2
