"""The clips of a film in the making, one file each with the text that it follows, so that an interrupted film goes on and none has to fit
in memory."""
from collections.abc import Iterator

import numpy as np
from etils import epath
from jaxtyping import UInt8

from core_jax.files import in_memory, read_kept, unbroken, write_bytes, write_json
from owl_jax.world import Turn
from videodit_jax.parts import read_array, write_array


class Parts:
    """See the top of this file."""

    def __init__(self, folder: epath.Path, settings: dict):
        """Raises ValueError where another film is in the making there; writes nothing yet."""
        self.folder, self.settings, path = folder, settings, folder / "film.json"
        if path.exists() and (held := read_kept(path)) != settings:
            changed = ", ".join(name for name in settings if held.get(name) != settings[name])
            raise ValueError(f"{folder} holds the clips of another film ({changed} differ): remove it, or take another --out")

    def begin(self, image: UInt8[np.ndarray, "H W 3"]) -> None:
        """Keeps the settings, and the frame that the film begins with: to make one takes a whole clip of the film model."""
        write_json(self.folder / "film.json", self.settings)
        write_array(self.folder / "first.npy", image)

    def first(self) -> UInt8[np.ndarray, "H W 3"] | None:
        """That frame, if an earlier run began."""
        return unbroken(self.folder / "first.npy", read_array)

    def _path(self, t: int) -> epath.Path:
        return self.folder / f"{t:06d}.npz"

    def said(self, t: int) -> list[str] | None:
        """The text that a clip of an earlier run followed."""
        held = unbroken(self._path(t), _read)
        return held and held[1]

    def read(self, t: int) -> UInt8[np.ndarray, "1 T H W 3"]:
        return _read(self._path(t))[0]

    def made(self, t: int, said: list[str] | None) -> UInt8[np.ndarray, "1 T H W 3"] | None:
        """A clip of an earlier run that followed the same text; where it followed another, or is lost, all from there on are removed."""
        held = unbroken(self._path(t), _read)
        if held and held[1] == (said or []):
            return held[0]
        for path in sorted(self.folder.iterdir(), reverse=True):  # from the end: stopped amid it, nothing stale lies behind a gap
            if path.suffix == ".npz" and path.stem >= self._path(t).stem:
                path.unlink()
        return None

    def write(self, t: int, turn: Turn) -> None:
        write_bytes(self._path(t), in_memory(lambda file: np.savez(file, clips=turn.clips, said=np.array(turn.said or [], str))))

    def frames(self, clips: int) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Of the film: of each clip all but the last, which is the next one's first, and the last of all."""
        for t in range(clips):
            clip = self.read(t)[0]
            yield from clip if t + 1 == clips else clip[:-1]

    def remove(self) -> None:
        for path in self.folder.iterdir():
            if path.name != "film.json":  # the last to go: stopped before, no clip that is left is taken for another film's
                path.unlink()
        self.folder.rmtree()


def _read(path: epath.Path) -> tuple[UInt8[np.ndarray, "1 T H W 3"], list[str]]:
    """A clip, and what it followed."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
        return held["clips"], held["said"].tolist()
