"""A dataset of tensorflow_datasets in ArrayRecord files: written, read back, and opened by tfds and grain."""
import dataclasses
import fcntl
import logging
import os
import resource
import shutil
import sys
from types import SimpleNamespace

import grain
import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from core_jax import cli, video_error
from core_jax.video_error import Unread, VideoError
from koala_jax.shots.inputs import Source, video_of
from tests.core.video_files import make, numbers, picture
from videodit_jax import records
from videodit_jax.config import TrainConfig
from videodit_jax.data import folder, open_sources, records as data_records, sampled
from videodit_jax.data.records import open_splits, write_records
from videodit_jax.text import Reads, TextConfig

VIDEO = (4, 6, 8)
CLIP = jax.ShapeDtypeStruct((*VIDEO, 3), np.uint8)


def examples(number, first=0):
    for i in range(first, first + number):
        video = np.random.default_rng(i).integers(0, 256, (*VIDEO, 3), np.uint8)
        yield {"video": video, "caption": f"größe {i}", "scores": {"motion": i / 2, "vtss": float("nan")}, "id": f"clip{i}"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "set"
    write_records(path, {"train": examples(20)})
    return path


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoded")
    good, short = make(root / "a.mp4").read_bytes(), make(root / "b.mp4", 2).read_bytes()
    videos = {"train": [good, b"no video", good, short], "test": [good]}
    rows = {name: [{"video": v, "caption": str(i), "scores": {}, "id": i} for i, v in enumerate(vs)] for name, vs in videos.items()}
    write_records(root / "set", rows)
    return root / "set"


def test_what_is_written_reads_back_in_order(written):
    train, held_out = open_splits(written, CLIP)
    assert len(train) == 18 and len(held_out) == 2
    for half, first in ((train, 0), (held_out, 18)):
        for i, wanted in enumerate(examples(len(half), first)):
            got = half[i]
            np.testing.assert_array_equal(got["video"], wanted["video"])
            assert got["caption"] == wanted["caption"] and got["id"] == i and got["scores"]["motion"] == wanted["scores"]["motion"]
            assert all(np.isnan(got["scores"][name]) for name in ("aesthetic", "clarity", "vtss"))
    np.testing.assert_array_equal(train.scores()["motion"], np.arange(18) / 2)
    assert np.isnan(train.scores()["clarity"]).all()


def test_tfds_and_grain_open_it_and_nobody_needs_tensorflow(written):
    source = tfds.builder_from_directory(str(written)).as_data_source("train")
    assert len(source) == 20 and source[3]["id"] == b"clip3"
    assert len(grain.sources.ArrayRecordDataSource([str(p) for p in written.glob("*.array_record*")])) == 20
    assert "tensorflow" not in sys.modules


def test_encoded_videos_are_decoded_and_a_bad_one_set_aside(encoded):
    train, test = open_splits(encoded, CLIP)
    assert (len(train), len(test)) == (4, 1)  # a split of that name is held out
    assert numbers(train[0]["video"]) == numbers(test[0]["video"]) == [0, 1, 2, 3]
    assert [train[i]["id"] for i in range(4)] == [0, 2, 2, 0]
    reasons = list(train.set_aside.items())
    assert "record 1 of" in reasons[0][0] and reasons[0][1].startswith("FFmpeg says")
    assert "record 3 of" in reasons[1][0] and "0.08 s are shorter than 4 frames" in reasons[1][1]
    slow, _ = open_splits(encoded, CLIP, fps=5)
    assert numbers(slow[0]["video"]) == [2, 7, 12, 17]


def test_in_the_next_epoch_no_video_is_read_to_its_end_again(encoded, monkeypatch):
    train, _ = open_splits(encoded, CLIP)
    first = [train[i]["video"] for i in (0, 2)]
    monkeypatch.setattr(train.pool, "probe", None)
    np.testing.assert_array_equal([train[i]["video"] for i in (0, 2)], first)


def test_the_fingerprint_is_of_the_content_and_not_of_the_path(written, tmp_path):
    first = [half.fingerprint for half in open_splits(written, CLIP)]
    assert first[0] != first[1]
    write_records(tmp_path / "same", {"train": examples(20)})
    assert [half.fingerprint for half in open_splits(tmp_path / "same", CLIP)] == first
    write_records(tmp_path / "other", {"train": examples(20, 1)})
    assert open_splits(tmp_path / "other", CLIP)[0].fingerprint != first[0]


def test_a_folder_becomes_a_dataset_by_a_command(tmp_path, capsys, caplog, fails, monkeypatch):
    monkeypatch.setattr(cli, "SAY_SECONDS", 0)
    (tmp_path / "videos").mkdir()
    for name, count in (("a.mp4", 20), ("b.mp4", 20), ("c.mp4", 40)):
        make(tmp_path / "videos" / name, [picture(k % 20) for k in range(count)])
    (tmp_path / "videos" / "t.csv").write_text("file,caption,motion\nb.mp4,a cat,1.5\n")
    (tmp_path / "videos" / "d.mp4").symlink_to("nowhere.mp4")
    args = [str(tmp_path / "videos"), str(tmp_path / "set")]
    with caplog.at_level(logging.INFO, "videodit_jax"):
        records.main(["--data", args[0], "--out", args[1]])
    assert "training reads the first --frames alone; they last 1.1 s on average, and c.mp4 lasts 1.6 s" in caplog.text
    said = capsys.readouterr().out
    assert "3 videos; next: python -m videodit_jax.train --data" in said and "2 of 2 videos packed" in said, "a log is told how far it is"
    halves = open_splits(args[1], CLIP)
    found = {half[i]["caption"]: half[i] for half in halves for i in range(len(half))}
    assert [len(half) for half in halves] == [2, 1] and set(found) == {"", "a cat"} and found["a cat"]["scores"]["motion"] == 1.5
    assert numbers(found["a cat"]["video"]) == [0, 1, 2, 3]
    assert "set exists already" in fails(records.main, ["--data", "not looked at", "--out", args[1]])
    assert "t.csv is no folder" in fails(records.main, ["--data", "not looked at", "--out", f"{args[0]}/t.csv/set"])
    assert "is written on this machine" in fails(records.main, ["--data", args[0], "--out", "gs://bucket/set"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "videos"]


def test_shares_that_are_done_stay_and_all_of_them_are_one_dataset(tmp_path, capsys, fails):
    (tmp_path / "videos").mkdir()
    for i in range(5):
        make(tmp_path / "videos" / f"{i}.mp4", [picture(i + k) for k in range(8)])
    pack = lambda out, *more: records.main(["--data", str(tmp_path / "videos"), "--out", str(tmp_path / out), *more])
    pack("one")
    for number in (1, 2, 2, 3):
        pack("three", "--share", f"{number}/3")
    said = capsys.readouterr().out
    assert "host_0001_of_0003, 2 videos; next, once all shares are there: python" in said and said.count("host_0001_of_0003 was finished before") == 1
    found = []
    for out in ("one", "three"):
        halves = open_splits(tmp_path / out, CLIP)
        found.append([sorted(tuple(numbers(half[i]["video"])) for i in range(len(half))) for half in halves])
    assert found[0] == found[1] and list(map(len, found[0])) == [4, 1]
    assert "holds 5 videos, and each of 6 shares wants one: take fewer" in fails(lambda more: pack("six", *more), ["--share", "1/6"])
    assert "--share 7/6: K/N is wanted" in fails(lambda more: pack("six", *more), ["--share", "7/6"]) and not (tmp_path / "six").exists()


def test_videos_of_a_store_are_packed(bucket, tmp_path):
    make(tmp_path / "a.mp4")
    for name in "abc":
        (bucket / f"{name}.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    (bucket / "t.csv").write_text("file,caption\na.mp4,a dog\n")
    records.main(["--data", str(bucket), "--out", str(tmp_path / "set")])
    captions = [half[i]["caption"] for half in open_splits(tmp_path / "set", CLIP) for i in range(len(half))]
    assert sorted(captions) == ["", "", "a dog"]


def test_further_scores_go_from_a_table_into_a_dataset_and_a_run(tmp_path, fails):
    (tmp_path / "clips").mkdir()
    for name in "abc":
        make(tmp_path / "clips" / f"{name}.mp4")
    (tmp_path / "clips" / "t.csv").write_text("file,flicker,noise\na.mp4,0.5,1\nb.mp4,,2\nc.mp4,1.5,3\n")
    records.main(["--data", str(tmp_path / "clips"), "--out", str(tmp_path / "set"), "--scores", "flicker"])
    args = ["--data", str(tmp_path / "clips"), "--out", str(tmp_path / "other"), "--scores", "flicker", "flikker"]
    assert "t.csv has no column `flikker`, a score that is wanted; its columns are file, flicker, noise" in fails(records.main, args)
    (bare := tmp_path / "bare").mkdir()
    make(bare / "a.mp4")
    assert f"{bare} holds no table, of which the score flicker is wanted" in fails(records.main, ["--data", str(bare), *args[2:]])
    assert not (tmp_path / "other").exists()
    config = dataclasses.replace(TrainConfig(), frames=VIDEO[0], size="8x16", model=dataclasses.replace(TrainConfig().model, scores=("flicker", "motion")))
    found = {}
    for data in ("clips", "set"):
        halves = open_sources(dataclasses.replace(config, data=str(tmp_path / data), out=str(tmp_path / "out")))
        scores = [half.scores() for half in halves]
        assert all(set(some) == {"motion", "aesthetic", "clarity", "vtss", "flicker"} for some in scores), "no other column is read"
        found[data] = np.unique(np.concatenate([some["flicker"] for some in scores])), halves[0][0]["scores"]["flicker"]
    np.testing.assert_equal(found["set"], found["clips"])
    np.testing.assert_equal(found["set"][0], [0.5, 1.5, np.nan])


def test_a_run_reads_at_its_own_rate_with_its_own_workers(tmp_path, monkeypatch):
    """A folder of videos, and then a dataset."""

    class Half(list):
        videos, fingerprint, lengths = [SimpleNamespace(caption="")], "", lambda self: []

    asked, half = [], Half()
    for module in (folder, data_records):
        monkeypatch.setattr(module, "open_splits", lambda *_, **how: asked.append((how["fps"], how["workers"])) or (half, half))
    config = dataclasses.replace(TrainConfig(), data=str(tmp_path), fps=12.5, workers=3)
    for _ in asked, half:
        open_sources(config)
        (tmp_path / "dataset_info.json").touch()
    assert asked == [(12.5, 3)] * 2


def test_captions_that_are_cut_or_not_there_are_counted(tmp_path, caplog):
    """As of a folder; and so are features of captions."""
    captions = ["a cat, and a dog", "", "a big red bicycle", "a cat"] * 5
    config = dataclasses.replace(TrainConfig(), frames=VIDEO[0], size="8x16", model=dataclasses.replace(TrainConfig().model, text=TextConfig(words=3)))
    for name, given, says in (
        ("cut", captions, "9 of 13 captions are longer than the 3 words and marks that are read"),
        ("bare", [""] * 20, "bare gives no caption, and so nothing that prompts could steer by"),
        ("short", ["a cat"] * 20, ""),
    ):  # fmt: skip
        rows = [{"video": np.zeros((4, 8, 16, 3), np.uint8), "caption": caption, "scores": {}, "id": ""} for caption in given]
        write_records(tmp_path / name, {"train": rows})
        caplog.clear()
        open_sources(dataclasses.replace(config, data=str(tmp_path / name)))
        assert says in caplog.text and bool(says) == bool(caplog.text)
    rows = [row | {"text": np.zeros((i, 8), np.float16)} for i, row in enumerate(rows)]
    write_records(tmp_path / "features", {"train": rows})
    train, _ = open_splits(tmp_path / "features", jax.ShapeDtypeStruct((4, 8, 16, 3), np.uint8), text=TextConfig(width=8, reads=Reads.FEATURES))
    assert train.lengths() == list(range(18))


def test_clips_of_one_video_are_held_out_together(tmp_path):
    files = [f"{Source(f'{video}.mp4', 0, 0).name}/{number:04}.mp4" for number in range(3) for video in "abcde"]
    for file in files:
        (tmp_path / "clips" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / file).write_text(file)
    records.main(["--data", str(tmp_path / "clips"), "--out", str(tmp_path / "set")])
    builder = tfds.builder_from_directory(str(tmp_path / "set"))
    held = [{one["id"].decode() for one in builder.as_data_source(split)} for split in ("train", "validation")]
    assert len(held[0]) == 12 and held[0] | held[1] == set(files)
    assert {video_of(file) for file in held[1]}.isdisjoint(map(video_of, held[0]))


def test_a_missing_feature_is_one_sentence(tmp_path):
    class Bare(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """No captions."""

        VERSION, code_path = tfds.core.Version("1.0.0"), None

        def _info(self):
            features = tfds.features.FeaturesDict({"video": tfds.features.Tensor(shape=(*VIDEO, 3), dtype=np.uint8)})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": ((i, {"video": e["video"]}) for i, e in enumerate(examples(2)))}

        def _generate_examples(self):
            raise AssertionError

    builder = Bare(data_dir=str(tmp_path), file_format="array_record")
    builder.download_and_prepare()
    with pytest.raises(ValueError, match="has no feature 'caption'; its features are video"):
        open_splits(builder.data_dir, CLIP)


def test_latents_come_back_and_are_not_taken_for_pixels(written, encoded, tmp_path):
    latents = np.random.default_rng(0).standard_normal((2, 1, 3, 4, 16)).astype(np.float16)
    write_records(tmp_path / "set", {"train": [{"video": x, "caption": "", "scores": {}, "id": str(i)} for i, x in enumerate(latents)]})
    wanted = jax.ShapeDtypeStruct(latents.shape[1:], np.float16)
    halves = open_splits(tmp_path / "set", wanted)
    read = [half[0]["video"] for half in halves]
    assert read[0].dtype == np.float16
    np.testing.assert_array_equal(np.stack(read), latents)
    for there, given, asked in ((tmp_path / "set", r"float16 \[1, 3, 4, 16\]", CLIP), (written, r"uint8 \[4, 6, 8, 3\]", wanted), (encoded, "encoded videos", wanted)):
        with pytest.raises(ValueError, match=f"holds {given}, but {asked.dtype}"):
            open_splits(there, asked)


def test_bad_input_is_one_sentence(written, tmp_path):
    with pytest.raises(ValueError, match=r"holds uint8 \[4, 6, 8, 3\], but uint8 \[4, 6, 9, 3\] are asked for"):
        open_splits(written, jax.ShapeDtypeStruct((4, 6, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="is no dataset of tensorflow_datasets"):
        open_splits(tmp_path, CLIP)
    with pytest.raises(ValueError, match="exists already"):
        write_records(written, {"train": examples(1)})
    with pytest.raises(ValueError, match="no example to write"):
        write_records(tmp_path / "x", {"train": iter(())})
    write_records(tmp_path / "tested", {"test": examples(1)})
    with pytest.raises(ValueError, match="no example in a split `train`; its splits are test"):
        open_splits(tmp_path / "tested", CLIP)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("torn", [lambda data: data[: len(data) // 2], lambda data: b"nonsense", lambda data: b"[]", lambda data: b"null"])
def test_a_torn_dataset_is_one_sentence(written, tmp_path, file, torn):
    path = shutil.copytree(written, tmp_path / "set") / file
    path.write_bytes(torn(path.read_bytes()))
    with pytest.raises(ValueError, match=f"^{tmp_path}/set is no dataset that can be read: .*$"):
        open_splits(tmp_path / "set", CLIP)


@pytest.mark.parametrize("torn", [lambda data: data[: len(data) // 2], lambda data: b"", None], ids=["half", "empty", "gone"])
def test_a_torn_file_of_records_is_named(written, tmp_path, torn):
    (path,) = shutil.copytree(written, tmp_path / "set").glob("*.array_record*")
    path.write_bytes(torn(path.read_bytes())) if torn else path.unlink()
    (tmp_path / "set" / sampled.FILE).unlink()
    train, _ = open_splits(tmp_path / "set", CLIP)
    for read in (train.scores, lambda: train.fingerprint, lambda: train.read(17)):
        with pytest.raises(VideoError, match=f"^record [0-9]+ of {tmp_path}/set .train.: "):
            read()


def test_a_dataset_of_any_size_is_written_as_it_comes_into_files_of_about_one(tmp_path, monkeypatch):
    """Of more than a GiB tfds' own builder wants tensorflow, and then reads all of it at once."""
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 1000)
    monkeypatch.setattr(data_records, "FILE_BYTES", 6 * 4 * 6 * 8 * 3, raising=False)
    there = []

    def watched():
        for one in examples(20):
            there.append(len([*tmp_path.glob(".set.partial/set/*.array_record*")]))
            yield one

    monkeypatch.setattr(data_records, "BEGUN", 2, raising=False)
    write_records(tmp_path / "set", {"train": watched(), "test": examples(1, 20)})
    assert len([*(tmp_path / "set").glob("*train.array_record*")]) == 4 and there[-1] == 4, "the last of four is being written"
    train, test = open_splits(tmp_path / "set", CLIP)
    assert [train[i]["caption"] for i in range(20)] == [one["caption"] for one in examples(20)] and test[0]["caption"] == "größe 20"


def test_a_file_is_kept_open_once(tmp_path, monkeypatch):
    monkeypatch.setattr(data_records, "FILE_BYTES", 1)
    write_records(tmp_path / "set", {"train": examples(9), "test": examples(1)})
    train, _ = open_splits(tmp_path / "set", CLIP)
    before = len(os.listdir("/proc/self/fd"))
    assert len(train.fingerprint) == 32 and len(train.scores()["motion"]) == 9 and [train[i]["id"] for i in range(9)] == list(range(9))
    assert len(os.listdir("/proc/self/fd")) - before == 9


def test_what_the_system_fails_at_sets_no_clip_aside(written, monkeypatch):
    """And when it is over the file can be read, though ArrayRecord's own reader fails for ever."""
    train, _ = open_splits(written, CLIP)
    monkeypatch.setattr(video_error, "PATIENCE", 0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        with pytest.raises(Unread, match=f"^record 3 of {written} .train.: open.. failed: Too many open files"):
            train[3]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert train[3]["id"] == 3 and not train.set_aside


def test_what_a_killed_run_left_goes(tmp_path):
    write_records(tmp_path / ".set.partial", {"train": examples(1)})
    write_records(tmp_path / "set", {"train": examples(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["set"] and len(open_splits(tmp_path / "set", CLIP)[0].builder.as_data_source("train")) == 2


def test_two_runs_do_not_write_one_dataset(tmp_path):
    """The one that ended first gave its name to the half of the other."""
    half = tmp_path / ".set.partial" / "set" / "half"
    half.parent.mkdir(parents=True)
    half.touch()
    fcntl.flock(other := os.open(tmp_path / ".set.partial", os.O_RDONLY), fcntl.LOCK_EX)
    with pytest.raises(ValueError, match=f"another process is writing {tmp_path}/set: wait for its end"):
        write_records(tmp_path / "set", {"train": examples(1)})
    assert half.exists()
    os.close(other)
    write_records(tmp_path / "set", {"train": examples(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_dataset_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    write_records(tmp_path / "set", {"train": examples(1)})
    assert {path.stat().st_ino for path in (tmp_path / "set").iterdir()} <= set(synced)


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def breaks():
        yield from examples(2)
        raise RuntimeError("source broke")

    with pytest.raises(RuntimeError, match="source broke"):
        write_records(tmp_path / "set", {"train": breaks()})
    assert list(tmp_path.iterdir()) == []
