"""`koala_jax.split`, whole: what it writes for good videos, what bad ones cost, and that a rerun goes on."""
import fcntl
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from etils import epath
from PIL import Image

from core_jax import cli, video
from core_jax.files import videos
from core_jax.tables import read_table
from koala_jax import split
from koala_jax.shots import cut as cutting
from koala_jax.shots import sheet
from koala_jax.shots.cut import Cut
from koala_jax.shots.detect import watch
from koala_jax.transitions import Backend, Method
from tests.core.video_files import make, sound
from tests.koala.shots import at_times, drain, rgb, sounded, stream

OFFICIAL = ["--method", "official"]
TWO = [("pan", 1, 30), ("pan", 2, 25)]
"""Two shots; the second begins at frame 30."""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return sounded(tmp_path_factory.mktemp("two") / "two.mp4", stream(TWO))


@pytest.mark.parametrize("how", Cut)
def test_a_video_becomes_tables_clips_and_a_sheet(how, two, tmp_path, capsys):
    out = tmp_path / "out"
    split.main([str(two), "--out", str(out), *OFFICIAL, "--cut", how.value, "--scores", "--json", str(tmp_path / "figures.json")])
    changes, clips, sources = (pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("transitions", "clips", "sources"))
    assert changes[0]["end_frame"] == 30 and len(changes) == 1
    assert (changes[0]["end_s"], changes[0]["type"]) == (1.2, "unknown")
    ends = [(clip["start_frame"], clip["end_frame"]) for clip in clips]
    assert ends == [(4, changes[0]["start_frame"] - 5), (34, 50)]
    margin = sources[0].pop("margin")
    assert 0 < margin < 10 and sources == [
        {"source": str(two), "height": 90, "width": 160, "frames": 55, "seconds": pytest.approx(2.2), "transitions": 1, "clips": 2, "error": None}
    ]
    for name in ("transitions", "clips", "sources"):
        assert pyarrow.csv.read_csv(out / f"{name}.csv").num_rows == pq.read_table(out / f"{name}.parquet").num_rows
    (scores,) = (out / "scores").glob("*.parquet")
    scores = pq.read_table(scores)
    assert scores.column_names == ["frame", "seconds", "svm", "bgr", "canny"] and int(np.argmin(scores["svm"])) == 29
    whole = rgb(two)
    exact = 0
    for clip in clips:
        got, wanted = rgb(out / clip["file"]), whole[clip["start_frame"] : clip["end_frame"]]
        assert len(got) == len(wanted)
        errors = [np.abs(a - b).mean() for a, b in zip(got, wanted)]
        assert max(errors) < 4
        exact += sum(error == 0 for error in errors)
        info = video.probe(out / clip["file"])
        assert info.seconds[0] == 0 and info.duration == pytest.approx(clip["end_s"] - clip["start_s"], abs=1e-3)
        with av.open(str(out / clip["file"])) as container:
            sound = sum(frame.samples for frame in container.decode(audio=0)) / 8000
            assert container.streams.audio[0].codec_context.name == "aac"
        assert sound == pytest.approx(info.duration, abs=0.3)
    assert exact >= (12 if how is Cut.LOSSLESS else 0)  # two whole groups of six at least
    (page,), (picture,) = (out / "sheets").glob("*.html"), (out / "sheets").glob("*.jpg")
    with Image.open(picture) as shown:
        assert shown.size[1] == sheet.HEIGHT + 18
    index = (out / "index.html").read_text()
    assert "<svg" in page.read_text() and page.read_text().count('<a href="../clips/') == 2 and f"{margin:.2f}</td>" in index
    assert f'<a href="sheets/{page.name}">' in index and f'loading="lazy" src="sheets/{picture.name}"' in index
    assert json.loads((tmp_path / "figures.json").read_text())["frames"] == 55
    assert "1 video, 1 transition, 2 clips" in capsys.readouterr().out
    assert not [path for path in out.rglob(".*")]


def run_here(self, function, source, *args, report=None):
    """As `DecodePool.run`, in this process, where the store is."""
    made = function(source, *args)
    while inspect.isgenerator(made):
        try:
            value = next(made)
        except StopIteration as end:
            made = end.value
        else:
            if report:
                report(value)
    return made


