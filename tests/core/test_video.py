"""The decoder: what it reads, by which clock, and what a bad file costs."""
import gc
import math
import os
import pathlib
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest
from etils import epath
from PIL import Image

from core_jax import video
from core_jax.cli import sentence
from core_jax.video_out import write_video
from core_jax.video_worker import DecodePool
from tests.core.video_files import level, make, numbers, picture, sound

ENCODERS = {
    "a.mp4": {"codec": "libx264"},
    "b.mkv": {"codec": "libx264", "bf": 3},
    "c.webm": {"codec": "libvpx-vp9"},
    "d.avi": {"codec": "mpeg4", "bf": 2},
    "e.avi": {"codec": "libx264"},  # B-frames in AVI: the stamps come out of order
    "f.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "g.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le", "x265_params": "log-level=none"},
    "h.webm": {"codec": "libvpx", "auto_alt_ref": 1, "lag_in_frames": 8},
    "i.mp4": {"codec": "mpeg4"},
    "j.m2v": {"codec": "mpeg2video", "bf": 2},  # a bare stream
    "k.y4m": {"codec": "wrapped_avframe"},
}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_codec_gives_each_frame_at_its_time(name, tmp_path):
    options = ENCODERS[name]
    if options["codec"] not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {options['codec']}")
    path = make(tmp_path / name, **options)
    info = video.probe(path)
    assert (info.height, info.width, len(info.seconds)) == (48, 64, 20)
    assert info.duration == pytest.approx(0.8, abs=2e-3) and info.fps == pytest.approx(25, rel=2e-3)
    got = list(video.frames(path))
    assert [n for n, _, _ in got] == list(range(20))
    np.testing.assert_array_equal([s for _, s, _ in got], info.seconds)
    assert numbers(np.stack([rgb for _, _, rgb in got])) == list(range(20))
    # and after seeking into the middle of a group of pictures
    tail = list(video.frames(path, info.seconds[15], info.seconds[18]))
    assert [n for n, _, _ in tail] == [15, 16, 17] == numbers(np.stack([rgb for _, _, rgb in tail]))
    places = info.seconds[0] + (np.array([9, 10, 10, 13]) + 0.5) / 25
    assert numbers(video.read_clip(path, places, (24, 32))) == [9, 10, 10, 13]


@pytest.mark.parametrize("said, transfer", [("smpte2084", "pq"), ("arib-std-b67", "hlg"), ("bt709", "sdr")])
def test_how_levels_of_light_are_coded_is_what_the_file_says(said, transfer, tmp_path):
    assert video.probe(make(tmp_path / "a.mp4", 3, x264_params=f"transfer={said}")).transfer == transfer


def test_a_variable_rate_is_read_by_its_timestamps(tmp_path):
    stamps = [0, 40, 80, 500, 540, 1000]
    path = make(tmp_path / "vfr.mp4", 6, stamps=stamps)
    info = video.probe(path)
    np.testing.assert_allclose(info.seconds, np.array(stamps) / 1000, atol=1e-6)
    times = [-1.0, 0.0, 0.039, 0.041, 0.3, 0.499, 0.501, 0.9, 1.2, 5.0]
    assert numbers(video.read_clip(path, times, (48, 64))) == [0, 0, 0, 1, 2, 2, 3, 4, 5, 5]


