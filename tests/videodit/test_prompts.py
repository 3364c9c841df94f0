"""Many prompts by one command: read, named, made by one load and one program, gone on with, and never mixed with others."""
import json

import jax
import numpy as np
import pyarrow as pa
import pytest
from etils import epath

from core_jax.tables import read_table, write_parquet
from core_jax.video import frames
from tests.videodit import small
from videodit_jax import maker, prompts, sample, sampler
from videodit_jax.evaluate.__main__ import find

STATISTICS = small.STATISTICS
TABLE = "caption,motion,clarity,other\na bar,2,,1\na red circle,,,2\n\"a bar\",3,0.5,3\n"
FILES = [f"{stem}.mp4" for stem in ("a bar-0", "a bar-1", "a red circle-0", "a red circle-1", "a bar-2", "a bar-3")]


def test_a_text_has_a_prompt_a_line_and_a_table_a_column_and_scores(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffa dog, running\r\n\n  “a” cat \n".encode())
    assert prompts.read(tmp_path / "a.txt", STATISTICS.quantiles) == [("a dog, running", {}), ("“a” cat", {})]
    (tmp_path / "a.csv").write_text(TABLE)
    rows = [("a bar", {"motion": 2.0}), ("a red circle", {}), ("a bar", {"motion": 3.0, "clarity": 0.5})]
    assert prompts.read(tmp_path / "a.csv", STATISTICS.quantiles) == rows
    write_parquet(tmp_path / "a.parquet", read_table(tmp_path / "a.csv"))
    assert prompts.read(tmp_path / "a.parquet", STATISTICS.quantiles) == rows


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.csv", "file,text\na.mp4,a dog\n", "a.csv has no column `caption`; its columns are file, text"),
        ("a.csv", "caption,motion\na dog,fast\n", "a.csv gives 'row 1' the motion 'fast', which is not a number"),
        ("a.csv", "caption\n", "a.csv holds no prompt"),
        ("a.txt", "\n \n", "a.txt holds no prompt"),
        ("a.txt", "caf\udce9\n", "a.txt is not UTF-8 text: a prompt a line is wanted, or a table (.csv, .parquet)"),
    ],
)
def test_a_file_without_prompts_is_one_sentence(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError) as error:
        prompts.read(tmp_path / name, STATISTICS.quantiles)
    assert str(error.value) == f"{tmp_path}/{said}"


def test_numbers_for_captions_are_refused(tmp_path):
    write_parquet(tmp_path / "a.parquet", pa.table({"caption": [1, 2]}))
    with pytest.raises(ValueError, match="gives row 1 the `caption` 1, which is not text"):
        prompts.read(tmp_path / "a.parquet", ())