def test_videos_and_what_is_made_of_them_may_lie_in_a_store(two, tmp_path, bucket, monkeypatch):
    monkeypatch.setattr(split.DecodePool, "run", run_here)
    (bucket / "in" / "two.mp4").write_bytes(two.read_bytes())
    split.main([f"{bucket}/in", "--out", f"{bucket}/out", *OFFICIAL, "--scores"])
    split.main([str(two), "--out", str(tmp_path / "out"), *OFFICIAL, "--scores"])
    there, here = ({name: read_table(out / f"{name}.parquet") for name in ("clips", "transitions", "sources")} for out in (bucket / "out", tmp_path / "out"))
    assert there["sources"]["source"].to_pylist() == [f"{bucket}/in/two.mp4"]
    for name, column in (("transitions", "end_frame"), ("clips", "start_frame"), ("sources", "frames")):
        assert there[name][column] == here[name][column] and there[name].num_rows
    ours = [(tmp_path / "out" / file).read_bytes() for file in here["clips"]["file"].to_pylist()]
    assert [(bucket / "out" / file).read_bytes() for file in there["clips"]["file"].to_pylist()] == ours
    assert all((bucket / "out" / name).exists() for name in ("index.html", "transitions.csv", "sheets", "scores"))
    monkeypatch.setattr(split.Splitter, "_detect", lambda *_: pytest.fail("detected twice"))
    monkeypatch.setattr(split.Splitter, "_cut", lambda *_: pytest.fail("cut twice"))
    split.main([f"{bucket}/in/*.mp4", "--out", f"{bucket}/out", *OFFICIAL, "--scores"])


@pytest.mark.parametrize("flags, lengths", [(("--longest", "0.4"), [0.4, 0.4, 0.32, 0.32]), (("--shortest", "0.66"), [0.8])])
def test_clips_are_as_long_as_was_asked(flags, lengths, two, tmp_path):
    """The rule leaves 0.80 and 0.64 s."""
    split.main([str(two), "--out", str(tmp_path), *OFFICIAL, "--table-only", *flags])
    clips = pq.read_table(tmp_path / "clips.parquet").to_pylist()
    assert [clip["end_s"] - clip["start_s"] for clip in clips] == pytest.approx(lengths)


def test_quality_and_what_one_video_may_cost_are_as_asked(two, tmp_path, monkeypatch):
    pool, asked, sizes = split.DecodePool, [], []
    monkeypatch.setattr(split, "DecodePool", lambda *limits: asked.append(limits) or pool(*limits))
    for crf in ("10", "40"):
        limits = ["--workers", "1", "--patience", "7", "--memory", "0.5", "--pixels", "30000"]
        split.main([str(two), "--out", str(tmp_path / crf), *OFFICIAL, "--no-sheets", "--crf", crf, *limits])
        sizes.append(sum(path.stat().st_size for path in (tmp_path / crf).rglob("*.mp4")))
    assert asked == 2 * [(1, 7.0, 2**29, 30000)] and sizes[0] > 1.3 * sizes[1], "sound is copied"


def test_contact_sheets_may_be_left_for_later(two, tmp_path):
    out = tmp_path / "out"
    split.main([str(two), "--out", str(out), *OFFICIAL, "--no-sheets"])
    cut = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    assert len(cut) == 2 and not (out / "sheets").exists() and "sheets/" not in (out / "index.html").read_text()
    split.main([str(two), "--out", str(out), *OFFICIAL])
    assert len(list((out / "sheets").glob("*.html"))) == 1 and {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")} == cut


def test_a_log_is_told_how_far_it_is(two, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "SAY_SECONDS", 0)
    split.main([str(two), "--out", str(tmp_path / "out"), *OFFICIAL, "--table-only"])
    lines = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r"0 of 1 videos, 0\.0 a minute, \d+ frames/s", line) for line in lines), "long before the first is done"
    assert any(re.fullmatch(r"1 of 1 videos, \d+\.\d a minute", line) for line in lines)


