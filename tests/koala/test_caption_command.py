"""The caption command on clips made on the spot: tables, pages, going on, hosts, bad input."""
import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pyarrow as pa
import pytest
from etils import epath

from core_jax import cli
from core_jax.video_out import write_video
from koala_jax import caption, journal
from koala_jax.captions import model
from koala_jax.captions.clips import Clip, open_clips, open_table, sampler
from koala_jax.captions.endpoint import Refused
from koala_jax.captions.schema import Caption, Part
from tests.core.video_files import make
from tests.koala.caption_server import GOOD, Mood, serving
from videodit_jax.data.folder import rows_of


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two clips, a broken one, and a table with two metrics."""
    (tmp_path / "clips").mkdir()
    ramp = np.arange(12, dtype=np.uint8)[:, None, None, None]
    for name, level in (("a.mp4", 40), ("b.mp4", 90)):
        write_video(tmp_path / "clips" / name, np.broadcast_to(level + 8 * ramp, (12, 24, 48, 3)), 8)
    (tmp_path / "clips" / "c.mp4").write_bytes(b"no video")
    return tmp_path / "clips"


def run(args: list, **options) -> dict:
    """The figures of a run of the command."""
    path = Path(options["out"]).with_suffix(".figures.json")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    caption.main([*map(str, args), *flags, f"--json={path}"])
    return json.loads(path.read_text())


def test_frames_lie_in_the_middles_of_equal_spans(folder):
    from core_jax.video_worker import DecodePool

    with DecodePool(1) as pool:
        sample = sampler(4, 24, pool)
        frames = sample(Clip(str(folder / "a.mp4"), "a.mp4", 0.5, 1.5))
        assert frames.shape == (4, 12, 24, 3)
        np.testing.assert_allclose(frames.mean((1, 2, 3)), 40 + 8 * np.array([5, 7, 9, 11]), atol=3)
        with pytest.raises(ValueError, match="from 0.5 to 9 s does not lie in its 1.5 s"):
            sample(Clip(str(folder / "a.mp4"), "a.mp4", 0.5, 9.0))


def test_spans_of_one_film_read_its_timestamps_once(folder):
    from core_jax.video_worker import DecodePool

    with DecodePool(1) as pool, mock.patch.object(pool, "probe", wraps=pool.probe) as probe:
        sample = sampler(1, 24, pool)
        shown = [sample(Clip(str(folder / "a.mp4"), "a.mp4", k / 8, (k + 1) / 8)).mean() for k in range(5)]
    assert probe.call_count == 1 and shown == sorted(set(shown))


def test_frames_of_wide_pixels_are_shown_whole(tmp_path):
    """The patch at the left of `picture` would be cut off."""
    from core_jax.video_worker import DecodePool

    make(tmp_path / "wide.mp4", 4, pixel=(2, 1))
    with DecodePool(1) as pool:
        (frame, *_) = sampler(2, 64, pool)(Clip(str(tmp_path / "wide.mp4"), "wide.mp4", None, None, {}))
    assert frame.shape == (24, 64, 3) and frame[2, :12].mean(0)[0] > 180


def test_a_page_of_fewer_clips_than_were_captioned_says_so(folder, tmp_path, monkeypatch):
    with serving(Mood.WELL) as server:
        for shown, said in ((3, False), (2, True)):
            monkeypatch.setattr("koala_jax.captions.report.SHOWN", shown)
            flags = {"backend": "endpoint", "endpoint.url": server.url, "frames": 2, "report": tmp_path / "page.html"}
            run([folder], out=tmp_path / "captions.parquet", **flags)
            page = (tmp_path / "page.html").read_text()
            assert page.count("<article") == shown and (f"first {shown} are here" in page) == said


def test_the_command_writes_a_table_and_a_page_and_keeps_the_reason_of_a_broken_clip(folder, tmp_path, capsys):
    with serving(Mood.WELL) as server:
        out = tmp_path / "captions.parquet"
        flags = {"out": out, "backend": "endpoint", "endpoint.url": server.url, "frames": 2, "report": tmp_path / "page.html"}
        figures = run([folder], **flags)
        assert figures["captioned"] == 2 and figures["unreadable"] == 1 and figures["calls"] == 12
        rows = {Path(row["file"]).name: row for row in pa.parquet.read_table(out).to_pylist()}
        assert rows["a.mp4"]["caption"] == Caption.of(GOOD).text and rows["a.mp4"]["subject"] == GOOD[Part.SUBJECT]
        assert rows["a.mp4"]["words"] == len(rows["a.mp4"]["caption"].split()) and rows["a.mp4"]["problems"] == []
        assert rows["c.mp4"]["failed"].startswith("FFmpeg says: ") and rows["c.mp4"]["caption"] == ""
        page = (tmp_path / "page.html").read_text()
        assert GOOD[Part.CAMERA_LANGUAGE] in page and "data:image/jpeg" in page
        assert re.search(r"img{[^}]*max-height", page) and re.search(r"dd{[^}]*overflow-wrap", page), "a portrait fits a screen, a word its column"
        assert f"wrote {out}" in capsys.readouterr().out.replace("\n", "")
        again = run([folder], **flags)
        assert again["calls"] == 0 and again["captioned"] == 2, "what is finished is not asked again"


def test_a_run_cut_off_goes_on_and_other_settings_begin_anew(folder, tmp_path, monkeypatch):
    out = tmp_path / "captions.parquet"
    with serving(Mood.WELL) as server:
        flags = {"out": out, "backend": "endpoint", "endpoint.url": server.url, "frames": 2, "group": 1}
        run([folder], **flags)
        done = sorted((tmp_path / "captions.parquet.parts").iterdir())
        assert len(done) == 3
        next(path for path in done if "a.mp4" in path.read_text()).write_text("[{")  # as a host leaves it that goes down
        assert run([folder], **flags)["calls"] == 6
        monkeypatch.chdir(tmp_path)
        assert run([folder.name], **flags | {"attempts": 4})["calls"] == 0, "by whatever path"
        (tmp_path / "kept.csv").write_text("file\nclips/b.mp4\nclips/a.mp4\n")
        assert run(["kept.csv"], **flags)["calls"] == 0, "and in whatever table"
        assert run([folder], **flags | {"frames": 3})["calls"] == 12
        assert run([folder], **flags | {"endpoint.most": 300})["calls"] == 12
        shutil.copy(folder / "b.mp4", folder / "a.mp4")
        assert run([folder], **flags)["calls"] == 6, "a file that has changed is another clip"


def test_who_stops_is_told_what_it_cost(folder, tmp_path, monkeypatch, capsys):
    def stops(config, clips, answers, *rest):
        answers.calls += 3
        raise KeyboardInterrupt

    monkeypatch.setattr(caption, "caption_all", stops)
    with pytest.raises(SystemExit, match="the same command goes on$"):
        caption.main([str(folder), f"--out={tmp_path / 'captions.parquet'}", "--backend=endpoint"])
    assert "calls: 3\n" in capsys.readouterr().out
    parts = journal.Journal(tmp_path / "captions.parquet", 1)
    parts.add([{"key": "a"}])
    assert journal.stopped(tmp_path / "captions.parquet") == f"stopped: the same command goes on from what is finished in {parts.folder}"


def test_shares_take_the_clips_in_turn_and_who_is_last_writes_the_table(folder, tmp_path, capsys, monkeypatch):
    """Part by part: all rows of a million clips as dicts take gigabytes; and who is not the last reads none of them again."""
    out, read, rows = tmp_path / "captions.parquet", [], journal._rows
    monkeypatch.setattr(journal.Journal, "rows", lambda journal: pytest.fail("all rows at once"))
    monkeypatch.setattr(journal, "_rows", lambda part: read.append(part) or rows(part))
    shutil.copy(folder / "a.mp4", folder / "aa.mp4")
    with serving(Mood.WELL) as server:
        flags = [str(folder), f"--out={out}", "--backend=endpoint", f"--endpoint.url={server.url}", "--frames=1"]
        for share, calls, written, parts in (("1/2", 12, False, 0), ("2/2", 18, True, 1 + 2), ("1/2", 18, True, 2 + 2)):
            read.clear()
            caption.main([*flags, f"--share={share}"])
            assert (len(server.parts), out.exists(), len(read)) == (calls, written, parts)
            said = capsys.readouterr().out
            assert f"share {share} has " in said and (f"share {share} is done" in said) != written
    rows = pa.parquet.read_table(out).to_pylist()
    assert [bool(row["caption"]) for row in rows] == [True, True, True, False] and rows[3]["failed"], "the second one's too"


def test_a_rerun_while_the_endpoint_is_down_destroys_nothing(folder, tmp_path):
    out = tmp_path / "captions.parquet"
    with serving(Mood.WELL, GOOD | {Part.ACTIONS: "It runs."}) as server:
        flags = {"out": out, "backend": "endpoint", "endpoint.url": server.url, "frames": 1, "attempts": 1, "endpoint.tries": 1}
        assert run([folder], **flags)["calls"] == 12
    texts = pa.parquet.read_table(out).column("caption").to_pylist()
    assert "It runs." in texts[0]
    with pytest.raises(Refused, match="no connection: Connection refused"):
        run([folder], **flags)
    assert pa.parquet.read_table(out).column("caption").to_pylist() == texts
    assert len(list((tmp_path / "captions.parquet.parts").iterdir())) == 1


def test_a_bad_endpoint_marks_the_clips_and_the_run_goes_on(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "SAY_SECONDS", 0)
    with serving(Mood.TOO_LONG) as server:
        with pytest.raises(ValueError, match="no clip has a caption"):
            run([folder], out=tmp_path / "c.parquet", backend="endpoint", frames=1, **{"endpoint.url": server.url})
    figures = json.loads((tmp_path / "c.figures.json").read_text())
    said = "subject: status 400: too many images [/INST] for None (1 try)"
    assert figures["captioned"] == 0 and figures["problems left"][said] == 2 and len(server.parts) == 12
    shown = capsys.readouterr().out
    assert said in shown.replace("\n", ""), "what a server says is shown as it is"
    assert re.search(r"^3 of 3 captions, \d+\.\d a minute$", shown, re.M), "a log is told how far it is"
    assert pa.parquet.read_table(tmp_path / "c.parquet").num_rows == 3


def test_templates_and_given_captions_come_from_the_table(folder, tmp_path):
    rows = [{"file": "a.mp4", "motion": 2.0, **{part.value: text for part, text in GOOD.items()}}, {"file": "c.mp4", "motion": None}]
    given = pa.Table.from_pylist(rows).append_column("embedding", pa.array([[1.0, 2.0], None], pa.list_(pa.float32())))
    pa.parquet.write_table(given.append_column("aesthetic", pa.nulls(2, pa.float64())), folder / "table.parquet")
    figures = run([folder / "table.parquet"], out=tmp_path / "t.parquet", backend="template")
    assert figures["captioned"] == 1
    table = pa.parquet.read_table(tmp_path / "t.parquet")
    assert table.schema.field("aesthetic").type == pa.float64() and table.schema.field("embedding").type == pa.list_(pa.float32())
    table = table.to_pylist()
    assert table[0]["embedding"] == [1.0, 2.0]
    assert table[0]["caption"] == "Measured, not seen: things move 2.00 pixels a frame." and table[0]["backend"] == "template"
    assert table[0]["motion"] == 2.0 and table[0]["file"] == str((folder / "a.mp4").resolve()), "scores go along, and the file is found from there"
    assert table[0]["problems"] == ["visual_language: missing"], "what no metric ever tells is no problem"
    figures = run([folder / "table.parquet"], out=tmp_path / "g.parquet", backend="given")
    assert figures["unreadable"] == 0 and not (tmp_path / "g.parquet.parts").exists(), "no frame is looked at, and nothing kept"
    table = pa.parquet.read_table(tmp_path / "g.parquet").to_pylist()
    assert table[0]["caption"] == Caption.of(GOOD).text and len(table[1]["problems"]) == 6


def test_times_in_the_source_stay_beside_the_caption(folder, tmp_path):
    (folder / "t.csv").write_text("source,clip,start_s,end_s,file,motion\nlong.mp4,0,2,5.5,a.mp4,1\nlong.mp4,1,5.5,7,b.mp4,2\n")
    run([folder / "t.csv"], out=tmp_path / "t.parquet", backend="template")
    table = pa.parquet.read_table(tmp_path / "t.parquet")
    assert table.select(["source", "clip", "start_s", "end_s"]).to_pylist()[1] == {"source": "long.mp4", "clip": 1, "start_s": 5.5, "end_s": 7.0}
    kept = rows_of(epath.Path(tmp_path / "t.parquet"), ())
    assert kept[str(folder / "b.mp4")][0] == "Measured, not seen: things move 2.00 pixels a frame.", "and training reads such a table"


def test_a_metric_that_is_no_number_is_not_taken_for_unknown(folder, tmp_path, fails):
    (folder / "t.csv").write_text("file,motion,clarity\na.mp4,1,\nb.mp4,fast,0.5\n")
    said = fails(caption.main, [str(folder / "t.csv"), "--backend=template", f"--out={tmp_path / 't.parquet'}"])
    assert said == "b.mp4 has the motion 'fast', which is not a number" and not (tmp_path / "t.parquet").exists()


def test_what_training_would_refuse_is_not_advised(folder, tmp_path, capsys):
    for text, part in (("a.mp4,,,1", False), ("a.mp4,,2,1", True)):
        (folder / "t.csv").write_text(f"file,start_s,end_s,motion\n{text}\n")
        run([folder / "t.csv"], out=tmp_path / "t.parquet", backend="template")
        said = capsys.readouterr().out
        assert ("videodit_jax.train" in said, "training takes whole ones" in said) == (not part, part)


def test_templates_are_made_of_clips_that_are_there(folder, tmp_path):
    (folder / "t.csv").write_text("file,start_s,end_s,motion\na.mp4,,,1\nlost.mp4,,,2\na.mp4,2,1,3\nb.mp4,0.5,1,4\n")
    figures = run([folder / "t.csv"], out=tmp_path / "t.parquet", backend="template")
    rows = pa.parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert (figures["captioned"], figures["unreadable"]) == (2, 2) and [bool(row["caption"]) for row in rows] == [True, False, False, True]
    assert rows[1]["failed"] == f"there is no file {folder / 'lost.mp4'}"
    assert rows[2]["failed"] == "a.mp4: a clip from 2 to 1 s must end after it begins" and rows[3]["failed"] == ""


def test_bad_input_is_one_sentence(folder, tmp_path, fails):
    assert "there is no file or folder" in fails(caption.main, [str(tmp_path / "nothing.parquet")])
    assert "must end in .parquet" in fails(caption.main, [str(folder), "--out=x.csv"])
    assert "at least 1" in fails(caption.main, [str(folder), "--frames=0"])
    assert "--share 0/2: K/N is wanted, with K from 1 to N" in fails(caption.main, [str(folder), "--share=0/2"])
    assert "the backend given asks nobody" in fails(caption.main, [str(folder), "--backend=given", "--share=1/2"])
    assert "--model.batch 0: at least 1 is needed" in fails(caption.main, [str(folder), "--model.directory=x", "--model.batch=0"])
    assert "needs --model.directory" in fails(caption.main, [str(folder), f"--out={tmp_path / 'o.parquet'}"])
    said = fails(caption.main, [str(folder), "--backend=template", f"--out={tmp_path / 'o.parquet'}"])
    assert "reads the columns motion, aesthetic, clarity, and" in said
    (tmp_path / "empty").mkdir()
    assert "holds no clip" in fails(caption.main, [str(tmp_path / "empty")])
    for number, (text, said) in enumerate({
        "name\nx\n": "no column `file`",
        "file,start_s\na.mp4,soon\n": "start_s 'soon'",
        "file,end_s\na.mp4,inf\n": "end_s inf",
        "file\na.mp4\na.mp4\n": "'a.mp4' twice",
    }.items()):  # fmt: skip
        table = tmp_path / f"{number}.csv"
        table.write_text(text)
        with pytest.raises(ValueError, match=said):
            open_clips(table)
    for name in ("file", "subject"):
        pa.parquet.write_table(pa.table({"file": ["a.mp4"]} | {name: [7]}), tmp_path / "t.parquet")
        with pytest.raises(ValueError, match=f"gives row 1 the `{name}` 7, which is not text"):
            open_clips(tmp_path / "t.parquet")


def test_what_no_table_can_hold_costs_itself_alone(tmp_path, caplog):
    (tmp_path / "a.mp4").touch()
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    assert [clip.file for clip in open_clips(tmp_path)] == ["a.mp4"]
    assert "caf\\udce9.mp4' is left out: its name is not UTF-8" in caplog.text
    (tmp_path / "t.csv").write_text("file,start_s,end_s\na.mp4,nan,2\n")
    (clip,) = open_clips(tmp_path / "t.csv")
    assert (clip.start_s, clip.end_s) == (None, 2.0), "a number that is none is unknown"
    (tmp_path / "clips.csv").write_text("source,clip,start_s,end_s,file\nlong.mp4,0,2,5,\nlong.mp4,1,5,7,a.mp4\n")
    (clip,), columns = open_table(tmp_path / "clips.csv")
    assert columns["clip"].to_pylist() == [1] and "1 of the 2 clips of" in caplog.text, "what was not cut"
    assert (clip.start_s, clip.end_s, clip.name) == (None, None, "a.mp4"), "of split's table the times are the source's"


def test_text_of_a_table_stays_text_and_its_lines_may_break(tmp_path):
    words = "word " * 25
    (tmp_path / "t.csv").write_text("file,subject,actions\n" + "".join(f'{i:05},{i},"{words}\n{i}"\n' for i in range(10000)))  # over 1 MB
    clips = open_clips(tmp_path / "t.csv")
    assert len(clips) == 10000 and clips[7].file == "00007" and (clips[7].row["subject"], clips[7].row["actions"]) == ("7", f"{words}\n7")


def test_of_a_scored_table_a_clip_has_what_is_read_and_its_file_is_asked_once(tmp_path, monkeypatch):
    asked, stamp = [], journal.stamp
    monkeypatch.setattr(journal, "stamp", lambda path: asked.append(path) or stamp(path))
    (tmp_path / "a.mp4").touch()
    (tmp_path / "t.csv").write_text("file,motion,flicker,subject\na.mp4,1,2,a dog\n")
    assert open_clips(tmp_path / "t.csv")[0].row == {"file": "a.mp4", "subject": "a dog"}
    (clip,), columns = open_table(tmp_path / "t.csv", ("motion",))
    assert clip.row == {"file": "a.mp4", "motion": 1} and columns["flicker"].to_pylist() == [2]
    assert clip.key == clip.key == f"{tmp_path / 'a.mp4'} 0 {int((tmp_path / 'a.mp4').stat().st_mtime)}" and len(asked) == 1


def test_a_models_files_are_read_once_while_they_stay_as_they_are(tmp_path, monkeypatch):
    read, before = [], jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(model, "sha256", lambda path: read.append(path.name) or hashlib.sha256(path.read_bytes()).hexdigest())
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (directory / name).write_text(name)
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
        first = model.content(directory)
        assert model.content(directory) == first and read == ["config.json", "model.safetensors"]
        (directory / "model.safetensors").write_text("MODEL.safetensors")
        changed = model.content(directory)
        assert changed[0] == first[0] and changed[1] != first[1] and read[2:] == ["model.safetensors"]
        (kept,) = (tmp_path / "cache" / "digests").iterdir()
        kept.write_text(kept.read_text()[:-9])
        assert model.content(directory) == changed and len(read) == 5, "a file that a crash has broken is as none"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_the_model_backend_captions_clips_with_random_weights(folder, tmp_path, monkeypatch):
    """The path, not the words: whatever a random model says is checked, marked and written."""
    from core_jax.lmm.fresh import untrained
    from core_jax.lmm.save import save
    from core_jax.lmm.tokenizer import Tokenizer
    from tests.core.test_lmm_parts import CONFIG, words

    save(tmp_path / "model", untrained(CONFIG, 0), Tokenizer(words(), CONFIG))
    flags = {"model.directory": tmp_path / "model", "model.most": 8, "model.batch": 8, "frames": 2, "attempts": 2}
    begun = time.monotonic()
    figures = run([folder], out=tmp_path / "c.parquet", backend="model", **flags)
    assert figures["clips"] == 3 and figures["unreadable"] == 1 and figures["clips a second"] > 0, time.monotonic() - begun
    rows = pa.parquet.read_table(tmp_path / "c.parquet").to_pylist()
    assert rows[0]["attempts"] >= 6 and rows[0]["backend"] == "model"
    parts = tmp_path / "c.parquet.parts"
    for path in parts.iterdir():
        path.write_text(json.dumps([row | {"problems": [], "failed": ""} for row in json.loads(path.read_text())]))
    monkeypatch.setattr(model, "load", lambda *_: pytest.fail("weights are read though nothing is left to ask"))
    assert run([folder], out=tmp_path / "c.parquet", backend="model", **flags)["clips a second"] is None


@pytest.mark.parametrize(
    "rows, said",
    [("name\na.mp4\n", "has no column `file`; its columns are name"), ("file,caption\na.mp4,x\n,y\n", "has a row without `file`; its columns are file, caption")],
)
def test_a_table_whose_clips_have_no_name_is_refused(tmp_path, rows, said):
    (tmp_path / "clips.csv").write_text(rows)
    with pytest.raises(ValueError, match=said):
        open_clips(tmp_path / "clips.csv")
