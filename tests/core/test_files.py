"""Writing whole files, and what a store without its package says."""
import os
import sys
import threading

import pytest
from etils import epath

from core_jax import cli
from core_jax.files import each, named_from, of_table, write_bytes
from core_jax.pod.topology import NO_TPU_HERE


def test_a_file_is_written_whole_and_alone(tmp_path):
    for data in (b"old", b"new"):
        write_bytes(tmp_path / "folder" / "file", data)
        assert [(path.name, path.read_bytes()) for path in (tmp_path / "folder").iterdir()] == [("file", data)]


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


def test_ctrl_c_is_a_word_and_no_traceback(monkeypatch):
    monkeypatch.setattr(cli, "hush_libtpu", lambda: None)

    def interrupted(args):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit, match="^stopped$"):
        cli.run(interrupted)


def test_where_there_is_no_chip_libtpu_is_told_not_to_look(monkeypatch, tmp_path):
    for name in NO_TPU_HERE:
        monkeypatch.setenv(name, "")  # so that all is as before afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr(cli, "CHIP", (tmp_path / "accel0", tmp_path))
    cli.hush_libtpu()
    assert not NO_TPU_HERE.keys() & os.environ.keys(), "a real one asks as ever"
    monkeypatch.setattr(cli, "CHIP", (tmp_path / "accel0", tmp_path / "vfio"))
    cli.hush_libtpu()
    assert NO_TPU_HERE.items() <= os.environ.items()


@pytest.mark.parametrize(
    "file, table, other, named",
    [
        ("a/x.mp4", "/data/t.parquet", "/data/kept.parquet", "a/x.mp4"),
        ("../x.mp4", "/data/t.parquet", "/kept/t.parquet", "/x.mp4"),
        ("/clips/x.mp4", "/data/t.parquet", "/kept/t.parquet", "/clips/x.mp4"),
        ("a/x.mp4", "gs://bucket/t.parquet", "gs://bucket/kept.parquet", "a/x.mp4"),
        ("a/x.mp4", "gs://bucket/t.parquet", "/kept/t.parquet", "gs://bucket/a/x.mp4"),
        ("gs://clips/x.mp4", "/data/t.parquet", "gs://bucket/t.parquet", "gs://clips/x.mp4"),
    ],
)
def test_a_file_keeps_its_meaning_in_another_table(file, table, other, named):
    assert named_from(file, table, other) == named
    assert os.path.normpath(of_table(named, other)) == os.path.normpath(of_table(file, table))
    assert not file.startswith("gs://") or str(of_table(file, table)) == file


def test_many_are_asked_at_once_and_answer_in_order():
    together = threading.Barrier(8, timeout=30)

    def answer(k):
        together.wait()
        return -k

    assert each(answer, range(8)) == [-k for k in range(8)]
    with pytest.raises(ZeroDivisionError):
        each(lambda k: 1 // k, [1, 0])
