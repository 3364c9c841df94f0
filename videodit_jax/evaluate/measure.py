"""All that can be measured of a video, clip by clip: each figure is the mean over its clips, consistency is slow-fast."""
import collections
import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from core_jax import mesh
from core_jax.files import sha256
from koala_jax.aesthetic.predictor import Aesthetic, load_clip, load_head
from videodit_jax.evaluate import clips, consistency, embeddings, quality
from videodit_jax.evaluate.clips import Clip
from videodit_jax.evaluate.embeddings import CENTRE, Embedding
from videodit_jax.evaluate.totals import Dimension as D
from videodit_jax.evaluate.views import View

CONSISTENT = {
    "subject": (D.SUBJECT_CONSISTENCY, D.SUBJECT_SLOW, D.SUBJECT_FAST, D.I2V_SUBJECT),
    "background": (D.BACKGROUND_CONSISTENCY, D.BACKGROUND_SLOW, D.BACKGROUND_FAST, D.I2V_BACKGROUND),
}
VBENCH = {
    D.SUBJECT_FAST: "DINOv2", D.BACKGROUND_FAST: "DreamSim", D.I2V_BACKGROUND: "DreamSim", D.TEMPORAL_FLICKERING: "still videos",
    D.MOTION_SMOOTHNESS: "AMT-S", D.DYNAMIC_DEGREE: "RAFT",
}  # fmt: skip
"""what VBench measures by where it is something else than here, even with DINO and CLIP given"""


@dataclasses.dataclass(frozen=True, eq=False)
class Judges:
    """The models."""

    subject: Embedding
    background: Embedding | None
    """none: the same as `subject`, and so its figures would be"""
    aesthetic: Aesthetic | None
    name: str | None
    """of the aesthetic one"""

    @staticmethod
    def load(
        subject: str | None = None, background: str | None = None, aesthetic: tuple[str, str] | None = None, on: Mesh | None = None
    ) -> "Judges":
        """Of directories and files, `pixels` where none is given; on the devices of this host. Raises ValueError: weights that do not fit."""
        on = on or mesh.build(devices=jax.local_devices())
        one = embeddings.load(subject, on) if subject else embeddings.pixels(on)
        other = embeddings.load(background, on) if background else embeddings.pixels(on) if subject else None
        if aesthetic is None:
            return Judges(one, other, None, None)
        judge = Aesthetic(load_clip(aesthetic[0]), load_head(aesthetic[1]), on)
        return Judges(one, other, judge, f"CLIP ViT-L/14 and LAION's head ({sha256(aesthetic[0])[:8]}, {sha256(aesthetic[1])[:8]})")

    @property
    def consistent(self) -> dict[str, Embedding]:
        """Those of CONSISTENT."""
        return {name: embedding for name in CONSISTENT if (embedding := getattr(self, name))}

    def views(self, image: bool) -> tuple[View, ...]:
        """What they look at."""
        looks = {e.view for e in self.consistent.values()} | ({CENTRE} if self.aesthetic else set())
        return tuple(looks | ({e.image_view for e in self.consistent.values()} if image else set()))

    def by(self, dimension: D) -> str:
        """What stands behind a figure, in words."""
        flow = "Farnebäck's flow"
        words = {
            D.TEMPORAL_FLICKERING: "differences of frames", D.MOTION_SMOOTHNESS: f"{flow}, warped", D.DYNAMIC_DEGREE: flow,
            D.AESTHETIC_QUALITY: self.name, D.CLARITY: "Laplacian; in no total",
        } | {part: embedding.name for name, embedding in self.consistent.items() for part in CONSISTENT[name]}  # fmt: skip
        return words[dimension] + (f"; VBench: {VBENCH[dimension]}" if dimension in VBENCH else "")

    @property
    def comparable(self) -> bool:
        """Whether consistency stands on models of the kinds and sizes that VBench's ranges are for: DINO ViT-B/16 and CLIP ViT-B/32."""
        return [e.name.partition(" (")[0] for e in self.consistent.values()] == ["dino 768×12/16", "clip 768×12/32"]

    def settings(self) -> dict:
        """Whatever changes a figure, as JSON: part of the manifest."""
        consistent = {name: [e.name, str(e.view), str(e.image_view)] for name, e in self.consistent.items()}
        return {
            "version": 2, **consistent, "aesthetic": self.name,
            "pixels": [embeddings.WAVES, embeddings.COLOURS], "clips": [clips.CLIP_SECONDS, clips.LONG_SECONDS],
            "dynamic degree": [quality.FPS, quality.TOP, quality.SPEED, quality.SHARE], "slow-fast": "half each, not mapped",
        }  # fmt: skip


class Measurement:
    """One video's figures, from 0 to 1; its clips are added in order."""

    def __init__(self, judges: Judges, image: UInt8[np.ndarray, "H W 3"] | None = None):
        """Args:
        image: what the video was to start from; cut to the video's shape about the centre.
        """
        self.judges, self.image = judges, image
        self.clips = collections.defaultdict(list)
        self.firsts = collections.defaultdict(list)

    def add(self, clip: Clip) -> None:
        """One clip."""
        figures = dict(clip.figures)
        for name, embed in self.judges.consistent.items():
            _, slow, _, i2v = CONSISTENT[name]
            e = embed(clip.views[embed.view])
            figures[slow] = consistency.consistency(e)
            self.firsts[name].append(e[0])
            if self.image is not None:
                image = embed(embed.image_view(covering(self.image, clip.size)[None]))[0]
                figures[i2v] = consistency.conformity(image, e if embed.image_view == embed.view else embed(clip.views[embed.image_view]))
        if judge := self.judges.aesthetic:
            figures[D.AESTHETIC_QUALITY] = float(judge(clip.views[CENTRE])[0].mean()) / 10
        for dimension, value in figures.items():
            self.clips[dimension].append(value)

    def result(self) -> dict[D, float]:
        """The figures; slow and fast parts where there is more than one clip."""
        figures = {dimension: float(np.mean(values)) for dimension, values in self.clips.items()}
        for name in self.judges.consistent:
            (both, slow, fast, _), firsts = CONSISTENT[name], np.stack(self.firsts[name])
            figures[both] = consistency.slow_fast(self.clips[slow], firsts)
            if len(firsts) == 1:
                del figures[slow]
            else:
                figures[fast] = consistency.consistency(firsts)
        return {dimension: figures[dimension] for dimension in D if dimension in figures}


def measure(
    video: UInt8[np.ndarray, "T H W 3"], fps: float, judges: Judges, image: UInt8[np.ndarray, "H W 3"] | None = None
) -> dict[D, float]:
    """The figures of a video in memory, from 0 to 1.

    Raises:
      ValueError: fewer than three frames.
    """
    measurement = Measurement(judges, image)
    for clip in clips.look(video, len(video), fps, judges.views(image is not None)):
        measurement.add(clip)
    return measurement.result()


def covering(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The largest part about the centre that has the shape of `size`."""
    H, W = image.shape[:2]
    h, w = (max(n, 1) for n in (min(H, round(W * size[0] / size[1])), min(W, round(H * size[1] / size[0]))))
    top, left = (H - h) // 2, (W - w) // 2
    return image[top : top + h, left : left + w]
