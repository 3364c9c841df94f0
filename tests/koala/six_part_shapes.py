"""Captions in six parts of procedural clips: each part follows from what was drawn, so that an answer is right or wrong.

The clips are videodit_jax's shapes in steps that can be told apart (two paces, six grounds, two contrasts), to which this adds a camera
whose exposure stays or falls. What a well-informed viewer knows is what a colour stands for.
"""
import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import UInt8

from core_jax.video import write_video
from koala_jax.captions.schema import Caption, Part
from videodit_jax.data.shapes import COLOURS, Shapes, Split

GROUNDS = ("reddish", "yellowish", "greenish", "cyan", "bluish", "purplish")
MEANINGS = dict(zip(COLOURS, ("danger", "caution", "safety", "clean water", "the sea", "royalty")))
SIDE = 48


def example(source: Shapes, index: int) -> tuple[UInt8[np.ndarray, "T H W 3"], Caption]:
    """A clip and the truth about it."""
    rng = source._rng(index)
    scene = source.scene(rng)
    ground, fast, strong, falls = np.random.default_rng([source.seed, source.split.value, index, 1]).integers((6, 2, 2, 2))
    fastest = source.speeds[1]
    scene = dataclasses.replace(
        scene, speed=fastest if fast else 0.35 * fastest, contrast=1.0 if strong else 0.5, hue=2 * np.pi * ground / 6, blur=0.0
    )
    video = source.draw(scene, rng)
    if falls:
        video = (video * np.linspace(1, 0.4, len(video))[:, None, None, None]).astype(np.uint8)
    return video, Caption.of({
        Part.SUBJECT: f"A {scene.size} {scene.colour} {scene.shape} is the only thing in the picture.",
        Part.ACTIONS: f"It moves {scene.direction} {'fast' if fast else 'slowly'} from the first moment to the last.",
        Part.ENVIRONMENT: f"Behind it lies a soft {GROUNDS[ground]} ground without any other thing on it.",
        Part.VISUAL_LANGUAGE: f"A drawn picture with {'strong' if strong else 'weak'} contrast between things and ground.",
        Part.CAMERA_LANGUAGE: f"A wide shot from the front in which the exposure {'falls' if falls else 'stays as it is'}.",
        Part.WORLD_KNOWLEDGE: f"This colour is known to many people as a sign of {MEANINGS[scene.colour]}.",
    })  # fmt: skip


def write(folder: Path, clips: int, *, seed: int = 0, split: Split = Split.TRAIN) -> Path:
    """MP4 files and a table of their captions."""
    source, rows = Shapes(8, SIDE, SIDE, seed=seed, split=split), []
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(clips):
        video, caption = example(source, index)
        write_video(folder / f"{index:05d}.mp4", video, 8)
        rows.append({"file": f"{index:05d}.mp4", **dataclasses.asdict(caption)})
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "captions.parquet")
    return folder / "captions.parquet"