@pytest.mark.parametrize(
    "rotate, corner", [((90, False), (1, 0)), ((-90, False), (0, 1)), ((180, False), (1, 1)), ((0, True), (0, 1))]
)
def test_a_rotation_flag_sets_frames_upright(rotate, corner, tmp_path):
    """`corner` is where the patch of the upper left goes: (lower, right)."""
    path = make(tmp_path / "turned.mp4", 2, rotate=rotate)
    size = (64, 48) if abs(rotate[0]) == 90 else (48, 64)
    info = video.probe(path)
    assert (info.height, info.width) == size
    (_, _, whole), *_ = video.frames(path)
    small = video.read_clip(path, [0.0], (size[0] // 2, size[1] // 2))[0]
    for image in (whole, small):
        h, w, _ = image.shape
        assert image.shape[0] * size[1] == image.shape[1] * size[0]
        red = image[..., 0].astype(int) - image[..., 1] > 100
        lower, right = np.argwhere(red).mean(0) > np.array([h, w]) / 2
        assert (lower, right) == corner and 0.04 < red.mean() < 0.09


def test_a_clip_covers_its_size_and_keeps_the_centre(tmp_path):
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, :32, 0], image[:, 32:64, 1], image[:, 64:, 2] = 200, 200, 200
    path = make(tmp_path / "bars.mp4", [image] * 3)
    square = video.read_clip(path, [0.0], (16, 16))[0]
    assert (square[..., 1] > 100).mean() > 0.8  # the middle bar alone
    wide = video.read_clip(path, [0.0], (64, 192))[0]  # larger than stored
    assert wide.shape == (64, 192, 3) and wide[32, 20, 0] > 150 and wide[32, 180, 2] > 150
    np.testing.assert_array_equal(video.read_clip(path, [0.0], (64, 192), (10, 50, 30, 40))[0], wide[10:40, 50:90])
    path = make(tmp_path / "narrow.mp4", [image] * 3, pixel=(1, 3))  # pixels three times as high as wide: 1:1 as shown
    square = video.read_clip(path, [0.0], (16, 16))[0]
    assert [(square[..., c] > 100).mean() for c in range(3)] == pytest.approx([1 / 3] * 3, abs=0.1)


@pytest.mark.parametrize(
    "name, options, most",
    [
        ("often.mp4", {}, 14), ("often.ts", {}, 28), ("once.mp4", {"x264_params": "keyint=250:min-keyint=250:scenecut=0"}, 36),
        ("uneven.mkv", {"stamps": [1000 * k + 300 * (k % 3) for k in range(25)]}, 20),
    ],
)  # fmt: skip
def test_what_lies_far_ahead_is_sought_and_the_same(name, options, most, tmp_path, monkeypatch):
    """A key frame every six seconds, or only one, where to seek gains nothing: then it is tried once."""
    path, decoded, inside = make(tmp_path / name, 25, fps=1, **options), [], video._decoded

    def counted(*given):
        for one in inside(*given):
            decoded.append(one[0])
            yield one

    monkeypatch.setattr(video, "_decoded", counted)
    begin = video.probe(path).seconds[0]
    times = [np.array([0.5, 8.5, 16.5, 24.6]), *(np.sort(np.random.default_rng(seed).uniform(-2, 30, 6)) for seed in range(10))]
    for number, wanted in enumerate(times):
        decoded.clear()
        monkeypatch.setattr(video, "AHEAD", 3.0)
        found = video.read_clip(path, begin + wanted, (48, 64))
        assert number or len(decoded) <= most
        monkeypatch.setattr(video, "AHEAD", math.inf)
        np.testing.assert_array_equal(found, video.read_clip(path, begin + wanted, (48, 64)))


@pytest.mark.parametrize(
    "name, options, most",
    [
        ("a.mp4", {"codec": "libx264", "bf": 3, "b_strategy": 0}, 16),
        ("b.mp4", {"codec": "mpeg4", "bf": 2}, 8),
        ("c.mp4", {"codec": "libx265", "x265_params": "log-level=none:bframes=7:b-adapt=0:temporal-layers=3"}, 14),
        ("d.webm", {"codec": "libvpx", "auto_alt_ref": 1, "lag_in_frames": 8}, 19),
        ("e.avi", {"codec": "mpeg4", "bf": 2}, 10),
    ],
)  # fmt: skip
def test_on_the_way_to_a_clip_what_no_frame_leans_on_is_left_out_and_it_is_the_same(name, options, most, tmp_path, monkeypatch):
    """But of AVI, which does not say when a frame is shown, and where all are leant on."""
    if options["codec"] not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {options['codec']}")
    path, decoded, inside = make(tmp_path / name, g=20, **options), [], video._in_order
    monkeypatch.setattr(video, "_in_order", lambda *given: (decoded.append(frame) or frame for frame in inside(*given)))
    begin, rng = video.probe(path).seconds[0], np.random.default_rng(0)
    for wanted in ([16, 17], *(np.sort(rng.choice(20, 4, replace=False)) for _ in range(20))):
        decoded.clear()
        assert numbers(video.read_clip(path, begin + (np.array(wanted) + rng.uniform(0.1, 0.9)) / 25, (48, 64))) == list(wanted)
        assert len(wanted) > 2 or len(decoded) <= most


def test_reads_from_memory_and_from_a_store(clip, monkeypatch):
    wanted = video.read_clip(clip, [0.1, 0.5], (24, 32))
    np.testing.assert_array_equal(video.read_clip(clip.read_bytes(), [0.1, 0.5], (24, 32)), wanted)
    monkeypatch.setattr(epath, "Path", lambda path: pathlib.Path(path.removeprefix("gs://")))
    np.testing.assert_array_equal(video.read_clip(f"gs://{clip}", [0.1, 0.5], (24, 32)), wanted)
    with pytest.raises(video.VideoError, match=r"gs://gone.mp4: cannot be read: No such file"):
        video.probe("gs://gone.mp4")


def test_frames_are_freed_as_they_go(clip):
    gc.collect()
    gc.disable()
    try:
        for _, _, frame in video.decode(clip):
            assert video.to_bgr(frame).shape == (48, 64, 3)
        del frame
        assert gc.collect() < 40  # three objects for each of the four key frames, not for each of the 20
    finally:
        gc.enable()


def bad_files(folder, clip):
    whole = clip.read_bytes()
    (folder / "text.mp4").write_text("this is not a video\n" * 20)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "head.mp4").write_bytes(whole[:200])
    (folder / "other.bin").write_bytes(whole)
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile other.bin\n")  # a script that names another file
    Image.fromarray(picture(0)).save(folder / "picture.mp4", "png")
    sound(folder / "sound.mp4")
    return sorted(folder.glob("*.mp4")) + [folder / "missing.mp4"]


