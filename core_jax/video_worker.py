"""Decoding in processes with limits: a file that crashes, hangs or swells its decoder costs that file alone.

A worker is a fresh Python process that imports numpy and av, not jax, and serves one job at a time: a function that can be
imported there, and its arguments. The kernel holds its limits: SIGALRM ends a job that takes too long, RLIMIT_AS caps its
memory, FFmpeg refuses larger frames. They stop accidents and bombs; they are not a sandbox against an exploited decoder.
"""

from __future__ import annotations

import contextlib
import enum
import inspect
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import reduction
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import av

from core_jax import video
from core_jax.cores import cores
from core_jax.video_error import patiently

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64, UInt8

GRACE = 5
"""Seconds that a worker has beyond its own alarm, which comes first unless it is stopped, or stuck in the kernel."""
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**26)}
"""glibc's malloc, else, gives a large frame's memory back to the kernel and asks for it anew, page by page, for the next frame"""
LONGEST = 10**6
"""Seconds that a job may take; the kernel's alarm takes no infinity."""
START_SECONDS = 120
"""A worker that has not imported its modules by then is given up."""

# The package's own __init__ may import jax: the worker puts a bare package in its place.
_BOOT = (
    "import sys, types; package = types.ModuleType('core_jax'); package.__path__ = [sys.argv[1]];"
    "sys.modules['core_jax'] = package; from core_jax import video_worker; video_worker.serve(*sys.argv[2:])"
)


class Answer(enum.Enum):
    """What a worker sends."""

    REPORT, RESULT, ERROR = range(3)


