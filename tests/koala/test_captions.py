"""Captions of six parts: schema, checks, endpoint, known texts, and the command on clips made on the spot."""
import hashlib
import json
import os
import shutil
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_jax.video import write_video
from koala_jax import caption
from koala_jax.captions import model
from koala_jax.captions.backend import Failure, Request
from koala_jax.captions.checks import Problem, problems
from koala_jax.captions.clips import Clip, open_clips, sample_frames
from koala_jax.captions.endpoint import Endpoint, EndpointConfig, Refused
from koala_jax.captions.known import template
from koala_jax.captions.run import Captioned, caption_group
from koala_jax.captions.schema import WORDS, Caption, Part, prompt, whole_sentences
from tests.koala.caption_server import GOOD, Mood, serving

FRAMES = np.zeros((2, 8, 8, 3), np.uint8)
FAST = dict(backoff=0.01, tries=3)


def requests(number: int = 1) -> list[Request]:
    return [Request(Clip(f"{i}.mp4", f"{i}.mp4"), FRAMES, part) for i in range(number) for part in Part]


def test_the_prompts_ask_for_about_two_hundred_words_and_name_each_part_once():
    assert sum(WORDS.values()) == 200 and WORDS.keys() == set(Part)
    assert len({prompt(part) for part in Part}) == 6


def test_parts_are_merged_in_order_into_sentences():
    merged = Caption.of({Part.ACTIONS: "It  runs\nfast", Part.SUBJECT: "A dog.", Part.WORLD_KNOWLEDGE: "A setter?"})
    assert merged.text == "A dog. It runs fast. A setter?"
    assert Caption.of({}).text == ""


@given(st.dictionaries(st.sampled_from(Part), st.text(max_size=30)))
def test_merging_loses_no_word(texts):
    merged = Caption.of(texts)
    assert [w.rstrip(".") for w in merged.text.split()] == [w.rstrip(".") for part in Part for w in merged[part].split()]


@pytest.mark.parametrize("text, found", [
    ("", [Problem.MISSING]),
    (" … ", [Problem.MISSING]),
    ("A dog.", [Problem.SHORT]),
    (" ".join(f"word{i}" for i in range(136)), [Problem.LONG]),
    ("the dog runs and " * 6, [Problem.REPEATED]),
    ("I’m sorry, but I cannot describe people.", [Problem.REFUSED]),
    ("As an AI I see a dog that runs over the grass.", [Problem.REFUSED]),
    ("There are no images attached. Please provide the video.", [Problem.REFUSED]),
    ("I don't see any video in your message.", [Problem.REFUSED]),
    ("“I'm unable to help with this request.”", [Problem.REFUSED]),
    ('A woman holds a sign that says "I can\'t breathe" in red letters.', []),
    ("Собака бежит по траве the dog runs", [Problem.SCRIPT]),
    ("Señor Müller crosses the Ångström bridge at noon, an old man.", []),
    *((text, []) for text in GOOD.values()),
])  # fmt: skip
def test_what_is_wrong_with_a_text_is_found(text, found):
    assert problems(Part.SUBJECT, text) == found


@given(st.sampled_from(Part), st.text())
def test_any_text_can_be_checked(part, text):
    problems(part, text)


