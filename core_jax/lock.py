"""One process at a time writes into a folder."""
import fcntl
import os

from etils import epath

from core_jax.files import remote

_held: dict[str, int] = {}
"""file descriptors of the folders that this process keeps for itself"""


def hold(folder: epath.PathLike, refusal: str) -> None:
    """Keeps other processes out of a folder, which is made, until `release` or the end of this one. Does nothing where none can be kept out: in a
    store, and on network disks without locks.

    Raises:
      ValueError: `refusal`, where another process holds it.
    """
    path = epath.Path(folder)
    if remote(path) or str(path.absolute()) in _held:
        return
    path.mkdir(parents=True, exist_ok=True)
    opened = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(opened)
        if isinstance(error, BlockingIOError):
            raise ValueError(refusal) from error
    else:
        _held[str(path.absolute())] = opened


def release(folder: epath.PathLike) -> None:
    """Lets others in; of a folder that is not held, does nothing."""
    if (opened := _held.pop(str(epath.Path(folder).absolute()), None)) is not None:
        os.close(opened)