class DecodePool:
    """Workers for threads to call. Each job may take `seconds`, add `bytes` of memory, and decode frames of `pixels`.

    Workers start when first needed; a dead or hung one is replaced at the next job. With more threads than workers, the
    rest wait. Use as a context manager, or call `close`; workers also end with the process that made them.
    """

    def __init__(self, workers: int = cores(), seconds: float = 60, bytes: int = 2**31, pixels: int = video.MAX_PIXELS):
        if min(workers, seconds, bytes, pixels) <= 0:
            raise ValueError(f"DecodePool wants limits above 0, but got {workers=}, {seconds=}, {bytes=}, {pixels=}")
        self.workers, self.seconds, self.bytes, self.pixels = workers, min(seconds, LONGEST), bytes, pixels
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._lock, self._closed, self._began = threading.Lock(), False, False
        self._live: weakref.WeakSet[_Worker] = weakref.WeakSet()

    def probe(self, source: video.Source) -> video.VideoInfo:
        """`video.probe` in a worker."""
        return self.run(video.probe, source)

    def read_clip(
        self, source: video.Source, seconds: Float64[np.ndarray, " T"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """`video.read_clip` in a worker."""
        return self.run(video.read_clip, source, seconds, size)

    def run(self, function: Callable[..., Any], source: Any, *args: Any, report: Callable[[Any], Any] | None = None) -> Any:
        """function(source, *args) in a worker: an importable function, with arguments and a result that pickle.

        A generator gives `report` each value that it yields, and its result at the end; its time limit holds from one value
        to the next. Where nothing is reported, a source whose bytes cannot be read is tried again for a minute (`patiently`).

        Raises VideoError where the worker dies or breaks a limit, and whatever `function` or `report` raises.
        """
        return self._run(function, source, args, report) if report else patiently(lambda: self._run(function, source, args, None))

    def _run(self, function: Callable[..., Any], source: Any, args: tuple, report: Callable[[Any], Any] | None) -> Any:
        worker, answered = self._idle.get(), False
        try:
            if worker is None or worker.process.poll() is not None:
                worker = self._start(source)
            for kind, value in worker.call(self.seconds, function, source, args):
                if kind is Answer.REPORT and report is not None:
                    report(value)
            answered = True
        except (EOFError, ConnectionError, TimeoutError) as error:
            raise video.VideoError(video.name(source), self._reason(worker.end())) from error
        finally:
            if worker and not answered:
                worker.end()  # else it would answer the next job with this one's result
            self._idle.put(worker)
        if isinstance(value, MemoryError):
            raise video.VideoError(video.name(source), f"needs more than {self.bytes / 2**20:.0f} MiB of memory")
        if kind is Answer.ERROR:
            raise value
        return value

    def each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """function(x), which asks the pool, of every x, in order, as many at a time as there are workers; of a video that cannot be used its error."""

        def one(item: Any) -> Any:
            try:
                return function(item)
            except video.VideoError as error:
                return error

        with self.threads() as threads:
            yield from threads.map(one, items)

    @contextlib.contextmanager
    def threads(self) -> Iterator[ThreadPoolExecutor]:
        """A thread for each worker. Who stops early does not wait for what is being decoded: it ends with the pool."""
        threads = ThreadPoolExecutor(self.workers)
        try:
            yield threads
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Ends all workers, also busy ones; the pool cannot be used after."""
        with self._lock:
            self._closed = True
            live = list(self._live)
        for worker in live:
            worker.process.kill()
            worker.process.wait()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def _start(self, source: Any) -> _Worker:
        """A new worker, tried twice: a machine that is short of memory kills one now and then. Raises VideoError where others have started, for it is
        then one job's bad luck, and RuntimeError where none has."""
        for _ in range(2):
            with self._lock:
                if self._closed:
                    raise RuntimeError("this DecodePool is closed")
                worker = _Worker(self.bytes, self.pixels)
                self._live.add(worker)
            try:
                worker.wait(START_SECONDS)
                worker.connection.recv()
                self._began = True
                return worker
            except (EOFError, ConnectionError, TimeoutError):
                said = f"a decoding worker did not start, and ended with status {worker.end()}"
        raise video.VideoError(video.name(source), said) if self._began else RuntimeError(said)

    def _reason(self, code: int) -> str:
        if code == -signal.SIGALRM:
            return f"took longer than {self.seconds:g} s to decode"
        if code < 0:
            return f"its decoder was ended by {signal.Signals(-code).name}"
        return f"its decoder ended with status {code}"


class _Worker:
    """One process, and our end of the socket to it."""

    def __init__(self, bytes: int, pixels: int):
        self.connection, theirs = Pipe()
        command = [sys.executable, "-P", "-c", _BOOT, str(Path(__file__).parent), str(theirs.fileno()), str(bytes)]
        paths = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            [*command, str(pixels)],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,  # Ctrl-C is for the parent to answer
            env=os.environ | KEEP_MEMORY | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        theirs.close()

    def call(self, seconds: float, *job: Any) -> Iterator[tuple[Answer, Any]]:
        self.connection.send((seconds, *job))
        kind = Answer.REPORT
        while kind is Answer.REPORT:
            self.wait(seconds + GRACE)
            with os.fdopen(reduction.recv_handle(self.connection), "rb") as answer:
                answer.seek(0)
                kind, value = pickle.load(answer)
            yield kind, value
            if kind is Answer.REPORT:
                self.connection.send(None)

    def wait(self, seconds: float) -> None:
        if not self.connection.poll(seconds):
            self.process.send_signal(signal.SIGALRM)
            self.process.send_signal(signal.SIGCONT)
            raise TimeoutError

    def end(self) -> int:
        """Waits shortly for a dying process, then kills it; the exit status."""
        try:
            return self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def serve(descriptor: str, bytes: str, pixels: str) -> None:
    """The worker's life: one job after another, until the socket closes."""
    import resource

    video.MAX_PIXELS = int(pixels)
    threading.Thread(target=_end_with_parent, args=(int(descriptor),), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = mapped + int(bytes)
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    connection = Connection(int(descriptor))
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has gone
        connection.send(True)
        while True:
            seconds, function, source, args = connection.recv()
            signal.setitimer(signal.ITIMER_REAL, seconds)
            for kind, value in _answers(function, source, args):
                sent, file = _pickled(kind, value)
                with file:
                    reduction.send_handle(connection, file.fileno(), os.getppid())
                if sent is not Answer.REPORT:
                    break
                signal.setitimer(signal.ITIMER_REAL, 0)  # the time that the other side takes for it is not this job's
                connection.recv()  # it has been dealt with: reports never pile up
                signal.setitimer(signal.ITIMER_REAL, seconds)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _end_with_parent(descriptor: int) -> None:
    """Ends this process once the other end of its socket is closed, where a job may not look for minutes: what the same command, begun again, writes
    would have two writers."""
    closed = select.poll()
    closed.register(descriptor, 0)  # asks for nothing that can be read, and is told all the same
    closed.poll()
    os._exit(1)


def _answers(function: Callable[..., Any], source: Any, args: tuple) -> Iterator[tuple[Answer, Any]]:
    """What a generator reports, then the result or the error."""
    try:
        result = function(source, *args)
        while inspect.isgenerator(result):
            try:
                value = next(result)
            except StopIteration as end:
                result = end.value
            else:
                yield Answer.REPORT, value
    except av.FFmpegError as error:
        yield Answer.ERROR, video.VideoError(video.name(source), f"FFmpeg says: {error.strerror}")
    except Exception as error:  # whatever it is, the caller raises it
        if not isinstance(error, (video.VideoError, MemoryError)):
            error.add_note("In a decoding worker: " + traceback.format_exc())
        yield Answer.ERROR, error
    else:
        yield Answer.RESULT, result


def _pickled(kind: Answer, value: Any) -> tuple[Answer, BinaryIO]:
    """The answer in a file in memory; where it cannot be pickled, or is too large, that is the answer."""
    try:
        return kind, _file((kind, value))
    except MemoryError as error:
        return Answer.ERROR, _file((Answer.ERROR, error))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        failed = value if kind is Answer.ERROR else error
        return Answer.ERROR, _file((Answer.ERROR, RuntimeError(f"{type(failed).__name__}: {failed}")))


def _file(value: Any) -> BinaryIO:
    """Holds the pickled value: a socket would be half as fast for a clip."""
    in_memory = hasattr(os, "memfd_create")  # Linux
    file = os.fdopen(os.memfd_create("answer"), "wb") if in_memory else tempfile.TemporaryFile()
    try:
        pickle.dump(value, file, protocol=5)
        file.flush()
    except BaseException:
        file.close()
        raise
    return file