def test_a_folder_with_a_colon_is_no_protocol(two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split.main([str(two), "--out", "12:30", *OFFICIAL])
    assert len(list((tmp_path / "12:30" / "clips").rglob("*.mp4"))) == 2


def test_a_file_that_changed_and_fails_leaves_nothing_of_before(two, tmp_path, fails):
    path, out = tmp_path / "a.mp4", tmp_path / "out"
    path.write_bytes(two.read_bytes())
    split.main([str(path), "--out", str(out), *OFFICIAL, "--scores"])
    path.write_bytes(b"")
    assert "1 of the inputs failed" in fails(split.main, [str(path), "--out", str(out), *OFFICIAL, "--scores"])
    tables = {name: pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("clips", "transitions", "sources")}
    assert (tables["clips"], tables["transitions"], tables["sources"][0]["error"], tables["sources"][0]["clips"]) == ([], [], "is an empty file", None)
    assert not [*out.glob("*/*.mp4"), *out.glob("records/*"), *out.glob("scores/*"), *out.glob("sheets/*")]


def test_a_clip_that_cannot_be_written_costs_itself_alone(two, tmp_path, monkeypatch, fails, capsys):
    monkeypatch.setattr(split, "cut", not_the_first)
    assert "1 of the inputs failed" in fails(split.main, [str(two), "--out", str(tmp_path / "out"), *OFFICIAL])
    assert "0000.mp4 cannot be written: Invalid argument" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").rglob("*.mp4")] == ["0001.mp4"]


def not_the_first(source, piece, path, how, crf):
    """As `cut` where FFmpeg does not take the first clip."""
    if piece.start < 1:
        cutting._write = lambda *_: (_ for _ in ()).throw(av.ArgumentError(22, "Invalid argument"))
    try:
        yield from cutting.cut(source, piece, path, how, crf)
    finally:
        cutting._write = WRITE


WRITE = cutting._write


def test_times_that_go_back_are_refused(two, monkeypatch):
    at_times(monkeypatch, two, [0.0, 0.04, 0.04, 0.08])
    assert drain(watch(str(two), lambda frame, seconds: None)).seconds.tolist() == [0.0, 0.04, 0.04, 0.08]
    at_times(monkeypatch, two, [0.0, 0.04, 0.08, 0.0])
    with pytest.raises(video.VideoError, match=r"times go back, after frame 2 from 0.08 to 0.00 s"):
        drain(watch(str(two), lambda frame, seconds: None))


def test_other_weights_of_the_detector_are_another_way_of_splitting(tmp_path, monkeypatch):
    """Else an update would mix detections, and with --scores write tables of clips that were cut elsewhere."""
    config, weights = split.SplitConfig(("any.mp4",)), tmp_path / "weights"
    weights.write_bytes(b"new")
    split._same_settings(out := epath.Path(tmp_path / "out"), config)
    (out / "records").mkdir()
    split._same_settings(out, config)
    monkeypatch.setattr(split, "WEIGHTS", weights)
    with pytest.raises(ValueError, match="made with other weights of the detector: choose another --out"):
        split._same_settings(out, config)


def test_a_rerun_does_only_what_is_missing(two, tmp_path, monkeypatch, capsys, fails):
    out = tmp_path / "out"
    split.main([str(two), "--out", str(out), *OFFICIAL, "--table-only", "--crf", "19"])  # what no clip was cut by binds none
    assert not (out / "clips").exists() and not (out / "index.html").exists()
    monkeypatch.setattr(split.Splitter, "_detect", lambda *_: pytest.fail("detected twice"))
    split.main([str(two), "--out", str(out), *OFFICIAL])
    first, second = sorted((out / "clips").rglob("*.mp4"))
    second.unlink()
    kept = first.stat().st_mtime_ns
    split.main([str(two), "--out", str(out), *OFFICIAL])
    assert first.stat().st_mtime_ns == kept and second.exists()
    assert capsys.readouterr().out.count(" frames in ") == 1, "where none is read there is no speed to tell"
    assert "--crf 18, not 20" in fails(split.main, [str(two), "--out", str(out), *OFFICIAL, "--crf", "20"])
    monkeypatch.undo()
    os.utime(two, (0, 0))  # another file, for all we know
    split.main([str(two), "--out", str(out), *OFFICIAL])
    assert first.stat().st_mtime_ns != kept


def test_what_a_host_lost_as_it_went_down_is_made_again(two, tmp_path, caplog):
    out, args = tmp_path / "out", [str(two), "--out", str(tmp_path / "out"), *OFFICIAL, "--table-only"]
    split.main(args)
    tables = [pq.read_table(out / f"{name}.parquet") for name in ("sources", "transitions", "clips")]
    (record_,) = (out / "records").iterdir()
    record_.write_bytes(record_.read_bytes()[:100])
    for lost in ("records/of-another.json", "settings.json", "sources.parquet"):
        (out / lost).write_bytes(b"")
    for folder in (out, out / "records"):
        (folder / ".half.json.1f.part").touch()
    split.main(args)
    assert not list(out.rglob(".*"))
    assert [pq.read_table(out / f"{name}.parquet") for name in ("sources", "transitions", "clips")] == tables
    for path in (record_, out / "records" / "of-another.json", out / "sources.parquet"):
        assert f"{path} is broken, and what it held is made again" in caplog.text


def test_one_bad_file_costs_itself_alone(two, tmp_path, capsys, fails, monkeypatch):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    whole = two.read_bytes()
    (folder / "good.mp4").write_bytes(whole)
    (folder / "text [id].mp4").write_text("this is no video\n" * 50)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "short.mp4").write_bytes(whole[:3000])
    make(folder / "one.mp4", 1)
    make(folder / "large.mp4", [np.zeros((400, 400, 3), np.uint8)] * 3)
    sound(folder / "sound.mp4")
    cut_short = make(tmp_path / "faststart.mkv", stream([("pan", 1, 60)]), size=(90, 160)).read_bytes()
    (folder / "broken.mkv").write_bytes(cut_short[: len(cut_short) // 2])
    args = [str(folder), str(tmp_path / "missing.mp4"), str(tmp_path / "none*.mp4"), "--out", str(out), *OFFICIAL, "--table-only", "--pixels", "100000"]
    assert "9 of the inputs failed" in fails(split.main, args)
    lines = capsys.readouterr().out.splitlines()
    errors = {Path(row["source"]).name: row["error"] for row in pq.read_table(out / "sources.parquet").to_pylist()}
    assert errors.pop("good.mp4") is None
    assert "holds one frame" in errors["one.mp4"] and "100000 in all are allowed" in errors["large.mp4"]
    assert "holds no video" in errors["sound.mp4"] and "declared" in errors["broken.mkv"]
    assert set(errors) == {"text [id].mp4", "empty.mp4", "short.mp4", "one.mp4", "large.mp4", "sound.mp4", "broken.mkv", "missing.mp4", "none*.mp4"}
    assert all(any(f"{name}: " in line for line in lines) for name in errors)
    for reason in errors.values():
        assert "\n" not in reason and sum(line.endswith(reason) for line in lines) == 1 or reason.startswith("FFmpeg says")
    sources = {Path(row["source"]).name for row in pq.read_table(out / "clips.parquet").to_pylist()}
    assert sources == {"good.mp4", "broken.mkv"}  # what stood before the break is good


def test_what_failed_stays_told_until_it_is_given_again(two, tmp_path, fails):
    out = tmp_path / "out"
    (tmp_path / "later").mkdir()
    (bad := tmp_path / "later" / "bad.mp4").write_text("no video")
    told = lambda: {Path(row["source"]).name: row["error"] for row in pq.read_table(out / "sources.parquet").to_pylist()}
    split_ = lambda *given: [*map(str, given), "--out", str(out), *OFFICIAL, "--table-only"]
    fails(split.main, split_(bad, tmp_path / "none.mp4"))
    split.main(split_(two))
    assert set(told()) == {"bad.mp4", "none.mp4", "two.mp4"} and told()["none.mp4"] and told()["bad.mp4"] and told()["two.mp4"] is None
    bad.write_bytes(two.read_bytes())
    split.main(split_(tmp_path / "later"))
    assert told()["bad.mp4"] is None and told()["none.mp4"]
    bad.unlink()
    make(tmp_path / "none.mp4", stream(TWO), size=(90, 160))
    split.main(split_(tmp_path / "none.mp4"))
    assert set(told().values()) == {None}


def test_a_video_that_was_split_is_known_by_every_name(two, tmp_path, monkeypatch):
    path, out = tmp_path / "a.mp4", tmp_path / "out"
    path.write_bytes(two.read_bytes())
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "b.mp4").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    split.main(["a.mp4", "--out", str(out), *OFFICIAL, "--table-only"])
    monkeypatch.setattr(split.Splitter, "_detect", lambda *_: pytest.fail("detected twice"))
    for given in ("./a.mp4", "links/../a.mp4", str(path), "links/b.mp4", "links"):
        split.main([given, "--out", str(out), *OFFICIAL, "--table-only"])
    monkeypatch.chdir(tmp_path / "links")
    split.main(["../a.mp4", "b.mp4", "--out", str(out), *OFFICIAL, "--table-only"])
    assert pq.read_table(out / "sources.parquet")["source"].to_pylist() == [str(path)]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(two, tmp_path, monkeypatch, fails, capsys):
    monkeypatch.setattr(split, "cut", full_disk)
    assert "1 of the inputs failed" in fails(split.main, [str(two), "--out", str(tmp_path / "out"), *OFFICIAL])
    assert "cannot be written: No space left on device" in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("*.mp4")) and not list((tmp_path / "out").rglob(".*"))
    assert pq.read_table(tmp_path / "out/clips.parquet")["file"].to_pylist() == [None, None]


