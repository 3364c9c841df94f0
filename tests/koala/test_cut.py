"""`koala_jax.shots.cut`: a clip has the frames, times, sound and looks of its source, encoded or copied."""
from fractions import Fraction

import av
import numpy as np
import pytest

from core_jax import video
from koala_jax.shots import cut as cutting
from koala_jax.shots.cut import Cut
from koala_jax.shots.encode import Piece, lasting
from tests.core.video_files import make
from tests.koala.shots import at_times, drain, rgb, sounded, stream


def test_a_clip_may_end_where_its_file_breaks(tmp_path, monkeypatch):
    path, decode = make(tmp_path / "a.mp4", 12), video.decode

    def breaking(*given):
        yield from decode(*given)
        raise video.VideoError("a.mp4", "breaks")

    with monkeypatch.context() as patched:
        patched.setattr(video, "decode", breaking)
        drain(cutting.cut(str(path), Piece(0.0, 0.48, 12), str(tmp_path / "clip.mp4"), Cut.ENCODE, 18))
    assert len(rgb(tmp_path / "clip.mp4")) == 12


def test_a_clip_that_is_cut_again_is_the_same_to_the_bit(tmp_path):
    path = make(tmp_path / "a.mp4", stream([("pan", 1, 60)], (180, 320)), g=24, bf=2)
    clips = set()
    for _ in range(4):
        drain(cutting.cut(str(path), Piece(0.4, 2.4, 50), str(tmp_path / "clip.mp4"), Cut.ENCODE, 18))
        clips.add((tmp_path / "clip.mp4").read_bytes())
    assert len(clips) == 1


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """Key frames at 0 and 200 of 300 frames."""
    return make(tmp_path_factory.mktemp("far") / "a.mp4", stream([("pan", 1, 300)], (48, 64)), g=200, keyint_min=200, sc_threshold=0, bf=0)


@pytest.mark.parametrize("first, stop, how, copied", [
    (180, 199, Cut.ENCODE, 0), (180, 300, Cut.LOSSLESS, 100), (0, 300, Cut.LOSSLESS, 300),
])  # fmt: skip
def test_frames_before_a_clip_and_those_counted_after_it_are_reported(first, stop, how, copied, far, tmp_path, monkeypatch):
    in_order, decoded = video._in_order, [0]

    def counted(*given):
        for seconds, frame in in_order(*given):
            decoded[-1] += 1
            yield seconds, frame

    monkeypatch.setattr(video, "_in_order", counted)
    cut = cutting.cut(str(far), Piece(first / 25, stop / 25, stop - first), str(tmp_path / "clip.mp4"), how, 18)
    with pytest.raises(StopIteration) as end:
        while True:
            next(cut)
            decoded.append(0)
    assert end.value.value == copied
    assert max(decoded) <= 130, "64, and what an encoder holds back"
    monkeypatch.undo()
    assert len(rgb(tmp_path / "clip.mp4")) == stop - first


def test_two_frames_at_one_time_are_encoded(tmp_path, monkeypatch):
    path, times = make(tmp_path / "a.mp4", stream([("pan", 1, 6)], (48, 64))), [0.0, 0.04, 0.08, 0.08, 0.16, 0.2]
    with monkeypatch.context() as patched:
        at_times(patched, path, times)
        drain(cutting.cut(str(path), Piece(0.0, 0.24, 6), str(tmp_path / "clip.mp4"), Cut.ENCODE, 18))
    np.testing.assert_allclose(video.probe(tmp_path / "clip.mp4").seconds, times, atol=1e-3)


def test_two_packets_at_one_time_are_not_copied(tmp_path):
    """Matroska counts milliseconds."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as out:
        picture = out.add_stream("libx264", rate=25)
        picture.height, picture.width, picture.pix_fmt = 48, 64, "yuv420p"
        picture.codec_context.time_base, picture.options = Fraction(1, 100_000), {"g": "6"}
        for k, image in enumerate(stream([("pan", 1, 24)], (48, 64))):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.time_base, frame.pts = Fraction(1, 100_000), 4000 * k - (k == 15) * 3990
            out.mux(picture.encode(frame))
        out.mux(picture.encode())
    seconds = video.probe(path).seconds
    assert seconds[14] == seconds[15]
    assert drain(cutting.cut(str(path), Piece(0.04, 0.92, 22), str(tmp_path / "clip.mp4"), Cut.LOSSLESS, 18)) == 0
    assert len(rgb(tmp_path / "clip.mp4")) == 22


def test_colours_of_a_screen_are_tagged_as_what_they_become(tmp_path):
    """An RGB stream's own tag is for 4:4:4 alone."""
    red = np.full((48, 64, 3), (220, 30, 30), np.uint8)
    path = make(tmp_path / "a.mov", [red] * 4, codec="png", pix_fmt="rgb24")
    drain(cutting.cut(str(path), Piece(0.0, 0.16, 4), str(tmp_path / "clip.mp4"), Cut.ENCODE, 10))
    with av.open(str(tmp_path / "clip.mp4")) as clip:
        frame = next(clip.decode(video=0))
    assert frame.format.name.endswith("420p") and frame.colorspace == 6
    assert np.abs(rgb(tmp_path / "clip.mp4")[0].astype(int) - red).max() <= 6


