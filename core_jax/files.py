"""Files, local or gs://: which videos a folder holds, and writing so that a reader never sees half of a file."""
import collections
import contextlib
import functools
import gzip
import hashlib
import io
import json
import logging
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from etils import epath

log = logging.getLogger(__name__)

VIDEOS = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".ts", ".wmv", ".ogv", ".mts", ".m2ts", ".3gp", ".vob", ".asf", ".mxf",
    ".f4v", ".3g2", ".dv", ".m2v", ".qt", ".divx", ".mpe", ".y4m",
)  # fmt: skip
"""how the files end that a folder is searched for"""
PICTURES = ".jpg", ".jpeg", ".png", ".webp"
"""how those of pictures end"""
BESIDE = ".csv", ".parquet", ".json", ".jsonl", ".txt", ".md", ".html", ".jpg", ".jpeg", ".png", ".gif", ".srt", ".vtt", ".wav", ".mp3"
"""how those end that lie beside videos and that nobody takes for one"""
ASKED = 32
"""questions that a store is asked at a time"""

Item, Value = TypeVar("Item"), TypeVar("Value")


def files(folder: epath.PathLike, failed: Callable[[epath.Path, OSError], None] | None = None) -> list[epath.Path]:
    """The files of a folder and its subfolders, by name; what begins with a dot, as a file that is being written, is left out, and so is, and
    said, a name that is not UTF-8, which no table can hold. Of a link that leads back up nothing is taken.

    Args:
      failed: is told of a folder that cannot be listed, which otherwise raises OSError.
    """
    found, level = [], [(epath.Path(folder), (str(real(folder)),))]  # a folder, and where it and those above it lie
    while level:
        below = []
        for (folder, above), entries in zip(level, each(_entries, [folder for folder, _ in level])):
            if isinstance(entries, OSError):
                if failed is None:
                    raise entries
                failed(folder, entries)
                continue
            for name, is_folder, is_link in entries:
                path = folder / name
                if not utf8(name):
                    log.warning("%r is left out: its name is not UTF-8", str(path))
                elif not is_folder:
                    found.append(path)
                elif (leads := str(real(path)) if is_link else os.path.join(above[-1], name)) not in above:
                    below.append((path, (*above, leads)))
        level = below
    return sorted(found, key=lambda path: str(path).replace("/", "\0"))  # a folder's files stand together, before a longer name's


def _entries(folder: epath.Path) -> list[tuple[str, bool, bool]] | OSError:
    """(name, whether it is a folder, whether it is a link) of what lies in a folder. A disk is asked once for all, not once for each."""
    try:
        if remote(folder):
            return [(path.name, path.is_dir(), False) for path in folder.iterdir() if not path.name.startswith(".")]
        with os.scandir(folder) as there:
            return [(one.name, os.path.isdir(one) if (link := one.is_symlink()) else one.is_dir(), link) for one in there if one.name[0] != "."]
    except OSError as error:
        return error


def utf8(name: str) -> bool:
    """Whether a name is UTF-8, as what is written into tables and pages must be."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def each(function: Callable[[Item], Value], items: Iterable[Item], number: int = ASKED, ahead: int = 1000) -> Iterator[Value]:
    """function(x) of every x, in order, so many at a time: a store takes long to answer, and answers many at once. What is `ahead` of who asks takes
    memory."""
    items = list(items)
    with ThreadPoolExecutor(number) as threads:
        for i in range(0, len(items), ahead):
            yield from threads.map(function, items[i : i + ahead])


def is_video(path: epath.PathLike) -> bool:
    """By the end of its name."""
    return os.fspath(path).lower().endswith(VIDEOS)


def is_picture(path: epath.PathLike) -> bool:
    """By the end of its name."""
    return os.fspath(path).lower().endswith(PICTURES)


def videos(folder: epath.PathLike, failed: Callable[[epath.Path, OSError], None] | None = None, pictures: bool = False) -> list[epath.Path]:
    """Of `files`, the videos, and the pictures too if they are wanted; how others end that might be some is said once."""
    found, ends = [], collections.Counter()
    for path in files(folder, failed):
        if is_video(path) or pictures and is_picture(path):
            found.append(path)
        elif (end := path.suffix.lower()) not in BESIDE:
            ends[end or "without one"] += 1
    if ends:
        first, others = ends.most_common(5), ends.total() - sum(number for _, number in ends.most_common(5))
        named = [f"{number:,} {end}" for end, number in first] + [f"{others:,} others"] * (others > 0)
        _say_once(f"left out of {folder} by their endings: {', '.join(named)}")
    return found


@functools.cache
def _say_once(line: str) -> None:
    log.info(line)


def stamp(path: epath.PathLike) -> tuple[int, int]:
    """Bytes of a file, and when it was changed, in whole seconds: with both it is still the one that was seen before. Raises OSError."""
    if remote(path):
        stat = epath.Path(path).stat()
        return stat.length, stat.mtime
    stat = os.stat(path)  # epath's would look up the names of owner and group too, of a million files a million times
    return stat.st_size, int(stat.st_mtime)


def remote(path: epath.PathLike) -> bool:
    """Whether a path lies in an object store. An object cannot be renamed or appended to, and appears whole or not at all."""
    return "://" in os.fspath(path)


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes under a temporary name beside the file and renames it into place; an OSError names the file and leaves no part of it."""
    path = epath.Path(path)
    if remote(path):
        path.write_bytes(data)
        return
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}.part"  # hosts that share the folder can have the same process id
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a host that goes down after the renaming may leave an empty file of this name
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # where no folder is, no part is either
            part.unlink()
        if error.filename in (None, str(part)):
            error.strerror, error.filename = error.strerror or str(error), str(path)
        raise