def test_a_bad_file_is_one_sentence_that_names_it(clip, tmp_path, pool):
    files = bad_files(tmp_path, clip)
    assert len(files) == 7
    for path in files:
        for run in (video.probe, pool.probe, lambda p: video.read_clip(p, [0.0], (8, 8)), lambda p: list(video.frames(p))):
            with pytest.raises(video.VideoError) as caught:
                run(path)
            assert caught.value.path == str(path) and str(caught.value).startswith(f"{path}: ")
            assert caught.value.reason and "\n" not in caught.value.reason
            assert (path.stem in ("list", "picture")) == caught.value.reason.startswith("is in none of the formats that are read: asf, avi, ")


def test_a_truncated_file_gives_what_is_there(tmp_path):
    images = [picture(k) for k in range(20)]
    for k, image in enumerate(images):
        image[:24] = np.random.default_rng(k).integers(0, 255, (24, 64, 3))  # so that the file is mostly frames
    whole = make(tmp_path / "whole.mp4", images).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(len(whole) * 0.7)])
    info = video.probe(tmp_path / "cut.mp4")
    assert 5 < len(info.seconds) < 20
    assert numbers(video.read_clip(tmp_path / "cut.mp4", info.seconds[:5] + 0.01, (48, 64))) == list(range(5))
    assert len(video.read_clip(tmp_path / "cut.mp4", info.seconds, (48, 64))) == len(info.seconds)


def test_a_stream_that_comes_midway_is_no_error():
    class Late:
        """As PyAV's: its list of streams is as long as at the beginning."""

        def demux(self, stream):
            yield from "ab"
            [][1]

    assert list(video.packets(Late(), None)) == ["a", "b"]


def test_frames_that_change_their_size_midway_come_in_that_of_the_first(tmp_path):
    """MPEG-TS files of two sizes, the second one's times after the first one's."""
    parts = [make(tmp_path / "1.ts", 10), make(tmp_path / "2.ts", 10, size=(64, 80), stamps=range(1000, 1400, 40))]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    shapes = [rgb.shape for *_, rgb in video.frames(tmp_path / "a.ts")]
    assert len(shapes) > 15 and set(shapes) == {(48, 64, 3)}


