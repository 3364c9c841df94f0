"""Films to learn from, one example each: an image, a text, clips, and what is said behind each of them.

A source is random-access: `len(source)`, `source[i]` gives a `Film`, and `source.fingerprint` names its content.
"""
import dataclasses
import hashlib
from typing import Protocol

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, UInt8

from core_jax.video_worker import DecodePool
from owl_jax.config import Caption
from owl_jax.data import open_long_videos
from owl_jax.data.films import Film as LongFilm
from owl_jax.data.films import Films as LongFilms
from owl_jax.stages import Stage, TrainConfig
from videodit_jax.config import TrainConfig as FilmConfig
from videodit_jax.data import Source, open_sources
from videodit_jax.data.hosts import the_same
from videodit_jax.data.shapes import Split
from videodit_jax.data.stories import Stories, Story


FPS = 8.0
"""frames a second, where the film model's run states no rate"""
CUT = "cut: "
"""in front of a text behind which a new scene begins: so the model learns to cut, and a user may"""


def begins_scene(text: str) -> bool:
    """Whether a new scene begins behind it."""
    return text.startswith(CUT.strip())


def uncut(text: str) -> str:
    """What it says besides."""
    return text.removeprefix(CUT.strip()).strip()


@dataclasses.dataclass(frozen=True, eq=False)
class Film:
    """n clips of one film."""

    image: UInt8[np.ndarray, "H W 3"]
    """I"""
    text: str
    """t"""
    clips: UInt8[np.ndarray, "n T H W 3"]
    said: list[str | None]
    """behind each clip; None for nothing"""
    joined: Bool[np.ndarray, "n"]
    """the clip goes on from the last frame before"""
    captions: list[str]
    """of each clip, what its state shall be aligned with"""
    motion: Float[np.ndarray, "n"]
    """of each clip, pixels a frame; NaN where unknown"""


class Films(Protocol):
    """See the top of this file."""

    fingerprint: str

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Film: ...


@dataclasses.dataclass(frozen=True)
class Repeated:
    """(6): clips of one video, all with its caption; what align and film learn from."""

    source: Source
    clips: int
    frames: int

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    @property
    def unused(self) -> tuple[str, ...]:
        return getattr(self.source, "unused", ())

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Film:
        found, step = self.source[i], self.frames - 1
        clips = np.stack([found["video"][k * step : k * step + self.frames] for k in range(self.clips)])
        caption, motion = found["caption"], found["scores"].get("motion", np.nan)
        return Film(
            clips[0, 0], caption, clips, [caption] * self.clips, np.ones(self.clips, bool), [caption] * self.clips,
            np.full(self.clips, motion, np.float32),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Told:
    """(9): long videos with their dynamics, some of them in silence; what world learns from."""

    source: Stories | LongFilms
    fingerprint: str
    caption: Caption
    silent: float
    """part of the films without dynamics"""
    seed: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Film:
        story = self.source[i]
        silent = np.random.default_rng([self.seed, int(i), 1]).random() < self.silent
        return tell(story, [clip.dense for clip in story.clips], self.caption, silent=silent)


@dataclasses.dataclass(frozen=True)
class Captioned:
    """(6) of a story: in front of each state stands the full caption of its own clip, which leaves nothing to remember; what align and
    film learn from."""

    source: Stories

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Film:
        story = self.source[i]
        return tell(story, [clip.caption for clip in story.clips], Caption.NEXT, marked=False)


def tell(story: Story | LongFilm, lines: list[str], caption: Caption, *, marked: bool = True, silent: bool = False) -> Film:
    """A story with a line for each clip. The text in front is the first clip's; where captions tell of what was just seen, it is the
    title. Whichever clip a text tells of, `CUT` in front of it says that the next one begins a scene.

    Args:
      marked: False leaves `CUT` out.
      silent: says nothing behind the clips.
    """
    cuts, following = [CUT * (clip.cut and marked) for clip in story.clips], caption is Caption.NEXT
    said = [cut + line for cut, line in zip(cuts[1:], lines[1:] if following else lines)] + [None if following else lines[-1]]
    return Film(
        story.clips[0].video[0], cuts[0] + lines[0] if following else story.title, np.stack([clip.video for clip in story.clips]),
        [None] * len(lines) if silent else said, np.array([not clip.cut for clip in story.clips]), [clip.caption for clip in story.clips],
        np.full(len(lines), np.nan, np.float32),
    )  # fmt: skip


def open_films(config: TrainConfig, film: FilmConfig) -> tuple[Films, Films]:
    """The training and the held-out split of a stage's data.

    Raises:
      ValueError: there is nothing that can be read there, or, for world, nothing with dense captions.
    """
    if config.data != "stories" and config.stage is Stage.WORLD:
        return the_same(config.data, lambda: tuple(_long(config, film, split) for split in Split))
    if config.data == "stories":
        if config.clips % 3 or config.clips < 6:
            raise ValueError(f"--clips {config.clips}: stories have three scenes, so their number of clips is a multiple of 3, at least 6")
        stories = [Stories(*film.video, clips=config.clips, seed=split.seed(config.seed), split=split) for split in Split]
        if config.stage is not Stage.WORLD:
            return tuple(map(Captioned, stories))
        return tuple(Told(one, one.fingerprint, config.owl.caption, config.dynamics_dropout, one.seed) for one in stories)
    model = dataclasses.replace(film.model, patch=(1, *film.model.patch[1:]))  # clips cut from a longer video need not fit its patches in time
    long = dataclasses.replace(film, data=config.data, frames=config.clips * (film.frames - 1) + 1, buckets=(), workers=config.workers, model=model)
    begun = epath.Path(config.out) / config.stage.value / "config.json"
    return tuple(Repeated(source, config.clips, film.frames) for source in open_sources(long, begun))


def _long(config: TrainConfig, film: FilmConfig, split: Split) -> Told:
    """Films of `config.clips` clips, cut from the long videos of a folder."""
    seconds = (film.frames - 1) / (film.fps or FPS)
    n, whole = config.clips, list(open_long_videos(config.data, seconds, split))
    films = [
        dataclasses.replace(one, clips=one.clips[i : i + n]) for one in whole for i in range(0, len(one.clips) - n + 1, n)
    ]
    if not films:
        missing = f"{config.data} has no video of {n} clips of {seconds:g} s with captions for {split.name.lower()}"
        raise ValueError(f"{missing}; the longest has {max(len(one.clips) for one in whole)}: lower --clips")
    pool = DecodePool(config.workers)
    source = LongFilms(films, film.video, pool, epath.Path(config.out) / "transitions")
    names = hashlib.sha256(repr([(epath.Path(one.file).name, one.clips) for one in films]).encode()).hexdigest()
    return Told(source, names, config.owl.caption, config.dynamics_dropout, split.seed(config.seed))
