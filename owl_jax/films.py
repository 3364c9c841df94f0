"""Films to learn from, one example each: an image, a text, clips, and what is said behind each of them.

A source is random-access: `len(source)`, `source[i]` gives a `Film`, and `source.fingerprint` names its content.
"""
import dataclasses
from typing import Protocol

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, UInt8

from owl_jax.config import Caption
from owl_jax.stages import Stage, TrainConfig
from videodit_jax.config import TrainConfig as FilmConfig
from videodit_jax.data import Source, open_sources
from videodit_jax.data.shapes import Split
from videodit_jax.data.stories import Stories, Story


CUT = "cut: "
"""in front of a text that begins a new scene: so the model learns to cut, and a user may"""


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
    """(9): whole stories with their dynamics, some of them in silence; what world learns from."""

    stories: Stories
    caption: Caption
    silent: float
    """part of the films without dynamics"""

    @property
    def fingerprint(self) -> str:
        return self.stories.fingerprint

    def __len__(self) -> int:
        return len(self.stories)

    def __getitem__(self, i: int) -> Film:
        silent = np.random.default_rng([self.stories.seed, int(i), 1]).random() < self.silent
        return tell(self.stories[i], self.caption, silent)


def tell(story: Story, caption: Caption, silent: bool = False) -> Film:
    """A story as it is learned from. The text in front is what happens in the first clip; where captions tell of what was just seen, it
    is the title."""
    lines = [CUT * clip.cut + clip.dense for clip in story.clips]
    said = [None] * len(lines) if silent else [*lines[1:], None] if caption is Caption.NEXT else lines
    return Film(
        story.clips[0].video[0], lines[0] if caption is Caption.NEXT else story.title, np.stack([clip.video for clip in story.clips]),
        said, np.array([not clip.cut for clip in story.clips]), [clip.caption for clip in story.clips], np.full(len(lines), np.nan, np.float32),
    )  # fmt: skip


def open_films(config: TrainConfig, film: FilmConfig) -> tuple[Films, Films]:
    """The training and the held-out split of a stage's data.

    Raises:
      ValueError: there is nothing that can be read there, or, for world, nothing with dense captions.
    """
    if config.data != "stories" and config.stage is Stage.WORLD:
        from owl_jax.data import open_long_videos

        return open_long_videos(config, film)
    if config.stage is Stage.WORLD:
        if config.clips % 3:
            raise ValueError(f"--clips {config.clips}: stories have three scenes, so their number of clips is a multiple of 3")
        stories = (Stories(*film.video, clips=config.clips, seed=config.seed, split=split) for split in Split)
        return tuple(Told(story, config.owl.caption, config.dynamics_dropout) for story in stories)
    if config.data == "stories" and config.clips > 1:
        raise ValueError(f"--clips {config.clips}: in align and film, clips of stories stand alone; give --clips 1")
    long = dataclasses.replace(film, data=config.data, frames=config.clips * (film.frames - 1) + 1, workers=config.workers, model=_unpatched(film))
    return tuple(Repeated(source, config.clips, film.frames) for source in open_sources(long))


def _unpatched(film: FilmConfig):
    """The film model's sizes without its patches in time, which clips cut from a longer video need not fit."""
    return dataclasses.replace(film.model, patch=(1, *film.model.patch[1:]))