def test_files_are_named_as_vbench_looks_for_them_and_no_two_alike():
    name = lambda *given: [one.file for one in prompts.asked([(prompt, {}) for prompt in given], 2, 0)]
    assert name("A dog.") == ["A dog.-0.mp4", "A dog.-1.mp4"] and name("x" * 200)[0] == f"{'x' * 180}-0.mp4"
    assert name("a/b\nc", "", "../x") == ["a b c-0.mp4", "a b c-1.mp4", "video-0.mp4", "video-1.mp4", "x-0.mp4", "x-1.mp4"]
    assert name("a dog", "A Dog")[2:] == ["A Dog-2.mp4", "A Dog-3.mp4"], "where a disk knows no capitals they are one name"
    long = name("é" * 300 + "a", "é" * 300 + "b")
    assert len(set(long)) == 4 and all(len(one.encode()) < 190 for one in long)
    assert [(one.prompt, one.seed, one.scores) for one in prompts.asked([("a", {"motion": 1.0}), ("b", {})], 2, 5)] == [
        ("a", 5, {"motion": 1.0}), ("a", 6, {"motion": 1.0}), ("b", 5, {}), ("b", 6, {}),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.exported(tmp_path_factory.mktemp("exported"))


@pytest.fixture
def command(folder, tmp_path, monkeypatch):
    """command(*flags) samples two videos a prompt in batches of four, which fills the folder `out`."""
    (tmp_path / "prompts.csv").write_text(TABLE)
    small.use(1, monkeypatch)
    monkeypatch.setattr(sampler.Sampler, "batch", 4)
    given = ["--run", str(folder), "--prompts", str(tmp_path / "prompts.csv"), "--out", str(tmp_path / "out"), "--n", "2", "--steps", "1", "--seed", "5"]
    return lambda *flags: sample.main([*given, *flags])


def pixels(path) -> np.ndarray:
    return np.stack([frame for _, _, frame in frames(str(path))]).astype(int)


def test_each_prompt_gets_its_videos_by_one_load_and_one_program(command, folder, tmp_path, monkeypatch, capsys):
    calls, load, trace = [], maker.load_model, sampler.from_noise
    monkeypatch.setattr(maker, "load_model", lambda *args: calls.append("load") or load(*args))
    monkeypatch.setattr(sampler, "from_noise", lambda *args: calls.append("compile") or trace(*args))
    command()
    assert calls == ["load", "compile"]
    assert [path.name for path in find((str(tmp_path / "out"),))] == sorted(FILES)
    held = read_table(tmp_path / "out" / "videos.csv").to_pylist()
    assert [row["file"] for row in held] == FILES and [row["seed"] for row in held] == [5, 6] * 3
    assert [(row["caption"], row["motion"], row["clarity"]) for row in held][::2] == [("a bar", 2, None), ("a red circle", None, None), ("a bar", 3, 0.5)]
    assert f"wrote {tmp_path}/out: 6 videos, and videos.csv; next: python -m videodit_jax.evaluate {tmp_path}/out" in capsys.readouterr().out
    alone = ["--run", str(folder), "--out", str(tmp_path / "x.mp4"), "--n", "1", "--steps", "1", "--seed", "6"]
    sample.main([*alone, "--prompt", "a bar", "--motion", "3", "--clarity", "0.5"])
    assert np.abs(pixels(tmp_path / "x.mp4") - pixels(tmp_path / "out" / "a bar-3.mp4")).max() <= 2
    assert np.abs(pixels(tmp_path / "x.mp4") - pixels(tmp_path / "out" / "a bar-1.mp4")).max() > 2


def test_what_was_stopped_goes_on_and_what_is_there_is_not_made_again(command, tmp_path, monkeypatch, capsys):
    write, made = prompts.write_video, []

    def stops(path, *rest):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(path.name)
        write(path, *rest)

    monkeypatch.setattr(prompts, "write_video", stops)
    with pytest.raises(KeyboardInterrupt):
        command()
    held = read_table(tmp_path / "out" / "videos.csv").to_pylist()
    assert made == FILES[:4] == [row["file"] for row in held]
    monkeypatch.setattr(prompts, "write_video", lambda path, *rest: made.append(path.name) or write(path, *rest))
    (tmp_path / "out" / FILES[1]).unlink()
    del made[:]
    command()
    assert made == [FILES[1], *FILES[4:]]
    assert "6 videos, 3 of which were there, and videos.csv" in capsys.readouterr().out
    assert [row["file"] for row in read_table(tmp_path / "out" / "videos.csv").to_pylist()] == FILES
    monkeypatch.setattr(maker, "load_model", None)  # nothing is loaded
    (tmp_path / "out" / "videos.csv").unlink()
    command()
    assert len(read_table(tmp_path / "out" / "videos.csv")) == 6


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--seed", "6"], "out holds videos that were made otherwise: seed was 5, now 6; take another --out, or the settings of then"),
        (["--motion", "2"], "prompts was "),
        (["--n", "3", "--steps", "2"], "n was 2, now 3; steps was 1, now 2;"),
        (["--prompt", "a bar"], "prompts.csv stands in the place of --prompt: give one of them"),
    ],
)
def test_other_settings_are_refused(command, tmp_path, monkeypatch, fails, flags, said):
    monkeypatch.setattr(maker.Maker, "model", lambda *_: None)
    monkeypatch.setattr(maker.Maker, "__call__", lambda self, asked, held: np.zeros((len(asked), 2, 16, 16, 3), np.uint8))
    command()
    assert said in fails(lambda flags: command(*flags), flags)
    command("--out", str(tmp_path / "out.mp4"))  # is the same folder


def test_other_weights_and_a_folder_of_something_else_are_refused(command, folder, tmp_path, monkeypatch, fails):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.mp4").touch()
    assert "out is not empty and holds no videos of --prompts; give another --out" in fails(lambda _: command(), [])
    (tmp_path / "out" / "mine.mp4").unlink()
    (tmp_path / "out" / "settings.json").write_text(json.dumps({}))
    assert "out holds videos that were made otherwise: run was None" in fails(lambda _: command(), [])
    (tmp_path / "out" / "settings.json").unlink()
    monkeypatch.setattr(maker.Maker, "model", lambda *_: None)
    monkeypatch.setattr(maker.Maker, "__call__", lambda self, asked, held: np.zeros((len(asked), 2, 16, 16, 3), np.uint8))
    command()
    monkeypatch.setattr(sample, "version", lambda folder: 7)
    assert "weights was [[[" in fails(lambda _: command(), [])


def test_of_several_hosts_the_first_writes(command, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(maker.Maker, "model", lambda *_: None)
    monkeypatch.setattr(maker.Maker, "__call__", lambda self, group, held: asked.append(len(group)) or np.zeros((len(group), 2, 16, 16, 3), np.uint8))
    command()
    assert asked == [4, 4] and capsys.readouterr().out == ""
    assert not epath.Path(tmp_path / "out").exists()


def test_a_store_is_filled_and_gone_on_with(command, bucket, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(maker.Maker, "model", lambda *_: None)
    monkeypatch.setattr(maker.Maker, "__call__", lambda self, asked, held: made.append(len(asked)) or np.zeros((len(asked), 2, 16, 16, 3), np.uint8))
    command("--out", str(bucket / "out"))
    assert sorted(path.name for path in (bucket / "out").iterdir()) == sorted([*FILES, "settings.json", "videos.csv"]) and made == [4, 4]
    (bucket / "out" / FILES[2]).unlink()
    command("--out", str(bucket / "out"))
    assert made == [4, 4, 4] and (bucket / "out" / FILES[2]).exists()
