"""Videos that are asked for, made by one model or by two experts."""
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float16, UInt8

from videodit_jax.autoencoder.codec import Codec
from videodit_jax.experts import Expert
from videodit_jax.lora import Changes, merge
from videodit_jax.model import VideoDiT
from videodit_jax.run import load_model
from videodit_jax.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class Asked:
    """One video."""

    prompt: str
    scores: dict[str, float]
    seed: int
    file: str

    @property
    def row(self) -> dict[str, Any]:
        """Of the table of videos (plain.py)."""
        return {"file": self.file, "caption": self.prompt, **self.scores, "seed": self.seed}

    @property
    def label(self) -> str:
        return f"seed {self.seed}: {self.prompt}" + "".join(f" · {name} {value:g}" for name, value in self.scores.items())


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes the videos that are asked for, by one model or by two experts, of which only one is in memory."""

    sampled: Sequence[Expert]
    loras: Sequence[Sequence[Changes]]
    mesh: Mesh
    codec: Codec | None
    first: np.ndarray | None
    """first frame of all, (1 1 H W 3), or as latents"""
    picture: Float16[np.ndarray, "1 N C"] | None
    """features of it, for a model that reads them"""
    texts: dict[str, str | Float16[np.ndarray, "n C"]]
    away: str
    batch: int
    """videos sampled at once, rounded up to what the devices divide"""

    @property
    def rows(self) -> int:
        """Of which a multiple costs no program of its own."""
        return self.sampler(self.sampled[0]).rows

    def sampler(self, one: Expert) -> Sampler:
        return Sampler(one.config, one.run.statistics, self.mesh, batch=self.batch)

    def model(self, place: int) -> VideoDiT:
        one = self.sampled[place]
        return merge(load_model(one.folder, one.run, self.mesh, one.config.dtype.jax), one.config.model, self.loras[place])

    def __call__(self, asked: Sequence[Asked], held: VideoDiT | None = None) -> UInt8[np.ndarray, "B T H W 3"]:
        """Their pixels; `held`: the one model, which else leaves before the videos are decoded."""
        texts, scores, seeds = [self.texts[one.prompt] for one in asked], [one.scores for one in asked], [one.seed for one in asked]
        of_each = lambda one: None if one is None else np.broadcast_to(one, (len(asked), *one.shape[1:]))
        given = {"first": of_each(self.first), "picture": of_each(self.picture)}
        videos = None
        for place, one in enumerate(self.sampled):
            model = held or self.model(place)
            videos = self.sampler(one)(model, texts, scores, seeds, away=self.texts[self.away], steps=one.steps, states=videos, **given)
            del model  # the next one takes its place, and decoding takes 9.2 GiB of a device for 81 frames of 720×1280
        return self.codec.decode(videos) if self.codec else videos