def test_an_endpoint_answers_every_part_with_bounded_concurrency_and_counts_its_cost(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    with serving(Mood.WELL) as server:
        endpoint = Endpoint(EndpointConfig(server.url, "m", "SOME_KEY", concurrency=3, price_in=2.0, price_out=10.0))
        asked = requests(2)
        assert endpoint(asked) == [GOOD[request.part] for request in asked]
    assert 1 < server.most <= 3 and set(server.keys) == {"Bearer secret"}
    assert endpoint.calls == 12 and endpoint.cost == pytest.approx(12 * (1000 * 2 + 50 * 10) / 1e6)
    images = [entry for entry in server.bodies[0]["messages"][0]["content"] if entry["type"] == "image_url"]
    assert len(images) == 2 and images[0]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")


def test_an_error_that_passes_is_survived():
    with serving(Mood.ERROR_ONCE) as server:
        asked = requests()
        assert Endpoint(EndpointConfig(server.url, **FAST))(asked) == [GOOD[request.part] for request in asked]
    assert len(server.parts) == 12


@pytest.mark.parametrize("mood, reason, calls", [
    (Mood.ERROR, "status 500 (3 tries)", 3),
    (Mood.SLOW, "no answer in 0.2 s (3 tries)", 3),
    (Mood.NONSENSE, "an answer that is no chat completion: b'<html>hello</html>' (3 tries)", 3),
    (Mood.TOO_LONG, "status 400: too many images [/INST] for Bearer (the key) (1 try)", 1),
    (Mood.CUT, "an answer that is no chat completion: b'{\"choices\": [{\"messa' (3 tries)", 3),
    (Mood.NO_HTTP, "no connection: BadStatusLine('hello\\r\\n') (3 tries)", 3),
    (Mood.DRIPS, "no answer in 0.2 s (3 tries)", 3),
])  # fmt: skip
def test_an_endpoint_that_stays_bad_costs_its_request_alone(mood, reason, calls, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(mood) as server:
        endpoint = Endpoint(EndpointConfig(server.url, seconds=0.2, **FAST))
        assert endpoint(requests()[:1]) == [Failure(reason)]
        assert len(server.parts) == calls


def test_a_wrong_key_and_a_server_that_is_not_there_are_told_apart():
    with serving(Mood.WRONG_KEY) as server, pytest.raises(Refused, match="refuses with status 401: no such key"):
        Endpoint(EndpointConfig(server.url, **FAST))(requests()[:1])
    (failure,) = Endpoint(EndpointConfig(server.url, **FAST))(requests()[:1])
    assert "no connection" in failure.reason


def test_a_key_goes_to_no_other_address_and_into_no_message(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    with serving(Mood.WELL) as server:
        Endpoint(EndpointConfig(server.url))(requests()[:1])
    assert server.keys == ["Bearer secret"]
    with serving(Mood.MOVED) as server, pytest.raises(Refused, match="status 302: http://localhost:1/v1"):
        Endpoint(EndpointConfig(server.url))(requests()[:1])
    monkeypatch.setenv("OPENAI_API_KEY", "sec\nret")
    with pytest.raises(ValueError, match="^the key in OPENAI_API_KEY holds a character that no header can hold$"):
        Endpoint(EndpointConfig())
    with pytest.raises(ValueError, match="'localhost:8000/v1' must begin with http:// or https://"):
        Endpoint(EndpointConfig("localhost:8000/v1"))


def test_what_ends_a_run_ends_the_pauses_too():
    begun = time.monotonic()
    with serving(Mood.WRONG_FOR_ONE) as server, pytest.raises(Refused, match="status 401"):
        Endpoint(EndpointConfig(server.url, backoff=60))(requests(2))
    while any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()):
        assert time.monotonic() - begun < 5, "a request waits to be tried again"
        time.sleep(0.01)
    assert len(server.parts) <= 12


@pytest.mark.parametrize("text, whole", [
    ("It runs. It turns (slowly). It st", "It runs. It turns (slowly)."),
    ("He says “Stop!” and ru", "He says “Stop!”"),
    ("At 1.5 m from the ca", "At 1.5 m from the ca"),
    ("", ""),
])  # fmt: skip
def test_of_an_answer_that_was_cut_off_the_whole_sentences_stay(text, whole):
    assert whole_sentences(text) == whole
    with serving(Mood.WELL, GOOD | {Part.SUBJECT: "It is brown. It wears a red collar."}) as server:
        answers = [Endpoint(EndpointConfig(server.url, most=most))(requests()[:1]) for most in (4, 8)]
    assert answers == [["It is brown."], ["It is brown. It wears a red collar."]]


def test_half_a_character_becomes_one_that_a_table_can_hold():
    with serving(Mood.HALF_A_CHARACTER) as server:
        (answer,) = Endpoint(EndpointConfig(server.url))(requests()[:1])
    assert answer == GOOD[Part.SUBJECT] + "?"


def test_a_refusal_is_asked_again_and_counted():
    with serving(Mood.REFUSAL_FIRST) as server:
        (done,) = caption_group([(Captioned(Clip("a", "a")), FRAMES)], Endpoint(EndpointConfig(server.url, **FAST)), attempts=3)
    assert done.caption == Caption.of(GOOD) and not done.problems
    assert done.caught == {"refuses": 6} and done.attempts == 12
    assert {body["temperature"] for body in server.bodies} == {0.0, 0.7}


def test_what_stays_wrong_is_marked_and_a_refusal_is_never_kept():
    answers = {Part.SUBJECT: "I'm sorry, I cannot.", Part.ACTIONS: Failure("status 500"), Part.ENVIRONMENT: "Grass."}
    asked = []

    def answer(requests: list[Request]) -> list[str | Failure]:
        asked.extend(request.part for request in requests)
        return [answers.get(request.part, GOOD[request.part]) for request in requests]

    (done,) = caption_group([(Captioned(Clip("a", "a")), FRAMES)], answer, attempts=2)
    assert sorted(asked[6:], key=list(Part).index) == [Part.SUBJECT, Part.ENVIRONMENT], "a failure has had its tries"
    assert done.problems == {Part.SUBJECT: "refuses", Part.ACTIONS: "status 500", Part.ENVIRONMENT: "too short"}
    assert (done.caption.subject, done.caption.actions, done.caption.environment) == ("", "", "Grass.")


def test_only_what_is_wrong_is_asked_again_and_a_failure_takes_no_text_away():
    new = Captioned(Clip("a", "a"))
    answers = GOOD | {Part.ACTIONS: "It runs.", Part.ENVIRONMENT: Failure("status 500")}
    (first,) = caption_group([(new, FRAMES)], lambda asked: [answers[r.part] for r in asked], attempts=1)
    first = Captioned.of(new.clip, json.loads(json.dumps(first.row())))
    assert first.problems == {Part.ACTIONS: "too short", Part.ENVIRONMENT: "status 500"} and first.attempts == 6
    asked = []

    def down(requests: list[Request]) -> list[Failure]:
        asked.extend((request.part, request.attempt) for request in requests)
        return [Failure("no connection") for _ in requests]

    (second,) = caption_group([(first, FRAMES)], down, attempts=1)
    assert asked == [(Part.ACTIONS, 1), (Part.ENVIRONMENT, 0)], "what was answered once is drawn, and not said again"
    assert second.caption == first.caption and second.caption.actions == "It runs."
    assert second.problems == {Part.ACTIONS: "too short", Part.ENVIRONMENT: "no connection"} and second.attempts == 8
    (third,) = caption_group([(second, FRAMES)], lambda asked: [GOOD[r.part] for r in asked], attempts=1)
    assert third.done and third.caption == Caption.of(GOOD)


def test_the_template_says_what_metrics_know_and_nothing_else():
    clip = Clip("a.mp4", "a.mp4", row={"motion": 1.5, "clarity": "0.75", "aesthetic": float("nan")})
    said = dict(zip(Part, template([Request(clip, FRAMES, part) for part in Part])))
    assert said[Part.ACTIONS] == "Measured, not seen: things move 1.50 pixels a frame."
    assert said[Part.VISUAL_LANGUAGE] == "Measured, not seen: the clarity is 0.75 of 1."
    assert not any(said[part] for part in (Part.SUBJECT, Part.ENVIRONMENT, Part.CAMERA_LANGUAGE, Part.WORLD_KNOWLEDGE))


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
        frames = sample_frames(Clip(str(folder / "a.mp4"), "a.mp4", 0.5, 1.5), 4, 24, pool)
        assert frames.shape == (4, 12, 24, 3)
        np.testing.assert_allclose(frames.mean((1, 2, 3)), 40 + 8 * np.array([5, 7, 9, 11]), atol=3)
        with pytest.raises(ValueError, match="from 0.5 to 9 s does not lie in its 1.5 s"):
            sample_frames(Clip(str(folder / "a.mp4"), "a.mp4", 0.5, 9.0), 4, 24, pool)


def test_the_command_writes_a_table_and_a_page_and_keeps_the_reason_of_a_broken_clip(folder, tmp_path, capsys):
    with serving(Mood.WELL) as server:
        out = tmp_path / "captions.parquet"
        flags = {"out": out, "backend": "endpoint", "endpoint.url": server.url, "frames": 2, "report": tmp_path / "page.html"}
        figures = run([folder], **flags)
        assert figures["captioned"] == 2 and figures["unreadable"] == 1 and figures["calls"] == 12
        rows = {Path(row["file"]).name: row for row in pa.parquet.read_table(out).to_pylist()}
        assert rows["a.mp4"]["caption"] == Caption.of(GOOD).text and rows["a.mp4"]["subject"] == GOOD[Part.SUBJECT]
        assert rows["a.mp4"]["words"] == len(rows["a.mp4"]["caption"].split()) and rows["a.mp4"]["problems"] == []
        assert "c.mp4" in rows["c.mp4"]["failed"] and rows["c.mp4"]["caption"] == ""
        page = (tmp_path / "page.html").read_text()
        assert GOOD[Part.CAMERA_LANGUAGE] in page and "data:image/jpeg" in page
        assert f"wrote {out}" in capsys.readouterr().out.replace("\n", "")
        again = run([folder], **flags)
        assert again["calls"] == 0 and again["captioned"] == 2, "what is finished is not asked again"


def test_a_run_cut_off_goes_on_and_other_settings_begin_anew(folder, tmp_path):
    out = tmp_path / "captions.parquet"
    with serving(Mood.WELL) as server:
        flags = {"out": out, "backend": "endpoint", "endpoint.url": server.url, "frames": 2, "group": 1}
        run([folder], **flags)
        done = sorted((tmp_path / "captions.parquet.parts").iterdir())
        assert len(done) == 3
        next(path for path in done if "a.mp4" in path.read_text()).write_text("[{")  # as a host leaves it that goes down
        assert run([folder], **flags)["calls"] == 6
        assert run([folder], **flags | {"attempts": 4})["calls"] == 0
        assert run([folder], **flags | {"frames": 3})["calls"] == 12
        assert run([folder], **flags | {"endpoint.most": 300})["calls"] == 12
        shutil.copy(folder / "b.mp4", folder / "a.mp4")
        assert run([folder], **flags)["calls"] == 6, "a file that has changed is another clip"


def test_hosts_take_the_clips_in_turn_and_the_first_one_writes_the_table(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "captions.parquet"
    shutil.copy(folder / "a.mp4", folder / "aa.mp4")
    with serving(Mood.WELL) as server:
        flags = [str(folder), f"--out={out}", "--backend=endpoint", f"--endpoint.url={server.url}", "--frames=1"]
        for host, calls, written in ((0, 12, False), (1, 18, False), (0, 18, True)):
            monkeypatch.setattr(caption, "_hosts", lambda backend, host=host: (host, 2))
            caption.main(flags)
            assert (len(server.parts), out.exists()) == (calls, written)
            assert ("share is done" in capsys.readouterr().out.replace("\n", " ")) != written
    rows = pa.parquet.read_table(out).to_pylist()
    assert [bool(row["caption"]) for row in rows] == [True, True, True, False] and rows[3]["failed"], "the second host's too"


def test_a_rerun_while_the_endpoint_is_down_destroys_nothing(folder, tmp_path):
    out = tmp_path / "captions.parquet"
    with serving(Mood.WELL, GOOD | {Part.ACTIONS: "It runs."}) as server:
        flags = {"out": out, "backend": "endpoint", "endpoint.url": server.url, "frames": 1, "attempts": 1, "endpoint.tries": 1}
        assert run([folder], **flags)["calls"] == 12
    texts = pa.parquet.read_table(out).column("caption").to_pylist()
    assert "It runs." in texts[0]
    figures = run([folder], **flags)
    assert figures["calls"] == 2 and figures["problems left"] == {"actions: too short": 2}, "of each clip the part that is marked"
    assert pa.parquet.read_table(out).column("caption").to_pylist() == texts
    assert len(list((tmp_path / "captions.parquet.parts").iterdir())) == 2, "a file for each group and run"


def test_a_bad_endpoint_marks_the_clips_and_the_run_goes_on(folder, tmp_path, capsys):
    with serving(Mood.TOO_LONG) as server:
        figures = run([folder], out=tmp_path / "c.parquet", backend="endpoint", frames=1, **{"endpoint.url": server.url})
    said = "subject: status 400: too many images [/INST] for None (1 try)"
    assert figures["captioned"] == 0 and figures["problems left"][said] == 2 and len(server.parts) == 12
    assert said in capsys.readouterr().out.replace("\n", ""), "what a server says is shown as it is"
    assert pa.parquet.read_table(tmp_path / "c.parquet").num_rows == 3


def test_templates_and_given_captions_come_from_the_table(folder, tmp_path):
    rows = [{"file": "a.mp4", "motion": 2.0, **{part.value: text for part, text in GOOD.items()}}, {"file": "c.mp4", "motion": None}]
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    figures = run([folder / "table.parquet"], out=tmp_path / "t.parquet", backend="template")
    assert figures["captioned"] == 1
    table = pa.parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert table[0]["caption"] == "Measured, not seen: things move 2.00 pixels a frame." and table[0]["backend"] == "template"
    assert table[0]["motion"] == 2.0 and table[0]["file"] == str((folder / "a.mp4").resolve()), "scores go along, and the file is found from there"
    figures = run([folder / "table.parquet"], out=tmp_path / "g.parquet", backend="given")
    assert figures["unreadable"] == 0 and not (tmp_path / "g.parquet.parts").exists(), "no frame is looked at, and nothing kept"
    table = pa.parquet.read_table(tmp_path / "g.parquet").to_pylist()
    assert table[0]["caption"] == Caption.of(GOOD).text and len(table[1]["problems"]) == 6


def test_bad_input_is_one_sentence(folder, tmp_path, fails):
    assert "neither a folder" in fails(caption.main, [str(tmp_path / "nothing")])
    assert "must end in .parquet" in fails(caption.main, [str(folder), "--out=x.csv"])
    assert "at least 1" in fails(caption.main, [str(folder), "--frames=0"])
    assert "--model.batch and --model.most must be" in fails(caption.main, [str(folder), "--model.directory=x", "--model.batch=0"])
    assert "needs --model.directory" in fails(caption.main, [str(folder), f"--out={tmp_path / 'o.parquet'}"])
    said = fails(caption.main, [str(folder), "--backend=template", f"--out={tmp_path / 'o.parquet'}"])
    assert "reads the columns motion, aesthetic, clarity, and" in said
    (tmp_path / "empty").mkdir()
    assert "holds no clip" in fails(caption.main, [str(tmp_path / "empty")])
    for number, (text, said) in enumerate({
        "name\nx\n": "without `file`",
        "file,start_s\na.mp4,soon\n": "start_s 'soon'",
        "file,end_s\na.mp4,inf\n": "end_s inf",
        "file\na.mp4\na.mp4\n": "'a.mp4' twice",
    }.items()):  # fmt: skip
        table = tmp_path / f"{number}.csv"
        table.write_text(text)
        with pytest.raises(ValueError, match=said):
            open_clips(table)


def test_what_no_table_can_hold_costs_itself_alone(tmp_path, caplog):
    (tmp_path / "a.mp4").touch()
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    assert [clip.file for clip in open_clips(tmp_path)] == ["a.mp4"]
    assert "'caf\\udce9.mp4' is left out: its name is not UTF-8" in caplog.text
    (tmp_path / "t.csv").write_text("file,start_s,end_s\na.mp4,nan,2\n")
    (clip,) = open_clips(tmp_path / "t.csv")
    assert (clip.start_s, clip.end_s) == (None, 2.0), "a number that is none is unknown"


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
    from flax import nnx

    from core_jax.lmm.model import LMM
    from core_jax.lmm.save import save
    from core_jax.lmm.tokenizer import Tokenizer
    from tests.core.test_lmm_parts import CONFIG, words

    save(tmp_path / "model", LMM(CONFIG, rngs=nnx.Rngs(0)), Tokenizer(words(), CONFIG))
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
