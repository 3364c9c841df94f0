"""What videos say of their time and size, which takes reading each to its end: shared by the hosts of a job, kept for the next start, told of
meanwhile."""
import logging
import time
from collections.abc import Callable

import av
import jax
from etils import epath

from core_jax.cli import SAY_SECONDS
from core_jax.files import broken_link, each, in_folder, is_picture, keep, read_kept, stamp, whole
from core_jax.kept import place
from core_jax.pictures import size_of
from core_jax.video_error import Unread, VideoError
from core_jax.video_worker import DecodePool
from videodit_jax.data.clips import SetAside
from videodit_jax.data.hosts import exchanged

SAVE_SECONDS = 60
"""what was found is kept this often"""

log = logging.getLogger(__name__)


def cache_of(path: epath.PathLike) -> epath.Path | None:
    """Where what probing a folder or table found is kept: beside jax's compilation cache, if there is one."""
    return place("probed", f"{whole(path)} {av.__version__} with sizes")


def saying(path: epath.PathLike) -> Callable[[int, int], None]:
    """Tells of (videos probed, videos in all) of this host's share, by a line every SAY_SECONDS on the first host."""
    said = time.monotonic()

    def progress(done: int, number: int) -> None:
        nonlocal said
        if time.monotonic() - said > SAY_SECONDS and jax.process_index() == 0:
            of = f", this host's share of {jax.process_count()}" if jax.process_count() > 1 else ""
            log.info("%s: probed %d of %d videos%s", path, done, number, of)
            said = time.monotonic()

    return progress


def probe(
    data: epath.PathLike, path: epath.Path, files: list[str], pool: DecodePool, set_aside: SetAside
) -> dict[str, tuple[int, float, float, float, int, int]]:
    """file → (bytes, seconds of the first frame, duration in seconds, frames a second, height and width as it is shown) of those that decode; of a
    picture the three in the middle are 0.

    Each host of a job reads its share of the files, keeps what it found in a file of its own, and believes the others where a file has as
    many bytes here as there.

    Args:
      data: the folder, or the table of files in it, as `--data` names it.
      path: the folder.

    Raises:
      ValueError: one is not there, nor a link to it, or its bytes cannot be read.
    """

    def key(file: str) -> list:
        try:
            return list(stamp(in_folder(file, path)))
        except FileNotFoundError as error:
            if broken_link(in_folder(file, path)):
                return [None, None]
            raise ValueError(f"{in_folder(file, path)}, which is to be trained on, is not there") from error

    def one(file: str) -> list[float] | str:
        if keys[file] == [None, None]:
            return "a link that leads nowhere"
        where = str(in_folder(file, path))
        try:
            if is_picture(file):
                return [0.0, 0.0, 0.0, *pool.run(size_of, where)]
            info = pool.probe(where)
        except Unread:
            raise
        except VideoError as error:
            return error.reason
        return [*(round(x, 6) for x in (info.seconds[0], info.duration, info.fps)), *info.shown]

    def ask(share: list[str]) -> None:
        todo, saved = [file for file in share if file not in known], time.monotonic()
        answers = each(one, todo, pool.workers)
        try:
            for done, (file, answer) in enumerate(zip(todo, answers), len(share) - len(todo) + 1):
                known[file] = answer
                if not isinstance(answer, str):  # a video that does not decode gets a new try at the next start
                    new[file] = [keys[file], answer]
                tell(done, len(share))
                if time.monotonic() - saved > SAVE_SECONDS:
                    keep(own, kept | new)
                    saved = time.monotonic()
        finally:
            answers.close()
            if new:
                keep(own, kept | new)

    hosts, cache, tell = jax.process_count(), cache_of(data), saying(data)
    own = _own(cache)
    kept, new = read_kept(own), {}
    keys, stored = dict(zip(files, each(key, files))), _stored(cache)
    known = {file: stored[file][1] for file in files if stored.get(file, [None])[0] == keys[file]}
    mine = files[jax.process_index() :: hosts]
    ask(mine)
    if hosts > 1:
        for found in exchanged(path, {file: [keys[file][0], known[file]] for file in mine}):
            known |= {file: answer for file, (size, answer) in found.items() if file in keys and keys[file][0] == size}
        ask(files)  # what this host alone has
    for file in files:
        if isinstance(known[file], str):
            set_aside.report(VideoError(str(in_folder(file, path)), known[file]))
    return {file: (keys[file][0], *known[file]) for file in files if not isinstance(known[file], str)}


def _own(cache: epath.PathLike | None) -> epath.Path | None:
    """The file that this host writes: hosts that share a disk must not write over each other's."""
    if cache is None or jax.process_count() == 1:
        return cache
    return epath.Path(cache).with_suffix(f".{jax.process_index()}.json")


def _stored(cache: epath.PathLike | None) -> dict:
    """What all hosts kept, as far as this one sees it."""
    if cache is None:
        return {}
    cache = epath.Path(cache)
    paths = sorted(cache.parent.iterdir()) if cache.parent.is_dir() else []
    kept = [read_kept(path) for path in paths if path.name.startswith(cache.stem) and path.suffix == ".json"]
    return {file: entry for table in kept for file, entry in table.items()}