@pytest.mark.parametrize("pix_fmt, rotate", [("yuv420p10le", None), ("yuv420p", (90, False))])
def test_depth_rotation_and_times_stay(pix_fmt, rotate, tmp_path):
    stamps = [0, 40, 80, 200, 240, 500, 540, 600, 640, 700, 740, 900]
    path = make(tmp_path / "a.mp4", stream([("pan", 1, 12)], (48, 64)), stamps=stamps, pix_fmt=pix_fmt, rotate=rotate)
    info = video.probe(path)
    piece = Piece(float(info.seconds[2]), float(info.seconds[10]), 8)
    for how in Cut:
        drain(cutting.cut(str(path), piece, str(tmp_path / "clip.mp4"), how, 10))
        clip = video.probe(tmp_path / "clip.mp4")
        np.testing.assert_allclose(clip.seconds, info.seconds[2:10] - info.seconds[2], atol=1e-6)
        assert (clip.height, clip.width) == (info.height, info.width)
        assert max(np.abs(a - b).mean() for a, b in zip(rgb(tmp_path / "clip.mp4"), rgb(path)[2:10])) < 4
        with av.open(str(tmp_path / "clip.mp4")) as container:
            assert container.streams.video[0].codec_context.pix_fmt == pix_fmt


@pytest.mark.parametrize("first, stop", [(0, 11), (2, 12), (3, 4)])
def test_a_clip_is_as_long_as_its_last_frame_is_shown(first, stop, tmp_path):
    """Which x264 would code before B-frames, and a muxer guess to last as long as others."""
    stamps = [*range(0, 440, 40), 900]
    path = make(tmp_path / "a.mkv", stream([("pan", 1, 12)], (48, 64)), stamps=stamps, g=6)
    times = [stamp / 1000 for stamp in (*stamps, 1400)]
    for how in Cut:
        drain(cutting.cut(str(path), Piece(times[first], times[stop], stop - first), str(tmp_path / "clip.mp4"), how, 18))
        length = times[stop] - times[first]
        with av.open(str(tmp_path / "clip.mp4")) as container:
            picture = container.streams.video[0]
            assert float(picture.duration * picture.time_base) == pytest.approx(length) and container.duration / 1e6 == pytest.approx(length)
        clip = video.probe(tmp_path / "clip.mp4")
        assert clip.duration == pytest.approx(length)
        np.testing.assert_allclose(clip.seconds, np.array(times[first:stop]) - times[first], atol=1e-6)


def test_a_copy_that_ends_in_b_frames_lasts_as_long_as_they_are_shown():
    """x264 makes none, some cameras do. Of frames shown at 0, 40, 80 and 120 until 500, the third is decoded last."""
    packets = [av.Packet(b"x") for _ in range(4)]
    for packet, dts, pts in zip(packets, (-80, -40, 0, 40), (0, 120, 40, 80)):
        packet.dts, packet.pts, packet.duration, packet.time_base = dts, pts, 40, Fraction(1, 1000)
    *_, last = lasting(iter(packets), Piece(2.0, 2.5, 4))
    assert (last.dts, last.pts, last.duration) == (40, 80, 380), "from -80 on 500 in all"


