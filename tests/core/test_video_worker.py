"""Workers that decode: what one that dies, hangs, swells or does not start costs."""
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_jax import video, video_worker
from core_jax.video_worker import DecodePool
from tests.core.video_files import counting, imported, numbers, pid_of, refused, unpicklable


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_damage_is_a_video_error_and_never_more(clip, pool, data):
    damaged = bytearray(clip.read_bytes())
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=20)):
        damaged[place] = value
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        assert len(pool.probe(damaged).seconds)
        assert pool.read_clip(damaged, np.array([0.2, 0.7]), (8, 8)).shape == (2, 8, 8, 3)
    except video.VideoError:
        pass


@pytest.mark.parametrize(
    "job, reason",
    [
        ((time.sleep, 60), "took longer than 0.5 s"),
        ((signal.raise_signal, signal.SIGSTOP), "took longer than 0.5 s"),
        ((signal.raise_signal, signal.SIGSEGV), "ended by SIGSEGV"),
        ((os._exit, 7), "ended with status 7"),
        ((bytearray, 2**32), "needs more than 256 MiB"),
    ],
)
def test_a_worker_that_hangs_dies_or_swells_costs_one_job(job, reason, monkeypatch):
    monkeypatch.setattr("core_jax.video_worker.GRACE", 0.5)
    with DecodePool(1, seconds=0.5, bytes=2**28) as pool:
        with pytest.raises(video.VideoError, match=reason):
            pool.run(*job)
        assert pool.run(abs, -3) == 3


def test_a_worker_that_is_killed_from_outside_costs_one_job_at_most(clip):
    with DecodePool(1) as pool:
        pid = pool.run(pid_of, clip)
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        with pytest.raises(video.VideoError, match="ended by SIGKILL"):
            pool.run(time.sleep, 30)
        pid = pool.run(pid_of, clip)
        os.kill(pid, signal.SIGKILL)  # while idle: no job is lost
        time.sleep(0.1)
        assert len(pool.probe(clip).seconds) == 20


def test_a_worker_that_does_not_start_costs_one_job_unless_none_ever_did(clip, tmp_path, monkeypatch):
    boot, fails = video_worker._BOOT, "raise SystemExit(3)"
    with DecodePool(1) as fresh, monkeypatch.context() as patch:
        patch.setattr(video_worker, "_BOOT", fails)
        with pytest.raises(RuntimeError, match="a decoding worker did not start, and ended with status 3"):
            fresh.probe(clip)
    with DecodePool(1) as pool:
        pool.probe(clip)
        with monkeypatch.context() as patch:
            for worker in list(pool._live):
                worker.end()
            patch.setattr(video_worker, "_BOOT", fails)
            with pytest.raises(video.VideoError, match="clip.mp4: a decoding worker did not start"):
                pool.probe(clip)
            patch.setattr(video_worker, "_BOOT", f"import os\ntry:\n    os.mkdir({str(tmp_path / 'once')!r})\nexcept FileExistsError: pass\nelse: {fails}\n{boot}")
            assert pool.probe(clip).fps == 25, "the second try"


def test_threads_share_workers_that_know_no_jax(clip, pool):
    with ThreadPoolExecutor(6) as threads:
        clips = list(threads.map(lambda k: pool.read_clip(clip, np.array([k / 25 + 0.02]), (8, 8)), range(20)))
    assert numbers(np.concatenate(clips)) == list(range(20))
    assert len({pool.run(pid_of, clip) for _ in range(4)}) <= 2
    assert pool.run(imported, clip) == []


def test_other_errors_of_a_job_arrive_as_they_are(pool):
    with pytest.raises(ZeroDivisionError) as caught:
        pool.run(divmod, 1, 0)
    assert "In a decoding worker" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="ascending order"):
        pool.read_clip("x.mp4", np.array([1.0, 0.0]), (8, 8))
    with pytest.raises(video.VideoError, match="x.mp4: FFmpeg says: Invalid argument"):
        pool.run(refused, "x.mp4")


def test_a_generator_reports_and_its_limit_holds_between_reports(monkeypatch):
    monkeypatch.setattr("core_jax.video_worker.GRACE", 0.5)
    with DecodePool(1, seconds=1) as pool:
        seen = []
        assert pool.run(counting, "x.mp4", 4, 0.4, report=seen.append) == 4 and seen == [0, 1, 2, 3]  # 1.6 s in all
        assert pool.run(counting, "x.mp4", 2, 0.0) == 2
        assert pool.run(counting, "x.mp4", 2, 0.0, report=lambda _: time.sleep(1.7)) == 2, "the time of who listens is not its own"
        pool.seconds = DecodePool(1, seconds=float("inf")).seconds
        assert pool.run(counting, "x.mp4", 2, 0.0) == 2
        pool.seconds = 1
        with pytest.raises(video.VideoError, match="took longer than 1 s"):
            pool.run(counting, "x.mp4", 1, 30)
        with pytest.raises(RuntimeError, match="lambda|local"):
            pool.run(unpicklable, "x.mp4")
        with pytest.raises(ZeroDivisionError):  # what `report` raises ends the job, not the pool
            pool.run(counting, "x.mp4", 3, 0.0, report=lambda k: 1 // k)
        assert pool.run(abs, -3) == 3


def test_workers_end_with_their_pool(clip):
    pool = DecodePool(1)
    pid = pool.run(pid_of, clip)
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="closed"):
        pool.probe(clip)
    with pytest.raises(ValueError, match="above 0"):
        DecodePool(0)


def test_a_worker_ends_with_the_process_that_made_it_amid_a_job_that_says_nothing():
    worker = video_worker._Worker(2**28, 2**20)
    assert worker.connection.recv()
    worker.connection.send((60, time.sleep, 60, ()))
    worker.connection.close()  # as the kernel does for who is killed
    try:
        assert worker.process.wait(20) == 1
    finally:
        worker.process.kill()


def test_of_many_one_that_fails_gives_its_error_in_its_place_and_who_stops_does_not_wait():
    begun, ended, both, go = [], [], threading.Barrier(3, timeout=20), threading.Event()

    def work(number):
        begun.append(number)
        if number == 1:
            raise video.VideoError("b.mp4", "is text")
        if number > 2:
            both.wait()
            go.wait(5)
            ended.append(number)
        return number

    with DecodePool(2) as pool:
        answers = pool.each(work, range(100))
        first, error, third = (next(answers) for _ in range(3))
        assert (first, third) == (0, 2) and isinstance(error, video.VideoError) and "is text" in str(error)
        both.wait()
        answers.close()
        assert not ended and len(begun) == 5, "the others are not begun"
    go.set()