def test_a_stream_that_turns_to_ten_bits_midway_is_entered_behind_that(tmp_path):
    """Reading begins within a group of pictures, of which the codec can make nothing."""
    parts = [make(tmp_path / "1.ts", 10), make(tmp_path / "2.ts", 10, pix_fmt="yuv420p10le", stamps=range(1000, 1400, 40))]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    start = next(seconds for _, seconds, frame in video.decode(tmp_path / "a.ts") if frame.format.name == "yuv420p10le")
    assert [frame.format.name for *_, frame in video.decode(tmp_path / "a.ts", start)] == ["yuv420p10le"] * 10


def test_larger_frames_than_allowed_are_refused(tmp_path, pool, monkeypatch):
    path = make(tmp_path / "large.mp4", [np.zeros((1040, 1040, 3), np.uint8)])
    with pytest.raises(video.VideoError, match="1040 × 1040 pixels, where 1048576"):
        pool.probe(path)
    assert video.probe(path).height == 1040
    huge = make(tmp_path / "huge.mkv", [np.zeros((1040, 1040, 3), np.uint8)], codec="mjpeg", pix_fmt="yuvj420p")
    with pytest.raises(video.VideoError, match="more than the 1048576 pixels|1040 × 1040"):
        pool.probe(huge)
    # a file that grows in its middle: FFmpeg itself refuses the second size
    small, large = (make(tmp_path / f"{n}.ts", [np.zeros((n, n, 3), np.uint8)] * 3) for n in (64, 1040))
    (tmp_path / "grows.ts").write_bytes(small.read_bytes() + large.read_bytes())
    assert [frame.height for _, _, frame in video.decode(tmp_path / "grows.ts")][-1] == 1040
    monkeypatch.setattr(video, "MAX_PIXELS", 2**20)
    with pytest.raises(video.VideoError):
        list(video.frames(tmp_path / "grows.ts"))


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_what_is_written_reads_back(size, tmp_path):
    frames = np.stack([np.full((*size, 3), level(k), np.uint8) for k in range(5)])
    write_video(tmp_path / "out.mp4", frames, 12.5)
    info = video.probe(tmp_path / "out.mp4")
    assert (info.height, info.width, len(info.seconds)) == (48, 64, 5) and info.fps == pytest.approx(12.5)
    back = np.stack([rgb for _, _, rgb in video.frames(tmp_path / "out.mp4")])[:, : size[0], : size[1]]
    assert np.abs(back.astype(int) - frames).max() <= 4
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    with av.open(tmp_path / "out.mp4") as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (6, 1), "said, for players guess by the size"


