"""What sources of decoded clips share: parts of a split, and how they go on where a clip does not decode."""

import abc
import itertools
import logging
import re
from typing import Any

from etils import epath

from core_jax.video_error import Unread, VideoError
from videodit_jax.config import SHAPE

HELD_OUT, AT_MOST = 0.1, 4096
"""Part of the data that is held out where it comes without a held-out split, and the most of it: an evaluation looks at fewer."""
COUNTED = 2048
"""Examples, evenly spaced, that stand for all where looking at each would take minutes."""
LOST, JUDGED = 0.1, 100
"""A run that loses a larger part of its clips ends, once it has looked at so many."""

log = logging.getLogger(__name__)


def host_folder(out: epath.PathLike, host: int, hosts: int) -> epath.Path:
    """Where one of several hosts writes its part of a dataset; a single one writes all of it."""
    return epath.Path(out) / f"host_{host:04}_of_{hosts:04}" if hosts > 1 else epath.Path(out)


def datasets(path: epath.PathLike, bucket: str = "") -> list[str]:
    """The folders of an ArrayRecord dataset: it alone, or, where several hosts wrote it, one of each; none where it is something else. Where it has a
    dataset for each shape of clips, those of one, which not every host may have.

    Raises:
      ValueError: not of every host, or of two jobs.
    """
    path = epath.Path(path)
    if holds_dataset(path / bucket):
        return [str(path / bucket)]
    there = _of_hosts(path)
    hosts = int(there[0].name[-4:]) if there else 0
    folders = [host_folder(path, host, hosts) for host in range(hosts)]
    if sorted(folder.name for folder in there) != [folder.name for folder in folders]:
        names = ", ".join(sorted(folder.name for folder in there)[:8])
        raise ValueError(f"{path} holds parts of a dataset that {hosts} hosts make, and not one of each: {names}")
    return [str(folder / bucket) for folder in folders if not bucket or holds_dataset(folder / bucket)]


def bucketed(path: epath.PathLike) -> set[str]:
    """The shapes of clips, by the names that `--buckets` has, of which a folder has a dataset each."""
    path = epath.Path(path)
    inside = [one for folder in (path, *_of_hosts(path)) if folder.is_dir() for one in folder.iterdir()]
    return {one.name for one in inside if SHAPE.fullmatch(one.name) and holds_dataset(one)}


def holds_dataset(folder: epath.Path) -> bool:
    return (folder / "dataset_info.json").exists()


def _of_hosts(path: epath.Path) -> list[epath.Path]:
    return [folder for folder in path.iterdir() if re.fullmatch(r"host_\d{4}_of_\d{4}", folder.name)] if path.is_dir() else []


class SetAside(dict[str, str]):
    """What could not be used, and why; each name is reported once."""

    def report(self, error: VideoError) -> None:
        """Raises the error where it says nothing about the file."""
        if isinstance(error, Unread):
            raise error
        if self.setdefault(error.path, error.reason) is error.reason:
            log.warning("%s is set aside: %s", error.path, error.reason)


class Clips(abc.ABC):
    """Random access to clips that `read` gives, see `videodit_jax.data.Source`; a subclass has `__len__` and `read`.

    A clip that does not decode gives the next one that does, for as long as the process lives. A run that is resumed sees the same
    where the file is at fault, which is found again; a clip that only broke a worker's limit of time or memory gets a new try.
    """

    def __init__(self, name: str, set_aside: SetAside):
        self.name, self.set_aside = name, set_aside
        self._broken: set[int] = set()
        self._whole = 0  # clips that were read, one of a later epoch anew

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(self, id: int) -> dict[str, Any]:
        """One example; raises VideoError where it does not decode, and where its bytes could not be read Unread, having been patient."""

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Raises ValueError: clips cannot be read, none decodes, or too many do not."""
        i = range(len(self))[int(i)]
        for id in itertools.chain(range(i, len(self)), range(i)):
            if id not in self._broken:
                try:
                    example = self.read(id)
                except VideoError as error:
                    self.set_aside.report(error)
                    self._broken.add(id)
                    self._refuse_lost()
                else:
                    self._whole += 1
                    return example
        raise ValueError(f"no clip of {self.name} decodes any more; {self._reasons()}")

    def _refuse_lost(self) -> None:
        looked = min(self._whole + len(self._broken), len(self))
        if looked >= JUDGED and len(self._broken) > LOST * looked:
            raise ValueError(f"{len(self._broken)} of the first {looked} clips of {self.name} could not be used, more than {LOST:.0%}; {self._reasons()}")

    def _reasons(self) -> str:
        return "; ".join(f"{path}: {reason}" for path, reason in itertools.islice(self.set_aside.items(), 3))


def fitting(duration: float, rate: float, frames: int) -> int:
    """How many clips of so many frames a video gives. A quarter of a frame may lack: stamps in whole milliseconds (Matroska, FLV) make duration
    and rate a little wrong, and a frame is read in the middle of its place."""
    return int((duration * rate + 0.25) / frames)


def short(duration: float, rate: float, frames: int) -> str:
    """Why a video gives no clip of so many frames."""
    return f"its {duration:.3g} s are shorter than {frames} frames at {rate:.3g} a second"


def split_last(number: int) -> tuple[range, range]:
    """The first examples, and the last tenth, at least one and at most AT_MOST, to hold out; a single one has to serve as both."""
    if number == 1:
        return range(1), range(1)
    first = number - min(max(1, round(HELD_OUT * number)), AT_MOST)
    return range(first), range(first, number)