def full_disk(source, piece, path, how, crf):
    """As `cut` where the disk is full."""
    cutting.av.open = lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    try:
        yield from cutting.cut(source, piece, path, how, crf)
    finally:
        cutting.av.open = OPEN


OPEN = av.open


def test_killed_anywhere_it_goes_on(tmp_path):
    """The process is killed when its first clip is there; the next run makes the others and keeps that one."""
    path, out = sounded(tmp_path / "four.mp4", stream([("pan", k, 40) for k in range(4)], (270, 480))), tmp_path / "out"
    command = [sys.executable, "-m", "koala_jax.split", str(path), "--out", str(out), *OFFICIAL, "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not list(out.glob("clips/*/0000.mp4")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (first,) = out.glob("clips/*/0000.mp4")
    kept = first.stat().st_mtime_ns
    split.main([str(path), "--out", str(out), *OFFICIAL])
    assert len(list(out.rglob("0*.mp4"))) == 4 and first.stat().st_mtime_ns == kept


def test_two_runs_do_not_write_into_one_folder(two, tmp_path, fails):
    out = tmp_path / "out"
    out.mkdir()
    fcntl.flock(other := os.open(out, os.O_RDONLY), fcntl.LOCK_EX)
    assert f"another process is writing {out}" in fails(split.main, [str(two), "--out", str(out), "--table-only"])
    assert not list(out.iterdir())
    os.close(other)
    split.main([str(two), "--out", str(out), "--table-only"])
    fcntl.flock(other := os.open(out, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_a_hidden_file_that_was_named_is_not_lost(two, tmp_path):
    """What begins with a dot is passed over among records, clips and sheets, as a file that is being written."""
    hidden = tmp_path / ".two.mp4"
    hidden.write_bytes(two.read_bytes())
    split.main([str(hidden), "--out", str(tmp_path / "out"), *OFFICIAL])
    files = pq.read_table(tmp_path / "out" / "clips.parquet")["file"].to_pylist()
    assert files and [str(path.relative_to(tmp_path / "out")) for path in videos(epath.Path(tmp_path / "out"))] == files


def test_where_nothing_was_found_nothing_follows(tmp_path, fails, capsys):
    (tmp_path / "none.mp4").touch()
    assert "1 of the inputs failed" in fails(split.main, [str(tmp_path / "none.mp4"), "--out", str(tmp_path / "out")])
    assert "next:" not in capsys.readouterr().out


def test_an_accelerator_is_used_where_there_is_one(two, tmp_path, monkeypatch, fails):
    assert not split.on_device(Method.OFFICIAL, Backend.AUTO)
    assert "JAX finds none" in fails(split.main, [str(two), "--out", str(tmp_path / "a"), *OFFICIAL, "--backend", "accelerator"])
    split.main([str(two), "--out", str(tmp_path / "cpu"), *OFFICIAL, "--table-only"])
    monkeypatch.setattr(split.jax, "default_backend", lambda: "tpu")
    split.main([str(two), "--out", str(tmp_path / "tpu"), *OFFICIAL, "--table-only"])
    for name in ("clips", "transitions"):
        a, b = (pq.read_table(tmp_path / kind / f"{name}.parquet") for kind in ("cpu", "tpu"))
        assert a.drop_columns("score") == b.drop_columns("score") if name == "transitions" else a == b


def test_a_method_without_a_program_for_one_leaves_an_accelerator_alone(monkeypatch):
    monkeypatch.setattr(split.jax, "default_backend", lambda: pytest.fail("JAX was started"))
    assert not split.on_device(Method.LEARNED, Backend.AUTO)
    assert not split.on_device(Method.OFFICIAL, Backend.CPU)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")  # of which each splits its own videos
    assert not split.on_device(Method.OFFICIAL, Backend.AUTO)


@pytest.mark.parametrize(
    "args, reason",
    [
        (["--shortest", "3", "--longest", "2"], "shortest"), (["--crf", "99"], "--crf 99"), (["--workers", "0"], "--workers 0"), ([], "no input"),
        *(([flag, value], f"{flag} {value}: a ") for flag, value in (("--patience", "nan"), ("--memory", "inf"), ("--memory", "nan"), ("--memory", "1e+30"))),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(args, reason, fails, tmp_path):
    given = ["any.mp4"] if args else []
    assert reason in fails(split.main, [*given, *args, "--out", str(tmp_path / "out")]) and not list(tmp_path.iterdir())
