"""Writing whole files, and what a store without its package says."""
import sys

import pytest
from etils import epath

from core_jax import cli
from core_jax.files import write_bytes


def test_a_file_is_written_whole_and_alone(tmp_path):
    for data in (b"old", b"new"):
        write_bytes(tmp_path / "folder" / "file", data)
        assert [(path.name, path.read_bytes()) for path in (tmp_path / "folder").iterdir()] == [("file", data)]


def test_an_object_is_written_without_a_rename(bucket):
    for data in (b"old", b"new"):
        write_bytes(bucket / "file", data)
        assert [(path.name, path.read_bytes()) for path in bucket.iterdir()] == [("file", data)]


def test_a_store_without_its_package_is_one_sentence(monkeypatch):
    """Whether it is here or not."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    epath.backend.fsspec_backend._get_filesystem.cache_clear()
    with pytest.raises(SystemExit, match=r"gs:// needs the package gcsfs, which the extra `tpu` brings"):
        cli.run(lambda args: epath.Path("gs://bucket/run").exists())
    with pytest.raises(ImportError, match="another"):
        cli.run(lambda args: __import__("another_package"))
