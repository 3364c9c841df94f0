"""Writing whole files, and what a store without its package says."""
import gc
import io
import json
import logging
import os
import pwd
import re
import sys
import threading
from unittest import mock

import jax
import pytest
from etils import epath
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from core_jax import cli
from core_jax.files import (
    clear, each, existing, files, keep, nulled, read_kept, refuse_filled, refuse_overwriting, refuse_unwritable, stamp, videos, write_bytes, write_json,
)  # fmt: skip
from core_jax.kept import kept
from core_jax.pod.topology import NO_TPU_HERE
from core_jax.words import counted
from koala_jax.caption import CaptionConfig
from koala_jax.score_report import ReportConfig
from koala_jax.tsa.card import licences
from koala_jax.tsa.judge import JudgeConfig


@pytest.fixture(autouse=True)
def signals(monkeypatch):
    """As they were: `cli.run` would leave its own to the tests that follow."""
    monkeypatch.setattr(cli.stop, "listen", lambda: None)


def test_a_file_is_written_whole_and_alone(tmp_path):
    for data in (b"old", b"new"):
        write_bytes(tmp_path / "folder" / "file", data)
        assert [(path.name, path.read_bytes()) for path in (tmp_path / "folder").iterdir()] == [("file", data)]


def test_what_a_killed_writer_left_fills_no_folder(tmp_path):
    (tmp_path / ".config.json.1f.part").touch()
    refuse_filled(tmp_path, "run")
    (tmp_path / "notes").touch()
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        refuse_filled(tmp_path, "run")


def test_of_what_killed_writers_left_files_go_and_folders_stay(tmp_path):
    """As the one in which a dataset is being written beside a run."""
    (tmp_path / ".config.json.1f.part").touch()
    (tmp_path / ".data.partial").mkdir()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".data.partial"]


def test_a_link_back_up_is_not_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mp4").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b").symlink_to(tmp_path / "a", target_is_directory=True)
    assert [str(path.relative_to(tmp_path)) for path in files(epath.Path(tmp_path))] == ["a/x.mp4", "b/x.mp4"]