def test_a_name_with_a_colon_is_a_file_and_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synced = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_size > 0, os.path.exists("12:30.mp4"))))
    write_video("12:30.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8)
    assert synced == [(True, False)], "on the disk before it has its name"
    assert len(video.probe("12:30.mp4").seconds) == 2 and [path.name for path in tmp_path.iterdir()] == ["12:30.mp4"]


def test_a_file_that_begins_late_has_not_lost_what_it_never_had(tmp_path):
    """Matroska counts the length that it declares from 0 s."""
    path = make(tmp_path / "late.mkv", 20, stamps=range(1000, 1800, 40), codec="mpeg4")
    info = video.probe(path)
    assert info.seconds[0] == 1.0 and info.duration == pytest.approx(0.8, abs=0.01) and video.shortfall(path, info.duration) is None
    broken = path.read_bytes()[: path.stat().st_size // 2]
    assert "1.8 s are declared" in video.shortfall(broken, video.probe(broken).duration)


@pytest.mark.parametrize("ending, codec", [("mkv", "mpeg4"), ("flv", "flv")])
def test_sound_may_outlast_the_pictures_and_a_cut_is_still_seen(ending, codec, tmp_path):
    """Both declare one length for all streams, here that of the sound."""
    with av.open(str(tmp_path / f"a.{ending}"), "w") as out:
        shown, sound = out.add_stream(codec, rate=25), out.add_stream("pcm_s16le", rate=11025)
        shown.width, shown.height, shown.pix_fmt = 64, 48, "yuv420p"
        for k in range(20):
            out.mux(shown.encode(av.VideoFrame.from_ndarray(picture(k), "rgb24")))
            out.mux(sound.encode(_silence(k, 2205)))
        out.mux([*shown.encode(), *sound.encode()])
    whole = (tmp_path / f"a.{ending}").read_bytes()
    info = video.probe(whole)
    assert info.duration == pytest.approx(0.8, abs=0.01) and video.shortfall(whole, info.duration) is None
    assert "4.0 s are declared" in video.shortfall(whole[: len(whole) // 2], info.duration)


def _silence(k, samples):
    frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.int16), "s16", "mono")
    frame.sample_rate, frame.pts = 11025, k * samples
    return frame


def test_a_video_is_written_to_a_store(bucket):
    frames = np.stack([np.full((16, 16, 3), level(k), np.uint8) for k in range(3)])
    write_video(bucket / "out.mp4", frames, 8)
    assert [path.name for path in bucket.iterdir()] == ["out.mp4"]
    back = np.stack([rgb for _, _, rgb in video.frames(bucket / "out.mp4")])
    assert np.abs(back.astype(int) - frames).max() <= 4


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "out.mp4").write_bytes(b"old")
    with pytest.raises(ValueError, match="uint8 frames"):
        write_video(tmp_path / "out.mp4", np.zeros((2, 8, 8, 3), np.float32), 8)
    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(av, "open", lambda *_, **__: (_ for _ in ()).throw(av.error.PermissionError(13, "Permission denied")))
        write_video(tmp_path / "out.mp4", np.zeros((2, 8, 8, 3), np.uint8), 8)
    assert sentence(caught.value) == f"{tmp_path / 'out.mp4'}: Permission denied"
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_video(tmp_path / "out.mp4", np.zeros((2, 8, 8, 3), np.uint8), 8)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("out.mp4", b"old")]


def test_what_killed_writers_of_a_video_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    with subprocess.Popen(["true"]) as ended:
        pass
    left, written, other = (tmp_path / name for name in (f".out[1].mp4.{ended.pid}.partial", f".out[1].mp4.{os.getppid()}.partial", f".b.mp4.{ended.pid}.partial"))
    for part in (left, written, other):
        part.touch()
    write_video(tmp_path / "out[1].mp4", np.zeros((2, 16, 16, 3), np.uint8), 8)
    assert {path.name for path in tmp_path.iterdir()} == {"out[1].mp4", written.name, other.name}


@pytest.mark.skipif("VIDEOGEN_TEST_DATA" not in os.environ, reason="VIDEOGEN_TEST_DATA names no folder of real videos")
def test_real_videos():
    folder = pathlib.Path(os.environ["VIDEOGEN_TEST_DATA"]) / "videos"
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".mp4", ".mkv", ".webm", ".avi"))
    start = time.monotonic()
    with DecodePool(2) as pool, ThreadPoolExecutor(2) as threads:
        infos = dict(zip(files, threads.map(pool.probe, files)))
        assert len(infos) == 26 and time.monotonic() - start < 20
        for name in ("homepan.mp4", "megamind.avi", "carphone.mp4", "asl_walk.mkv"):
            path, info = folder / name, infos[folder / name]
            assert np.all(np.diff(info.seconds) > 0)
            middle = len(info.seconds) // 2
            # by seeking, and by decoding all that stands before
            inside = info.seconds[middle : middle + 3] + 0.4 * np.diff(info.seconds[middle : middle + 4])
            read = pool.read_clip(path, inside, (48, 64))
            whole = pool.read_clip(path, np.concatenate([info.seconds[:1], inside]), (48, 64))
            np.testing.assert_array_equal(read, whole[1:])