def clear(folder: epath.PathLike) -> None:
    """Removes files whose writer was killed, from a folder that nobody else writes into now."""
    if not remote(folder):
        for part in epath.Path(folder).glob(".*.part*"):  # of `write_bytes`, and of a video
            if part.is_file():
                part.unlink()


def in_memory(save: Callable[[io.BytesIO], Any]) -> bytes:
    """What a library's way to save writes into the open file that it is given."""
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def refuse_unwritable(flag: str, path: epath.PathLike, end: str = "") -> None:
    """Asked before the work: raises ValueError where the file that a flag names does not end so, or could not be written at last."""
    path = epath.Path(path)
    if not str(path).endswith(end):
        raise ValueError(f"{flag} {path} must end in {end}")
    if remote(path):
        return
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder, and a file is wanted")
    above = next(folder for folder in path.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{flag} {path} cannot be written: {above} {'may not be written to' if above.is_dir() else 'is no folder'}")


def refuse_overwriting(flag: str, path: epath.PathLike | None, written: Iterable[epath.PathLike | None]) -> None:
    """Raises ValueError where what a flag reads is among the files that a command will write."""
    if path and real(path) in {real(other) for other in written if other}:
        raise ValueError(f"{flag} {path} would be written over: write to another file")


def refuse_filled(folder: epath.Path, what: str) -> None:
    """Raises ValueError where a folder, which holds no `what`, holds something else; what begins with a dot, as a file whose writer was killed, is nothing."""
    if folder.exists() and any(path.name[0] != "." for path in folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no {what}; give another --out")


def write_json(path: epath.PathLike, value) -> None:
    """As `write_bytes`, indented, NaN not allowed."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def nulled(value: Any) -> Any:
    """What `write_json` takes: null for what is not finite, which JSON does not know."""
    return json.loads(json.dumps(value), parse_constant=lambda name: None)


def sha256(path: epath.PathLike) -> str:
    """Of a file's content, in hexadecimal."""
    with epath.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_kept(path: epath.PathLike | None) -> dict:
    """What `keep` wrote; nothing where there is no such file, or where a crash has broken it."""
    try:
        data = epath.Path(path).read_bytes() if path else b"{}"
        found = json.loads(gzip.decompress(data) if os.fspath(path or "").endswith(".gz") else data)
    except (OSError, ValueError, EOFError, zlib.error):
        return {}
    return found if isinstance(found, dict) else {}


def keep(path: epath.PathLike | None, found: dict) -> None:
    """Writes JSON (.json, .json.gz) of what only saves time: where it cannot be written, the next start is slower."""
    try:
        if path:
            data = json.dumps(found, allow_nan=False).encode() + b"\n"  # indented, it would take Python's own encoder, ten times as long
            write_bytes(path, gzip.compress(data) if os.fspath(path).endswith(".gz") else data)
    except OSError as error:
        log.warning("what was found cannot be kept: %s", error)


def unbroken(path: epath.PathLike, read: Callable[[epath.Path], Value]) -> Value | None:
    """read(path), of a file that its owner can make again; None where there is none, or where, as is said, a host that went down lost it or half of it."""
    path = epath.Path(path)
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is broken, and what it held is made again: %s", path, error)
        return None


def existing(path: epath.PathLike) -> epath.Path:
    """The path. Raises ValueError: nothing is there, or its name is not UTF-8."""
    path = epath.Path(path)
    if not utf8(str(path)):
        raise ValueError(f"{str(path)!a} is not UTF-8, and no table can hold such a name")
    if not path.exists():
        raise ValueError(f"there is no file or folder {path}")
    return path


def whole(path: epath.PathLike) -> epath.Path:
    """A path that means the same wherever it is read: one in a store as it is, another from the root on."""
    return epath.Path(path) if remote(path) else epath.Path(path).resolve()


def real(path: epath.PathLike) -> epath.Path:
    """Where a path leads when links are followed, of which a store has none."""
    return epath.Path(path if remote(path) else os.path.realpath(path))


def broken_link(path: epath.PathLike) -> bool:
    """Whether a path is a link that leads nowhere, as in a folder of which a part was fetched."""
    return os.path.islink(path) and not os.path.exists(path)


def in_folder(file: str, folder: epath.PathLike) -> epath.Path:
    """A file that is named relative to a folder, or by its whole path, which may lie in a store."""
    return epath.Path(file) if remote(file) else epath.Path(folder) / file
