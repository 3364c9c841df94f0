"""What videos say of their time, which takes reading each to its end: kept for the next start, and told of on the way."""
import hashlib
import logging
import time
from collections.abc import Callable

import av
import jax
from etils import epath

from core_jax.files import each, in_folder, keep, read_kept, whole
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
    """file → (bytes, seconds of the first frame, duration in seconds, frames a second) of those that decode.

    Raises:
      ValueError: one is not there.
    """

    def key(file: str) -> list:
        try:
            stat = in_folder(file, path).stat()
        except FileNotFoundError as error:
            raise ValueError(f"{in_folder(file, path)}, which is to be trained on, is not there") from error
        return [stat.length, stat.mtime]

    def one(file: str) -> list | VideoError:
        try:
            info = pool.probe(str(in_folder(file, path)))
        except VideoError as error:
            return error
        return [keys[file], [round(x, 6) for x in (info.seconds[0], info.duration, info.fps)]]

    stored, keys = read_kept(cache), dict(zip(files, each(key, files)))
    found = {file: stored[file] for file in files if stored.get(file, [None])[0] == keys[file]}
    todo, saved = [file for file in files if file not in found], time.monotonic()
    answers = each(one, todo, pool.workers)
    try:
        for done, (file, answer) in enumerate(zip(todo, answers), len(found) + 1):
            if isinstance(answer, VideoError):
                set_aside.report(answer)
            else:
                found[file] = answer
            if progress:
                progress(done, len(files))
            if cache and time.monotonic() - saved > SAVE_SECONDS:
                keep(cache, stored | found)
                saved = time.monotonic()
    finally:
        answers.close()
        if stored | found != stored:
            keep(cache, stored | found)
    return {file: (found[file][0][0], *found[file][1]) for file in files if file in found}
