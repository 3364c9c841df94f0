"""Captions in six parts of procedural clips: each part follows from what was drawn, so that an answer is right or wrong.

The clips are videodit_jax's shapes, to which this adds a camera: it shows all of the frame or its middle, and stands or pans. What a
well-informed viewer knows is what a colour stands for.
"""
import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import UInt8

from core_jax.video import write_video
from koala_jax.captions.schema import Caption, Part
from videodit_jax.data.shapes import COLOURS, SPEEDS, Shapes, Split

GROUNDS = ("reddish", "yellowish", "greenish", "cyan", "bluish", "purplish")
MEANINGS = dict(zip(COLOURS, ("danger", "caution", "safety", "clean water", "the sea", "royalty")))
SIDE = 48


def example(source: Shapes, index: int) -> tuple[UInt8[np.ndarray, "T H W 3"], Caption]:
    """A clip and the truth about it."""
    rng = source._rng(index)
    scene = source.scene(rng)
    slowest, fastest = source.speeds
    pace = SPEEDS[min(2, int(3 * (scene.speed - slowest) / (fastest - slowest)))]
    scene = dataclasses.replace(scene, contrast=1.0 if scene.contrast > 0.75 else 0.5)
    video = source.draw(scene, rng)
    camera = np.random.default_rng([source.seed, source.split.value, index, 1])
    pans, tinted = bool(camera.integers(2)), GROUNDS[int(scene.hue / (2 * np.pi) * 6) % 6]
    if pans:  # the whole picture slides up
        video = np.stack([np.roll(frame, -3 * t, axis=0) for t, frame in enumerate(video)])
    return video, Caption.of({
        Part.SUBJECT: f"A {scene.size} {scene.colour} {scene.shape} is the only thing in the picture.",
        Part.ACTIONS: f"It moves {scene.direction} {pace} from the first moment to the last.",
        Part.ENVIRONMENT: f"Behind it lies a soft {tinted} ground without any other thing on it.",
        Part.VISUAL_LANGUAGE: f"A drawn picture with {'strong' if scene.contrast == 1.0 else 'weak'} contrast between things and ground.",
        Part.CAMERA_LANGUAGE: f"A wide shot from the front in which the camera {'pans down' if pans else 'stands still'}.",
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