def test_what_is_no_video_by_its_name_is_counted_once(tmp_path, caplog):
    caplog.set_level("INFO", "core_jax.files")
    for name in ("a.mp4", "b.F4V", "c.rm", "sub/d.RM", "e", "f.csv", ".g.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for _ in range(2):
        assert [path.name for path in videos(tmp_path)] == ["a.mp4", "b.F4V"]
    assert caplog.messages == [f"left out of {tmp_path} by their endings: 2 .rm, 1 without one"], "a table is no video that is missed"
    for end in "abcd":
        (tmp_path / f"h.{end}").touch()
    videos(tmp_path)
    assert caplog.messages[1].endswith(": 2 .rm, 1 without one, 1 .a, 1 .b, 1 .c, 1 others")


def test_a_listing_asks_a_disk_for_each_folder_and_not_for_each_file(tmp_path, monkeypatch):
    named = [f"{folder}/{k}.mp4" for folder in ("a", "a-b", "a/b") for k in range(10)] + ["a.mp4"]
    for name in named:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    asked, isdir, lookup = [], os.path.isdir, []
    monkeypatch.setattr(os.path, "isdir", lambda path: asked.append(path) or isdir(path))
    monkeypatch.setattr(pwd, "getpwuid", lookup.append)
    found = [str(path.relative_to(tmp_path)) for path in files(epath.Path(tmp_path))]
    assert found == sorted(named, key=lambda name: name.split("/")) and not asked
    assert {stamp(path)[0] for path in files(epath.Path(tmp_path))} == {0} and not lookup


def test_an_object_is_written_without_a_rename(bucket):
    for data in (b"old", b"new"):
        write_bytes(bucket / "file", data)
        assert [(path.name, path.read_bytes()) for path in bucket.iterdir()] == [("file", data)]


def test_what_an_extra_brings_is_one_sentence(monkeypatch):
    """Whether it is here or not."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setattr(cli, "hush_libtpu", lambda: None)  # which would stay for the tests that follow
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    with pytest.raises(SystemExit, match=r"gs:// needs the package gcsfs, which the extra `tpu` brings"):
        cli.run(lambda args: epath.Path("gs://bucket/run").exists())
    with pytest.raises(SystemExit, match=r"this command needs the package torch, which the extra `reproduce` brings: pip install -e '.\[reproduce\]'"):
        monkeypatch.setitem(sys.modules, "torch", None)
        cli.run(lambda args: __import__("torch"))
    with pytest.raises(ImportError, match="another"):
        cli.run(lambda args: __import__("another_package"))


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda file: seen.append((os.fstat(file).st_size, list(tmp_path.glob("[!.]*")))))
    write_bytes(tmp_path / "file", b"whole")
    assert seen == [(5, [])] and (tmp_path / "file").read_bytes() == b"whole"


@pytest.fixture
def ended(monkeypatch):
    """ended(command): the sentence with which `cli.run` ends it."""
    monkeypatch.setattr(cli, "cache_compilations", lambda: None)
    monkeypatch.setattr(cli, "hush_libtpu", lambda: None)

    def run(command) -> str:
        with pytest.raises(SystemExit) as caught:
            cli.run(command)
        return caught.value.code

    return run


@pytest.mark.parametrize(
    "command, said",
    [
        (lambda args: open("/nowhere/x"), "error: there is no file or folder /nowhere/x"),
        (lambda args: epath.Path(__file__).mkdir(exist_ok=True), f"error: {__file__}: there is a file of this name, and a folder is wanted"),
        (lambda args: open("/", "w"), "error: / is a folder, and a file is wanted"),
        (lambda args: open(f"{__file__}/x/y"), f"error: {__file__}: there is a file of this name, and a folder is wanted"),
        (lambda args: existing("/nowhere"), "error: there is no file or folder /nowhere"),
        (lambda args: existing("/caf\udce9"), r"error: '/caf\udce9' is not UTF-8, and no table can hold such a name"),
        (lambda args: licences("none.csv"), "error: --manifest none.csv must be a CSV table with columns file and license: No such file or directory: 'none.csv'"),
    ],
    ids=["nothing", "a file", "a folder", "a file above", "nothing that was asked for", "a name that is not UTF-8", "nothing, said within another sentence"],
)
def test_what_is_not_there_is_one_sentence(command, said, ended):
    assert ended(command) == said


def test_every_command_keeps_what_it_compiles_unless_its_user_has_no_home(monkeypatch, tmp_path):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(cli, "hush_libtpu", lambda: None)
    for home, kept in ((nowhere, None), (lambda: tmp_path, str(tmp_path / ".cache" / "videogen_jax"))):
        updated = {}
        monkeypatch.setattr(cli.Path, "home", home)
        monkeypatch.setattr(jax.config, "update", updated.__setitem__)
        cli.run(lambda args: None)
        assert updated.get("jax_compilation_cache_dir") == kept


@pytest.mark.parametrize("name", ["kept.json", "kept.json.gz"])
def test_what_only_saves_time_is_made_again_where_it_is_lost_and_hurts_nobody_where_it_cannot_be_kept(tmp_path, caplog, name):
    path = tmp_path / name
    keep(path, {"a": [1, 2]})
    assert read_kept(path) == {"a": [1, 2]}
    for lost in (b"", path.read_bytes()[:-9], b"[1]"):
        path.write_bytes(lost)
        assert read_kept(path) == {}
    (tmp_path / "file").write_bytes(b"")
    keep(tmp_path / "file" / name, {"a": 1})
    assert "cannot be kept" in caplog.text


@pytest.mark.usefixtures("hasty")
def test_what_the_compiler_made_at_another_level_is_kept_apart(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert kept("programs", "a key", lambda: {"text": "x"}) == kept("programs", "a key", dict) == {"text": "x"}
        jax.config.update("jax_optimization_level", "UNKNOWN")
        assert kept("programs", "a key", lambda: {"text": "y"}) == {"text": "y"}
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_what_took_minutes_is_returned_where_it_cannot_be_kept(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
    try:
        assert kept("programs", "a key", lambda: {"text": "x"}) == {"text": "x"} and "cannot be kept" in caplog.text
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 7.28 TiB"), ": Unable to allocate 7.28 TiB"), (MemoryError(), ""),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of hbm.\nMore"), ": RESOURCE_EXHAUSTED: Ran out of hbm."),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_sentence(error, said, ended):
    def command(args):
        raise error

    assert ended(command) == f"error: there is not enough memory{said}"


def test_what_cannot_be_written_is_named_as_it_was_given(tmp_path, ended):
    """And not the part beside it."""
    (tmp_path / "file").touch()
    for path, said in ((tmp_path, f"{tmp_path} is a folder"), (tmp_path / "file" / "x", f"{tmp_path / 'file'}: "), ("/proc/x", "/proc/x")):
        sentence = ended(lambda args: write_bytes(path, b"data"))
        assert said in sentence and "None" not in sentence and ".part" not in sentence
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_seed_that_none_takes_is_named():
    assert cli.parse(JudgeConfig, ["clips", "--seed", "4294967295"], "tests").seed == 2**32 - 1
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=f"--seed {seed}: a number from 0 to 4294967295 is wanted"):
            cli.parse(JudgeConfig, ["clips", "--seed", str(seed)], "tests")


@pytest.mark.parametrize("debug", ["", "1"])
def test_what_a_library_logs_of_an_exception_is_no_traceback(debug, capsys, monkeypatch):
    monkeypatch.setenv("VIDEOGEN_DEBUG", debug)
    try:
        raise OSError("no space left")
    except OSError:
        record = logging.LogRecord("absl", logging.ERROR, "", 0, "saving failed", (), sys.exc_info())
    cli.ToStderr().emit(record)
    said = capsys.readouterr().err
    assert said.startswith("saving failed") and ("Traceback" in said) == bool(debug)


def test_figures_never_take_the_place_of_a_video_a_table_or_a_page():
    assert cli.parse(JudgeConfig, ["clips", "--json", "f.json"], "tests").json == "f.json"
    with pytest.raises(ValueError, match=r"--json clip.mp4 must end in .json"):
        cli.parse(JudgeConfig, ["clips", "--json", "clip.mp4"], "tests")
    with pytest.raises(ValueError, match=r"--out scores.parquet must end in .html"):
        ReportConfig("scores.parquet", out="scores.parquet")
    with pytest.raises(ValueError, match=r"--report captions.parquet must end in .html"):
        CaptionConfig("clips", report="captions.parquet")


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "old.json").write_text("{}")
    for path in ("new.json", "old.json", "a/b/new.json"):
        refuse_unwritable("--json", tmp_path / path, ".json")
    refuse_unwritable("--json", "gs://bucket/new.json", ".json")
    with pytest.raises(ValueError, match=r"--json .*/folder.json is a folder, and a file is wanted"):
        cli.parse(JudgeConfig, ["clips", "--json", str(tmp_path / "folder.json")], "tests")
    with pytest.raises(ValueError, match=r"--json .*/file/a/x.json cannot be written: .*/file is no folder"):
        cli.parse(JudgeConfig, ["clips", "--json", str(tmp_path / "file" / "a" / "x.json")], "tests")
    with pytest.raises(ValueError, match=r"--out .*/file/x.html cannot be written: "):
        ReportConfig("scores.parquet", out=str(tmp_path / "file" / "x.html"))
    with mock.patch("os.access", return_value=False), pytest.raises(ValueError, match=rf"--json .* cannot be written: {tmp_path} may not be written to"):
        refuse_unwritable("--json", tmp_path / "new.json", ".json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.json", "old.json"]


def test_what_is_read_is_never_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gif").touch()
    refuse_overwriting("--image", None, ["x.gif"])
    refuse_overwriting("--image", "x.gif", ["x.png", "y/x.gif"])
    with pytest.raises(ValueError, match="--image .*x.gif would be written over: write to another file"):
        refuse_overwriting("--image", tmp_path / "x.gif", ["x.mp4", "x.gif"])


def test_names_are_printed_as_they_are(capsys):
    cli.console().print("wrote a:b: [red]x[/red].mp4")
    assert capsys.readouterr().out == "wrote a:b: [red]x[/red].mp4\n"


def test_words_are_one_line_and_the_figures_of_json_are_told(tmp_path, capsys):
    path = tmp_path / f"{'long' * 40}.json"
    cli.console().save(path, {"x": 1})
    assert json.loads(path.read_text()) == {"x": 1} and capsys.readouterr().out == f"wrote {path}\n"
    cli.console().save(None, {"x": 1})
    assert not capsys.readouterr().out


def test_what_is_logged_beside_a_progress_bar_stands_above_it(monkeypatch):
    monkeypatch.setattr(cli, "cache_compilations", lambda: None)
    monkeypatch.setattr(cli, "hush_libtpu", lambda: None)
    text, handlers = io.StringIO(), logging.root.handlers[:]

    def command(args):
        with Progress(console=Console(file=text, force_terminal=True, width=60)) as bar:
            bar.add_task("train")
            bar.refresh()
            logging.getLogger("core_jax").warning("something")

    try:
        cli.run(command)
    finally:
        logging.basicConfig(handlers=handlers, force=True)
    assert "\nsomething" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.getvalue()).replace("\r", "\n")


def test_where_there_is_no_chip_libtpu_is_told_not_to_look(monkeypatch):
    for name in NO_TPU_HERE:
        monkeypatch.setenv(name, "")  # so that all is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("TPU_ML_PLATFORM", "JAX")
    cli.hush_libtpu()
    assert not NO_TPU_HERE.keys() & os.environ.keys(), "a real one asks as ever"
    monkeypatch.delenv("TPU_ML_PLATFORM")
    cli.hush_libtpu()
    assert NO_TPU_HERE.items() <= os.environ.items()


def test_one_is_no_plural():
    assert [counted(number, "clip") for number in (0, 1, 2, 1000)] == ["0 clips", "1 clip", "2 clips", "1,000 clips"]


def test_what_is_not_finite_is_null_and_a_text_stays(tmp_path):
    value = {"NaN.mp4": [float("nan"), 1.5, float("inf"), "Infinity of NaN"]}
    assert nulled(value) == {"NaN.mp4": [None, 1.5, None, "Infinity of NaN"]}
    write_json(tmp_path / "a.json", nulled(value))


def test_what_is_said_to_a_closed_stdout_goes_nowhere(monkeypatch):
    """As after `>&-`, where Python has none."""
    monkeypatch.setattr(cli, "cache_compilations", lambda: None)
    monkeypatch.setattr(cli, "hush_libtpu", lambda: None)
    monkeypatch.setattr(sys, "stdout", None)
    handlers, parse = logging.root.handlers[:], lambda *words: cli.parse(ReportConfig, [*words], "koala_jax.score_report")
    gc.set_threshold(700, 10, 10)
    try:
        cli.run(lambda args: (cli.console().print("said"), parse("scores.parquet")))
        assert gc.get_threshold()[0] >= 10_000, "while programs are traced, little is garbage"
        with pytest.raises(SystemExit, match="0"):
            cli.run(lambda args: parse("--help"))
    finally:
        logging.basicConfig(handlers=handlers, force=True)


def test_many_are_asked_at_once_and_answer_in_order():
    together = threading.Barrier(8, timeout=30)

    def answer(k):
        together.wait()
        return -k

    assert list(each(answer, range(8))) == [-k for k in range(8)]
    with pytest.raises(ZeroDivisionError):
        list(each(lambda k: 1 // k, [1, 0]))


def test_a_table_in_a_log_is_as_wide_as_its_words(capsys):
    """Rich takes a log for 80 columns wide, and leaves of nine columns hardly a word."""
    cli.console().print(Table(*("a heading of several words" for _ in range(9)), title="of nine columns"))
    shown = capsys.readouterr().out
    assert shown.count("a heading of several words") == 9 and "…" not in shown


def test_a_table_too_wide_for_a_terminal_cuts_no_word(capsys):
    console = cli.console()
    console.width = 40
    table = Table("which", *(f"observations{i}" for i in range(5)))
    table.add_row("returning", *(f"{i}.2345e-{i}9" for i in range(5)))
    console.print(table)
    cells = [line.strip("┃│").replace("┃", "│").split("│") for line in capsys.readouterr().out.splitlines() if line[0] in "┃│"]
    said = ["".join(part.strip() for part in column) for column in zip(*cells)]
    assert said == ["whichreturning", *(f"observations{i}{i}.2345e-{i}9" for i in range(5))]


def test_programs_are_kept_that_took_as_long_as_the_environment_says(monkeypatch):
    told, name = {}, "jax_persistent_cache_min_compile_time_secs"
    monkeypatch.setattr(cli.jax.config, "update", told.__setitem__)
    monkeypatch.setenv(name.upper(), "0.2")
    cli.cache_compilations()
    assert told and name not in told
    monkeypatch.delenv(name.upper())
    cli.cache_compilations()
    assert told[name] == 0.5