def test_the_aspect_of_pixels_stays(tmp_path):
    """Also in frames that are encoded before and after those that are copied."""
    path = make(tmp_path / "a.mp4", 20, pixel=(4, 3))
    for how in Cut:
        drain(cutting.cut(str(path), Piece(0.08, 0.6, 13), str(tmp_path / "clip.mp4"), how, 18))
        with av.open(str(tmp_path / "clip.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.sample_aspect_ratio == Fraction(4, 3)
            assert {stream.codec_context.sample_aspect_ratio for _ in container.decode(stream)} == {Fraction(4, 3)}


@pytest.mark.parametrize("order, field", [("tff=1", 2), ("bff=1", 3), ("interlaced=0", 1)], ids=["top first", "bottom first", "progressive"])
def test_interlaced_frames_stay_so(order, field, tmp_path):
    path = make(tmp_path / "a.mp4", 20, x264_params=order)
    for how in Cut:
        drain(cutting.cut(str(path), Piece(0.08, 0.6, 13), str(tmp_path / "clip.mp4"), how, 18))
        with av.open(str(tmp_path / "clip.mp4")) as container:
            shown = [frame.interlaced_frame for frame in container.decode(video=0)]
            assert shown == [field > 1] * 13 and container.streams.video[0].codec_context.field_order == field
        assert max(np.abs(a - b).mean() for a, b in zip(rgb(tmp_path / "clip.mp4"), rgb(path)[2:15])) < 4


def test_of_interlaced_frames_whose_rows_are_no_multiple_of_four_the_order_is_lost(tmp_path):
    path = make(tmp_path / "a.mkv", 12, size=(46, 64), codec="mpeg2video", flags="+ildct+ilme")
    drain(cutting.cut(str(path), Piece(0.08, 0.4, 8), str(tmp_path / "clip.mp4"), Cut.ENCODE, 18))
    assert len(rgb(tmp_path / "clip.mp4")) == 8


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".flv"])
@pytest.mark.parametrize("slow, fast", [(100, 20), (20, 100), (40, 40)])
def test_frames_are_copied_at_any_rate_and_up_to_near_the_end(suffix, slow, fast, tmp_path):
    """Key frames every 6. Decoding runs ahead of showing by two frames, of one length in one half, of another in the other; Matroska does not say."""
    stamps = np.cumsum([0] + [slow] * 20 + [fast] * 19).tolist()
    path = make(tmp_path / f"a{suffix}", stream([("pan", 3, 40)], (48, 64)), stamps=stamps, bf=2)
    seconds, pictures = video.probe(path).seconds, rgb(path)
    for start, stop in ((3, 33), (10, 38)):  # 6 to 30 and 12 to 36 at least
        piece = Piece(float(seconds[start]), float(seconds[stop]), stop - start)
        copied = drain(cutting.cut(str(path), piece, str(tmp_path / "clip.mp4"), Cut.LOSSLESS, 18))
        clip = rgb(tmp_path / "clip.mp4")
        np.testing.assert_allclose(video.probe(tmp_path / "clip.mp4").seconds, seconds[start:stop] - seconds[start], atol=1e-6)
        assert copied >= 24 and sum(np.array_equal(a, b) for a, b in zip(clip, pictures[start:stop], strict=True)) >= 24


def test_sound_that_mp4_cannot_hold_becomes_aac(tmp_path):
    """Also of a rate that AAC has not, and where reading begins within a packet; what it can hold is copied."""
    to_aac = ("a.mkv", "pcm_s16le", 8000, "aac", 8000), ("b.mkv", "pcm_s16le", 6000, "aac", 7350), ("c.mpg", "mp2", 44100, "aac", 44100)
    for name, codec, rate, kind, made in (*to_aac, ("d.mkv", "libmp3lame", 44100, "mp3", 44100)):
        path = sounded(tmp_path / name, stream([("pan", 1, 50)]), codec=codec, rate=rate)
        begin = float(video.probe(path).seconds[10])
        drain(cutting.cut(str(path), Piece(begin, begin + 1.2, 30), str(tmp_path / "clip.mp4"), Cut.ENCODE, 18))
        with av.open(str(tmp_path / "clip.mp4")) as container:
            sound = container.streams.audio[0]
            assert (sound.codec_context.codec.canonical_name, sound.rate) == (kind, made)
            assert sum(frame.samples for frame in container.decode(audio=0)) / made == pytest.approx(1.2, abs=0.3)


@pytest.mark.parametrize("begins, lasts", [(7.0, 0.6), (9.0, 0.0)])
def test_sound_that_begins_late_or_never_costs_no_clip(begins, lasts, tmp_path):
    """Matroska refuses to jump to where a track has nothing yet."""
    path = sounded(tmp_path / "a.mkv", stream([("pan", 1, 200)], (48, 64)), begins=begins)
    drain(cutting.cut(str(path), Piece(6.4, 7.6, 30), str(tmp_path / "clip.mp4"), Cut.ENCODE, 18))
    with av.open(str(tmp_path / "clip.mp4")) as container:
        heard = [*container.decode(audio=0)] if container.streams.audio else []
    assert len(rgb(tmp_path / "clip.mp4")) == 30 and sum(frame.samples for frame in heard) / 8000 == pytest.approx(lasts, abs=0.3)


@pytest.mark.parametrize("codec, pix_fmt", [("ffv1", "yuv420p"), ("ffv1", "yuv444p10le"), ("mjpeg", "yuvj444p")])
def test_of_an_odd_size_the_last_row_and_column_go_and_nothing_is_stretched(codec, pix_fmt, tmp_path):
    """Fine stripes would blur where 67 columns became 66."""
    lines = np.where(np.arange(67) % 2, 200, 60).astype(np.uint8)
    images = [np.repeat(np.repeat(lines[None, :, None], 49, 0), 3, 2) for _ in range(6)]
    path = make(tmp_path / "a.mkv", images, codec=codec, pix_fmt=pix_fmt)
    drain(cutting.cut(str(path), Piece(0.0, 0.24, 6), str(tmp_path / "clip.mp4"), Cut.ENCODE, 4))
    for a, b in zip(rgb(tmp_path / "clip.mp4"), rgb(path), strict=True):
        assert a.shape == (48, 66, 3) and np.abs(a - b[:48, :66]).mean() < 4
