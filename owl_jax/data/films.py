"""Long videos as chains of clips of equal length: which caption a clip has, where scenes begin, and the pixels.

    (1) clip k lasts from a = begin + k · clip_s to b = a + clip_s
    (2) frame i of T is the one shown at a + i · step, step = clip_s / (T − 1): the last is the next clip's first, as in a story
    (3) a scene begins in clip k where a transition begins in (a − step, b − step]; the clip before ends just before it
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float64, UInt8

from core_jax.files import is_video, keep, read_kept
from core_jax.video_worker import DecodePool
from koala_jax.journal import key
from koala_jax.shots.detect import detect
from koala_jax.transitions import Method
from videodit_jax.data.clips import Clips, SetAside

BEFORE = 1e-3
"""seconds; a frame's own time stamp may be rounded"""


@dataclasses.dataclass(frozen=True)
class LongVideo:
    """A run of clips, one after the other, each (start_s, end_s, caption)."""

    file: str
    title: str
    """the caption of the whole"""
    clips: tuple[tuple[float, float, str], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class FilmClip:
    """As `stories.Clip`, with what can be known of a real one; the full caption is the dense one."""

    video: UInt8[np.ndarray, "T H W 3"]
    caption: str
    dense: str
    cut: bool
    """a scene begins in it, or with it"""


@dataclasses.dataclass(frozen=True, eq=False)
class Film:
    """As `stories.Story`."""

    title: str
    clips: tuple[FilmClip, ...]


def runs(file: str, title: str, captions: Sequence[tuple[float, float, str]], duration: float, clip_s: float) -> Iterator[LongVideo]:
    """Cuts a video by (1), beginning with its first caption; a clip has the caption that overlaps it most, the earlier of two.

    A clip that no caption overlaps is left out and ends the run.

    Args:
      captions: (start_s, end_s, text), which may overlap and leave gaps.
      duration: of the video, in seconds, which no clip goes beyond.

    Raises:
      ValueError: clips of no length.
    """
    if not clip_s > 0:
        raise ValueError(f"clips of {clip_s:g} s: more than 0 is needed")
    captions = sorted((start, end, text.strip()) for start, end, text in captions if text.strip() and end > start)
    if not captions:
        return
    begin, run = max(0.0, captions[0][0]), []
    for k in range(max(0, math.floor((duration - begin) / clip_s + 1e-6))):
        a, b = begin + k * clip_s, begin + (k + 1) * clip_s
        overlap, text = max(((min(b, end) - max(a, start), text) for start, end, text in captions), key=lambda both: both[0])
        if overlap > 0:
            run.append((a, b, text))
        elif run:
            yield LongVideo(file, title, tuple(run))
            run = []
    if run:
        yield LongVideo(file, title, tuple(run))


def finite(number: float | str) -> float:
    """A number of seconds in a file of captions. Raises ValueError and TypeError: it is none, or NaN, or infinite, which JSON may hold."""
    if not math.isfinite(seconds := float(number)):
        raise ValueError(f"{number} seconds")
    return seconds


def by_stem(files: Iterable[epath.Path]) -> dict[str, str]:
    """name without ending → path of every video among the files."""
    return {path.stem: str(path) for path in files if is_video(path)}


class Films(Clips):
    """Random access to long videos, decoded in processes with limits; one that does not decode gives the next that does."""

    def __init__(
        self, long: Sequence[LongVideo], video: tuple[int, int, int], pool: DecodePool, cache: epath.PathLike | None = None
    ):
        """Args:
        video: (T, H, W) of a clip; a video is resized to cover (H, W) and cut about its centre.
        cache: folder that keeps where scenes begin, which takes a decoding of the whole file to find; a file that has changed is another one.
        """
        super().__init__("the long videos", SetAside())
        self.long, self.pool, self.cache = long, pool, cache and epath.Path(cache)
        self.frames, *self.size = video

    def __len__(self) -> int:
        return len(self.long)

    def read(self, id: int) -> Film:
        """Raises VideoError."""
        long = self.long[id]
        times, cuts = schedule(long, self.frames, self.transitions(long.file))
        pixels = self.pool.read_clip(long.file, times.ravel() + BEFORE, tuple(self.size)).reshape(*times.shape, *self.size, 3)
        clips = zip(pixels, (text for _, _, text in long.clips), cuts)
        return Film(long.title, tuple(FilmClip(video, text, text, bool(cut)) for video, text, cut in clips))

    def transitions(self, file: str) -> list[float]:
        """The seconds at which transitions begin. Raises VideoError."""
        kept = self.cache and self.cache / f"{hashlib.sha256(key(file, file).encode()).hexdigest()[:16]}.json"
        begin = read_kept(kept).get("begin_s")
        if begin is None:
            seen, detection = self.pool.run(detect, file, Method.LEARNED)
            begin = [seen.at(transition.start_frame) for transition in detection.transitions]
            keep(kept, {"file": file, "begin_s": begin})
        return begin


def schedule(long: LongVideo, frames: int, transitions: Sequence[float]) -> tuple[Float64[np.ndarray, "n T"], list[bool]]:
    """Times of the frames, ascending, and whether a scene begins, of each clip, by (2) and (3)."""
    transitions, times, cuts = np.asarray(transitions, np.float64), [], []
    for a, b, _ in long.clips:
        time = np.linspace(a, b, frames)
        step = time[1] - time[0]
        cuts.append(bool(((transitions > a - step) & (transitions <= b - step)).any()))
        if (late := transitions[(transitions > b - step) & (transitions <= b)]).size:
            time[-1] = max(late.min() - 2 * BEFORE, time[-2])
        times.append(time)
    return np.stack(times), cuts
