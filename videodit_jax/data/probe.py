"""What videos say of their time, which takes reading each to its end: kept for the next start, and told of on the way."""
import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import av
import jax
from etils import epath

from core_jax.files import in_folder, keep, read_kept, whole
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from videodit_jax.data.clips import SetAside

SAVE_SECONDS, SAY_SECONDS = 60, 10
"""What was found is kept, and told of, this often."""

log = logging.getLogger(__name__)


def cache_of(path: epath.PathLike) -> epath.Path | None:
    """Where `open_splits` keeps what probing a folder or table found: beside jax's compilation cache, if there is one."""
    cache = jax.config.jax_compilation_cache_dir
    return epath.Path(cache) / "probed" / f"{hashlib.sha256(f'{whole(path)} {av.__version__}'.encode()).hexdigest()[:32]}.json" if cache else None


def saying(path: epath.PathLike) -> Callable[[int, int], None]:
    """A `progress` for `open_splits`: a line every SAY_SECONDS, on the first host."""
    said = time.monotonic()

    def progress(done: int, number: int) -> None:
        nonlocal said
        if time.monotonic() - said > SAY_SECONDS and jax.process_index() == 0:
            log.info("%s: probed %d of %d videos", path, done, number)
            said = time.monotonic()

    return progress


def probe(
    path: epath.Path,
    files: list[str],
    pool: DecodePool,
    set_aside: SetAside,
    cache: epath.PathLike | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, tuple[int, float, float, float]]:
    """file → (bytes, seconds of the first frame, duration in seconds, frames a second) of those that decode."""
    stored = read_kept(cache)

    def one(file: str) -> list:
        stat = in_folder(file, path).stat()
        key = [stat.length, stat.mtime]
        if stored.get(file, [None])[0] == key:
            return stored[file]
        info = pool.probe(str(in_folder(file, path)))
        return [key, [round(x, 6) for x in (info.seconds[0], info.duration, info.fps)]]

    found, saved, threads = {}, time.monotonic(), ThreadPoolExecutor(pool.workers)
    try:
        for done, (file, job) in enumerate([(file, threads.submit(one, file)) for file in files], 1):
            try:
                found[file] = job.result()
            except VideoError as error:
                set_aside.report(error)
            if progress:
                progress(done, len(files))
            if cache and time.monotonic() - saved > SAVE_SECONDS:
                keep(cache, stored | found)
                saved = time.monotonic()
    finally:
        threads.shutdown(cancel_futures=True)
        if stored | found != stored:
            keep(cache, stored | found)
    return {file: (key[0], *times) for file, (key, times) in found.items()}
