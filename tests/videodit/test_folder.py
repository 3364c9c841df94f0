"""Clips from a folder of videos: where they lie, what the table says of them, and what a bad file costs."""
import json
import logging
import math
import os
import pathlib
import shutil

import jax
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from core_jax.video import VideoError, probe as probe_file
from core_jax.video_worker import DecodePool
from koala_jax.shots.inputs import Source
from tests.core.video_files import make, numbers
from tests.videodit import small
from videodit_jax import train
from videodit_jax.config import TrainConfig
from videodit_jax.data import folder as folders, open_sources, probe
from videodit_jax.conditioning import SCORES
from videodit_jax.data.clips import fitting
from videodit_jax.data.folder import open_splits
from videodit_jax.run import Run

VIDEO = (4, 12, 16)
NAMES = ["a.mp4", "b.avi", "sub/c.mkv", "sub/deep/d.mp4"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four videos of 20 frames at 25 a second: five clips of VIDEO each."""
    root = tmp_path_factory.mktemp("videos")
    (root / "sub" / "deep").mkdir(parents=True)
    for name in NAMES:
        make(root / name, codec="mpeg4" if name.endswith("avi") else "libx264")
    return root


@pytest.fixture
def data(videos, tmp_path):
    return pathlib.Path(shutil.copytree(videos, tmp_path / "data"))


def both(path, **options):
    train, held_out = open_splits(path, VIDEO, **options)
    return {v.file: (half, v) for half in (train, held_out) for v in half.videos}


def test_each_video_becomes_clips_one_after_the_other(data):
    (data / ".partial.mp4").write_bytes(b"half written")
    train, held_out = open_splits(data, VIDEO)
    assert sorted(v.file for v in train.videos + held_out.videos) == NAMES
    assert len(held_out.videos) == 1 and len(train) == 15 and len(held_out) == 5
    for half in (train, held_out):
        for i in range(len(half)):
            example = half[i]
            assert example["video"].shape == (4, 12, 16, 3) and example["video"].dtype == np.uint8 and example["id"] == i
            assert numbers(example["video"]) == list(range(4 * (i % 5), 4 * (i % 5) + 4))
    assert train.set_aside == {} and [v.file for v in open_splits(data, VIDEO)[1].videos] == [v.file for v in held_out.videos]


def test_clips_kept_in_memory_and_read_alone_are_the_same(videos, monkeypatch):
    train, _ = open_splits(videos, VIDEO)
    monkeypatch.setattr(folders, "KEEP_BYTES", 0)
    alone, _ = open_splits(videos, VIDEO)
    for i in (0, 7, 14):
        np.testing.assert_array_equal(train[i]["video"], alone[i]["video"])
    with pytest.raises(IndexError):
        alone[15]


def test_a_rate_of_its_own_spaces_the_frames(videos):
    train, _ = open_splits(videos, VIDEO, fps=12.5)
    assert [v.clips for v in train.videos] == [2, 2, 2]
    assert numbers(train[0]["video"]) == [1, 3, 5, 7] and numbers(train[1]["video"]) == [9, 11, 13, 15]


@pytest.mark.parametrize("count, fps", [(18, 16), (24, 24), (24, 60), (24, 25)])
def test_stamps_in_whole_milliseconds_cost_no_clip(count, fps, tmp_path):
    """Matroska's: 18 frames at 16 a second last 1.125 s, and by its stamps 1.124."""
    info = probe_file(make(tmp_path / "a.mkv", count, fps=fps))
    assert [fitting(info.duration, info.fps, frames) for frames in (count // 2, count, count + 1)] == [2, 1, 0]


def test_a_clip_may_be_a_whole_file_of_rounded_stamps(tmp_path):
    make(tmp_path / "a.mkv", 24, fps=60)
    train, _ = open_splits(tmp_path, (24, 12, 16))
    assert len(train) == 1 and numbers(train[0]["video"]) == list(range(24))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_table_gives_captions_and_scores(data, suffix):
    table = {
        "file": ["sub/c.mkv", "a.mp4", "b.avi"],
        "caption": ["a cat,\na \"dog\"", None, ""],
        "motion": [3, None, 0.5],
        "aesthetic": [None, 5.25, 1e3],
        "note": ["x", "y", "z"],
    }
    if suffix == ".csv":
        pa.csv.write_csv(pa.table(table), data / "table.csv")
    else:
        pa.parquet.write_table(pa.table(table), data / "table.parquet")
    found = both(data)
    expected = {
        "sub/c.mkv": ("a cat,\na \"dog\"", 3, None),
        "a.mp4": ("", None, 5.25),
        "b.avi": ("", 0.5, 1e3),
        "sub/deep/d.mp4": ("", None, None),
    }
    for name, (caption, motion, aesthetic) in expected.items():
        half, video = found[name]
        first = next(i for i in range(len(half)) if half.videos[half.place(i)[0]] is video)
        example = half[first]
        assert example["caption"] == caption and set(example["scores"]) == set(SCORES)
        for score, value in {"motion": motion, "aesthetic": aesthetic, "clarity": None, "vtss": None}.items():
            given = half.scores()[score][first]
            np.testing.assert_equal([example["scores"][score], given], [math.nan if value is None else value] * 2)


def test_a_table_is_what_is_trained_on(data, tmp_path):
    """Only the clips that it names, wherever other tables lie."""
    pa.parquet.write_table(pa.table({"file": ["a.mp4", "b.avi"]}), data / "other.parquet")
    kept = pa.table({"file": ["sub/c.mkv", str((data / "a.mp4").resolve())], "caption": ["a cat", "a dog"], "clarity": [0.5, None],
                     "source": ["s.mp4", "s.mp4"], "clip": [0, 1], "start_s": [3.0, 5.0]})  # as of koala_jax.split: the source's times
    pa.parquet.write_table(kept, data / "kept.parquet")
    halves = open_splits(data / "kept.parquet", VIDEO)
    found = {video.file: video for half in halves for video in half.videos}
    assert {file: video.caption for file, video in found.items()} == {"sub/c.mkv": "a cat", str((data / "a.mp4").resolve()): "a dog"}
    assert found["sub/c.mkv"].scores["clarity"] == 0.5 and halves[0][0]["video"].shape == (*VIDEO, 3)
    with pytest.raises(ValueError, match="2 tables, where one is allowed.*give the one that is meant as --data"):
        open_splits(data, VIDEO)
    pa.csv.write_csv(pa.table({"file": ["gone.mp4"]}), data / "gone.csv")
    with pytest.raises(ValueError, match="gone.mp4, which is to be trained on, is not there"):
        open_splits(data / "gone.csv", VIDEO)


def test_clips_that_were_not_cut_are_counted_and_set_aside(data, caplog):
    pa.parquet.write_table(pa.table({"file": ["a.mp4", None, "b.avi", ""]}), data / "clips.parquet")
    halves = open_splits(data / "clips.parquet", VIDEO)
    assert {video.file for half in halves for video in half.videos} == {"a.mp4", "b.avi"}
    assert f"2 of the 4 rows of {data / 'clips.parquet'} name no file (row 2, 4) and are set aside" in caplog.text


@pytest.mark.parametrize(
    "text, says",
    [
        ("name,motion\na.mp4,1\n", "no column `file`; its columns are name, motion"),
        ("file,motion\nzebra.mp4,1\n", "names 'zebra.mp4', which is not among the 4 videos"),
        ("file,motion\na.mp4,fast\n", "gives 'a.mp4' the motion 'fast', which is not a number"),
        ("file,motion\na.mp4,inf\n", "the motion 'inf', which is not a number"),
        ("file,motion\na.mp4,1\na.mp4,2\n", "names 'a.mp4' twice"),
        ("file,start_s,end_s\na.mp4,,\nb.avi,0.5,\n", "gives 'b.avi' a start_s, but what is trained on is the whole file"),
        ("file,motion\na.mp4,1\n./a.mp4,2\n", "names 'a.mp4' twice"),
        ("file,motion\n,1\n,2\n", "2 of the 2 rows of"),
        ("file,motion\na.mp4,1,2,3\n", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_a_wrong_table_is_one_sentence(data, text, says):
    (data / "table.csv").write_text(text)
    with pytest.raises(ValueError) as caught:
        open_splits(data, VIDEO)
    assert says in str(caught.value) and "\n" not in str(caught.value) and "table.csv" in str(caught.value)


def test_a_table_beside_its_videos_may_name_them_by_other_paths(data):
    (data / "table.csv").write_text(f"file,caption\n./b.avi,a dog\nsub//c.mkv,a cat\n{data / 'a.mp4'},a pig\n")
    assert {file: video.caption for file, (_, video) in both(data).items() if video.caption} == {"b.avi": "a dog", "sub/c.mkv": "a cat", "a.mp4": "a pig"}


@pytest.mark.parametrize("column", [{"file": [b"a.mp4"]}, {"file": [1]}, {"file": ["a.mp4"], "caption": [["a cat", "a dog"]]}])
def test_names_and_captions_are_text(data, column):
    pa.parquet.write_table(pa.table(column), data / "table.parquet")
    for given in (data, data / "table.parquet"):
        with pytest.raises(ValueError, match="table.parquet gives row 1 the `(file|caption)` .*, which is not text"):
            open_splits(given, VIDEO)


def test_a_table_without_rows_is_said(data):
    (data / "table.csv").write_text("file,caption\n")
    assert len(both(data)) == 4
    with pytest.raises(ValueError, match="table.csv has no row"):
        open_splits(data / "table.csv", VIDEO)


def test_a_link_that_leads_nowhere_is_set_aside_and_stays_so(data):
    (data / "b.avi").rename(data.parent / "b.avi")
    (data / "b.avi").symlink_to(data.parent / "gone.avi")
    train, held_out = open_splits(data, VIDEO)
    assert train.set_aside == {str(data / "b.avi"): "a link that leads nowhere"} and train.unused == ("b.avi",)
    (data.parent / "b.avi").rename(data.parent / "gone.avi")
    assert open_splits(data, VIDEO, without=train.unused)[0].fingerprint == train.fingerprint


def test_two_tables_are_refused(data):
    for name in ("x.csv", "y.parquet"):
        (data / name).write_text("file\n")
    with pytest.raises(ValueError, match="2 tables, where one is allowed: x.csv, y.parquet"):
        open_splits(data, VIDEO)


def test_files_that_cannot_be_used_are_reported_once_and_left_out(data, caplog):
    (data / "text.mp4").write_text("not a video")
    (data / "empty.mov").write_bytes(b"")
    make(data / "short.mp4", 3)
    with caplog.at_level(logging.WARNING):
        train, held_out = open_splits(data, VIDEO)
    assert len(train) + len(held_out) == 20 and len(train.set_aside) == 3
    assert sorted(r.getMessage().split(" is set aside")[0] for r in caplog.records) == sorted(
        str(data / name) for name in ("text.mp4", "empty.mov", "short.mp4")
    )
    assert "0.12 s are shorter than 4 frames at 25 a second" in train.set_aside[str(data / "short.mp4")]


def test_a_file_that_breaks_later_gives_the_next_clip_that_decodes(data, caplog):
    train, _ = open_splits(data, VIDEO)
    broken = train.videos[1].file
    good = (data / broken).read_bytes()
    (data / broken).write_bytes(b"gone bad")
    with caplog.at_level(logging.WARNING):
        assert [train[i]["id"] for i in (4, 5, 9, 10, 6)] == [4, 10, 10, 10, 10]
    assert len(caplog.records) == 1 and list(train.set_aside) == [str(data / broken)]
    fresh = folders.Folder(train.path, train.videos, VIDEO, train.pool, train.set_aside)
    assert fresh[6]["id"] == 10  # the same in another order of visits
    (data / broken).write_bytes(good)
    for video in train.videos:
        (data / video.file).unlink()
    nothing = folders.Folder(train.path, train.videos, VIDEO, train.pool, train.set_aside)
    with pytest.raises(ValueError, match="no clip of .* decodes any more"):
        nothing[3]


def test_a_clip_survives_where_a_video_breaks_further_on(videos, monkeypatch):
    train, _ = open_splits(videos, VIDEO)
    whole = train.pool.read_clip

    def breaks_after(path, seconds, size):
        if seconds[-1] > 0.5:
            raise VideoError(path, "breaks there")
        return whole(path, seconds, size)

    monkeypatch.setattr(train.pool, "read_clip", breaks_after)
    assert [train[i]["id"] for i in range(6)] == [0, 1, 2, 5, 5, 5]


def test_what_a_run_films_among_its_videos_is_no_data(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    config = TrainConfig(data=".", out="sub/run", frames=VIDEO[0], size="12x16")
    before = [half.fingerprint for half in open_sources(config)]
    make(tmp_path / "step.mp4")
    (data / "sub" / "run" / "samples").mkdir(parents=True)
    shutil.copy(tmp_path / "step.mp4", data / "sub" / "run" / "samples")
    assert [half.fingerprint for half in open_sources(config)] == before


def test_nothing_to_train_on_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="there is no file or folder .*nowhere"):
        open_splits(tmp_path / "nowhere", VIDEO)
    with pytest.raises(ValueError, match=r"holds no video \(.mp4, .mkv, .webm, "):
        open_splits(tmp_path, VIDEO)
    (tmp_path / "a.mp4").write_text("text")
    with pytest.raises(ValueError, match="of 1 video in .* none can be used; the first, .*a.mp4: FFmpeg says"):
        open_splits(tmp_path, VIDEO)


def test_one_video_serves_as_both_halves(videos, tmp_path, caplog):
    shutil.copy(videos / "a.mp4", tmp_path)
    train, held_out = open_splits(tmp_path, VIDEO)
    assert len(train) == len(held_out) == 5 and "trained on and held out at once" in caplog.text


def test_clips_that_were_cut_from_one_video_are_held_out_together(videos, tmp_path, caplog):
    cut = [tmp_path / "clips" / Source(path, 0, 0).name for path in ("a.mp4", "b.mp4")]
    for folder in cut:
        folder.mkdir(parents=True)
        for number in range(4):
            shutil.copy(videos / "a.mp4", folder / f"{number:04}.mp4")
    halves = [{v.file.split("/")[1] for v in half.videos} for half in open_splits(tmp_path, VIDEO)]
    assert sorted(name for half in halves for name in half) == sorted(folder.name for folder in cut) and not caplog.text
    shutil.rmtree(cut[0])
    assert [len(half.videos) for half in open_splits(tmp_path, VIDEO)] == [3, 1] and "were cut from one video" in caplog.text


def test_the_fingerprint_is_of_the_content_and_not_of_the_path(data, tmp_path):
    prints = lambda path, **options: [half.fingerprint for half in open_splits(path, VIDEO, **options)]
    first = prints(data)
    assert prints(shutil.copytree(data, tmp_path / "moved")) == first
    assert prints(data, fps=12.5)[0] != first[0]
    (data / "t.csv").write_text("".join(["file,caption\n"] + [f"{name},hello\n" for name in NAMES]))
    assert prints(data)[0] != first[0]


def test_probing_is_kept_and_shown(data, tmp_path, monkeypatch):
    shown, cache = [], tmp_path / "probe.json"
    monkeypatch.setattr(probe, "cache_of", lambda path: cache)
    monkeypatch.setattr(probe, "saying", lambda path: lambda *at: shown.append(at))
    first = open_splits(data, VIDEO)
    assert shown == [(k, 4) for k in (1, 2, 3, 4)]
    stamp = os.stat(data / "a.mp4")
    (data / "a.mp4").write_bytes(b"x" * stamp.st_size)  # what is kept is believed while size and time stay
    os.utime(data / "a.mp4", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    again = open_splits(data, VIDEO)
    assert [half.fingerprint for half in again] == [half.fingerprint for half in first]
    os.utime(data / "a.mp4", (stamp.st_atime, stamp.st_mtime + 2))  # times count in seconds
    assert list(open_splits(data, VIDEO)[0].set_aside) == [str(data / "a.mp4")]
    whole = cache.read_text()
    cache.write_text(whole[:-9])  # a crash has broken it
    open_splits(data, VIDEO)
    assert json.loads(cache.read_text()) == {name: entry for name, entry in json.loads(whole).items() if name != "a.mp4"}


def test_probing_that_is_interrupted_goes_on_where_it_stopped(data, tmp_path, monkeypatch):
    probed, whole = [], DecodePool.probe

    def stops(pool, path):
        if path.endswith("c.mkv") and not probed:
            raise KeyboardInterrupt
        return whole(pool, path)

    monkeypatch.setattr(DecodePool, "probe", stops)
    monkeypatch.setattr(probe, "cache_of", lambda path: tmp_path / "probe.json")
    with pytest.raises(KeyboardInterrupt):
        open_splits(data, VIDEO, workers=1)
    monkeypatch.setattr(DecodePool, "probe", lambda pool, path: (probed.append(pathlib.Path(path).name), whole(pool, path))[1])
    open_splits(data, VIDEO)
    assert sorted(probed) == ["c.mkv", "d.mp4"]


def test_a_video_that_could_not_be_used_as_a_run_began_stays_out_of_it(data, tmp_path, monkeypatch, caplog):
    """As one that a store gives too late: with it the same command would ask for a run on other data."""

    def late(pool, path):
        if path.endswith("b.avi"):
            raise VideoError(path, "took longer than 60 s to decode")
        return whole(pool, path)

    def begun(*_):
        raise InterruptedError("after the folder was looked at")

    (data / "t.csv").write_text("".join(["file,caption\n"] + [f"{name},{'a word ' * 5}\n" for name in NAMES]))
    whole, args = DecodePool.probe, [*small.FLAGS, "--data", str(data), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(train, "Checkpoints", begun)
    for probe_once in (late, whole):
        monkeypatch.setattr(DecodePool, "probe", probe_once)
        with pytest.raises(InterruptedError):
            train.main(args)
        assert Run.read(tmp_path / "run").unused == ("b.avi",)
    assert "1 videos that could not be used as this run began stay out of it" in caplog.text
    assert "3 of 3 captions are longer than the 8 words and marks that are read" in caplog.text


def test_files_that_stay_out_are_not_sought_one_by_one(data):
    """A run can have many of both."""

    class Unsearched(tuple):
        def __contains__(self, file):
            pytest.fail(f"looked for {file} among all that stay out")

    train, held_out = open_splits(data, VIDEO, without=Unsearched(["b.avi", "gone.mp4"]))
    assert train.unused == ("b.avi",) and len(train.videos) + len(held_out.videos) == 3


def test_a_run_keeps_what_probing_found_beside_the_compilation_cache(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(probe, "SAY_SECONDS", 0)
    before = jax.config.jax_compilation_cache_dir
    config = TrainConfig(data=str(data), frames=VIDEO[0], size="12x16")
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
        with caplog.at_level(logging.INFO, "videodit_jax"):
            first = open_sources(config)
        assert "probed 3 of 4 videos" in caplog.text
        monkeypatch.setattr(DecodePool, "probe", lambda *_: pytest.fail("probed again"))
        assert [half.fingerprint for half in open_sources(config)] == [half.fingerprint for half in first]
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "cache").write_text("no folder: nothing can be kept")
        monkeypatch.undo()
        assert len(open_sources(config)[0]) == len(first[0]) and "cannot be kept" in caplog.text
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.skipif("VIDEOGEN_TEST_DATA" not in os.environ, reason="VIDEOGEN_TEST_DATA names no folder of real videos")
def test_real_videos(monkeypatch):
    monkeypatch.setattr(folders, "KEEP_BYTES", 0)
    train, held_out = open_splits(pathlib.Path(os.environ["VIDEOGEN_TEST_DATA"]) / "videos", (8, 24, 24))
    assert len(train.videos) == 23 and len(held_out.videos) == 3 and not train.set_aside
    for i in np.linspace(0, len(train) - 1, 4).astype(int):
        assert train[i]["video"].std() > 1
