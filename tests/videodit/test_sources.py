"""The hosts of a job see the same data, or all of them say in one sentence that they do not. Here each host is a thread."""
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from tests.core.video_files import make
from videodit_jax.config import TrainConfig
from videodit_jax.data import open_sources, probe
from videodit_jax.data.clips import SetAside

NAMES = ("a.mp4", "b.mp4", "c.mp4")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name in NAMES:
        make(root / name)
    return root


@pytest.fixture
def opened(videos, tmp_path, monkeypatch):
    """opened(change): what each of two hosts raises, None where all is well, the second's copy of the data having been changed."""
    rows, met, who = [None, None], threading.Barrier(2), threading.local()

    def allgather(row):
        rows[who.host] = row
        met.wait(30)
        together = np.stack(rows)
        met.wait(30)
        return together

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: who.host)
    monkeypatch.setattr(multihost_utils, "process_allgather", allgather)

    def host(number: int):
        who.host = number
        return open_sources(TrainConfig(data=str(tmp_path / str(number)), frames=4, size="12x16"))

    def call(change) -> list[Exception | None]:
        folders = [Path(shutil.copytree(videos, tmp_path / str(number))) for number in range(2)]
        change(folders[1])
        with ThreadPoolExecutor(2) as hosts:
            return [job.exception() for job in [hosts.submit(host, number) for number in range(2)]]

    return call


def test_hosts_that_see_the_same_go_on_and_share_the_probing(opened, monkeypatch):
    """Also where one of them cannot read a video that the other might: it is set aside by both."""
    probed, whole = [], DecodePool.probe

    def fails_once(pool, path):
        probed.append(Path(path).name)
        if probed.count("b.mp4") == 1 and path.endswith("b.mp4"):
            raise VideoError(path, "took longer than 60 s to decode")
        return whole(pool, path)

    monkeypatch.setattr(DecodePool, "probe", fails_once)
    assert opened(lambda folder: None) == [None, None] and sorted(probed) == sorted(NAMES)


def test_what_each_host_kept_all_of_them_read(videos, tmp_path, monkeypatch):
    """On a common disk: a job that was interrupted asks nothing again, on whatever number of hosts."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def interrupted(path, found):
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "exchanged", interrupted)
    monkeypatch.setattr(probe, "cache_of", lambda path: tmp_path / "kept.json")
    call = lambda: probe.probe(videos, videos, list(NAMES), DecodePool(1), SetAside())
    for host in range(2):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        with pytest.raises(KeyboardInterrupt):
            call()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.0.json", "kept.1.json"]
    monkeypatch.setattr(jax, "process_count", lambda: 1)
    monkeypatch.setattr(DecodePool, "probe", lambda *_: pytest.fail("probed again"))
    assert list(call()) == list(NAMES)


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda folder: (folder / "b.mp4").unlink(), r"host 0 sees 10 clips to train on and 5 held out, host 1 5 clips to train on and 5 held out"),
        (lambda folder: (folder / "t.csv").write_text("file,caption\na.mp4,a cat\n"), r"10 clips .*, host 1 the same numbers of other clips"),
        (lambda folder: shutil.rmtree(folder), r"host 1 sees none that it can read"),
    ],
    ids=["a file is missing", "another caption", "nothing there"],
)
def test_hosts_that_see_different_data_all_refuse(opened, change, says):
    first, second = opened(change)
    assert isinstance(first, ValueError) and isinstance(second, ValueError)
    assert re.search("every host needs the same data, and in .* " + says, str(first))
    assert re.search(says + "|there is no file or folder", str(second))


def test_what_cannot_be_read_is_refused_by_one_host_alone_too(tmp_path):
    with pytest.raises(ValueError, match="there is no file or folder .*nowhere"):
        open_sources(TrainConfig(data=str(tmp_path / "nowhere"), frames=4, size="12x16"))
