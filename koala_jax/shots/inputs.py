"""Files, folders and globs, local or gs://, to the list of videos that they mean."""
import contextlib
import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator

from etils import epath

from core_jax.files import VIDEOS, existing, real, remote, stamp, utf8, videos, whole
from core_jax.tables import TABLES


@dataclasses.dataclass(frozen=True)
class Source:
    """A video file; `bytes` and `mtime` tell whether it is still the one that was seen before."""

    path: str
    bytes: int
    mtime: int

    @property
    def name(self) -> str:
        """Stem and twelve digits of the path's hash: of a million files of one name in as many folders all stay apart.

        A name may have 255 bytes, and a letter takes up to four.
        """
        stem = re.sub(r"[^\w.-]|^\.", "_", epath.Path(self.path).stem)[:40]  # what begins with a dot is passed over everywhere
        return f"{stem}-{hashlib.sha256(self.path.encode()).hexdigest()[:12]}"


def video_of(file: str) -> str:
    """Of a clip as it is cut, …/NAME/0000.mp4, its video's `Source.name`; of any other file itself."""
    cut = re.search(r"([^/]+-[0-9a-f]{12})/\d{4,}\.mp4$", file)
    return cut[1] if cut else file


def find(inputs: Iterable[str], clips: epath.Path, known: Iterable[str] = ()) -> tuple[list[Source], dict[str, str]]:
    """The videos, each once by the first of its names, from the root on, largest first so that the last to end is a small one; and what cannot be
    listed, with the reason.

    Args:
      clips: folder of those that were cut before; it may lie in one that is given, and they are no videos to split.
      known: names by which videos were seen before, which they keep.
    """
    led = functools.cache(lambda folder: str(real(folder)))  # asked of each file, it takes most of the time

    def leads(path: str) -> str:
        folder, name = os.path.split(path)
        return str(real(path)) if os.path.islink(path) else os.path.join(led(folder), name)

    found, failed, own, names = {}, {}, real(clips), {leads(name): name for name in known}
    was_cut = functools.cache(lambda folder: epath.Path(led(folder)).is_relative_to(own))
    for given in inputs:
        path = epath.Path(given)
        before, one = len(failed), [path if remote(path) else path.absolute()]
        paths = list(_expand(*one, failed)) if utf8(given) else one
        if paths != one:
            paths = [path for path in paths if not was_cut(os.path.dirname(path))]
        if not paths and len(failed) == before:
            failed[str(*one)] = f"is not a video, and holds none ({', '.join(VIDEOS)})"
        for path in paths:
            if not utf8(str(path)):
                failed[ascii(str(path))] = "its name is not UTF-8, which no table can hold"
            elif paths == one and given.lower().endswith(TABLES):
                failed[str(path)] = "is a table, and videos, folders of them or globs are wanted"
            else:
                with _noted(path, failed):
                    there = leads(str(path))
                    found.setdefault(there, Source(names.get(there, str(path)), *stamp(path)))
    return sorted(found.values(), key=lambda source: (-source.bytes, source.path)), failed


def named(path: epath.Path, out: epath.Path) -> dict[str, epath.Path]:
    """Videos by the name they have in the table `out`: their path relative to it where they lie below its folder, else their whole path.

    Raises:
      ValueError: nothing there, or no video among it.
    """
    root = whole(path)
    files = videos(root) if existing(path).is_dir() else [root]
    if path.suffix.lower() in TABLES:
        raise ValueError(f"{path} is a table, and a folder of videos, or one video, is wanted")
    if not files:
        raise ValueError(f"{path} holds no video ({', '.join(VIDEOS)})")
    below = os.path.join(whole(out.parent), "")
    return {str(file).removeprefix(below): file for file in files}


def _expand(path: epath.Path, failed: dict[str, str]) -> Iterator[epath.Path]:
    wild = [k for k, part in enumerate(path.parts) if any(letter in part for letter in "*?[")]
    with _noted(path, failed):
        if path.is_dir():
            yield from videos(path, lambda folder, error: _note(folder, error, failed))
        elif "**" in str(path) and not path.exists():
            failed[str(path)] = "** is not taken: give the folder, which is searched with all that lie in it, or a * for each level"
        elif wild and not path.exists():
            root = epath.Path(*path.parts[: wild[0]]) if wild[0] else epath.Path(".")
            yield from sorted(p for p in root.glob("/".join(path.parts[wild[0] :])) if p.is_file())
        else:
            yield path


@contextlib.contextmanager
def _noted(path: epath.Path, failed: dict[str, str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _note(path, error, failed)


def _note(path: epath.Path, error: OSError, failed: dict[str, str]) -> None:
    failed[str(path)] = f"cannot be read: {error.strerror or error}"
