"""Captions in six parts of procedural clips: each part follows from what was drawn, so that an answer is right or wrong.

The clips are videodit_jax's shapes in steps that can be told apart (two paces, six grounds, two contrasts), to which this adds a camera
whose exposure stays or falls. What a well-informed viewer knows is what a colour stands for.
"""
import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from jaxtyping import Float, UInt8

from core_jax.video_out import write_video
from koala_jax.captions.schema import Caption, Part
from videodit_jax.data.shapes import COLOURS, Shapes, Split

GROUNDS = ("reddish", "yellowish", "greenish", "cyan", "bluish", "purplish")
MEANINGS = dict(zip(COLOURS, ("danger", "caution", "safety", "clean water", "the sea", "royalty")))
SIDE = 24


def example(source: Shapes, index: int) -> tuple[UInt8[np.ndarray, "T H W 3"], dict[str, str], Float[np.ndarray, "T 2"]]:
    """A clip; what is to be said of it, a word for each thing that can be seen, and a column and row of twelve for its places; and
    where the thing is in each frame, (x, y) from the middle in pixels."""
    rng = source._rng(index)
    scene = source.scene(rng)
    ground, fast, strong, falls = np.random.default_rng([source.seed, source.split.value, index, 1]).integers((6, 2, 2, 2))
    fastest = source.speeds[1]
    scene = dataclasses.replace(
        scene, speed=fastest if fast else 0.35 * fastest, contrast=1.0 if strong else 0.5, hue=2 * np.pi * ground / 6, blur=0.0
    )
    centres = source.centres(scene, copy.deepcopy(rng))
    video = source.draw(scene, rng)
    if falls:
        video = (video * np.linspace(1, 0.4, len(video))[:, None, None, None]).astype(np.uint8)
    column_row = lambda centre: "{} {}".format(*np.floor(12 * (centre / source.side + 0.5)).astype(int))
    return video, {
        "size": scene.size, "colour": scene.colour, "shape": scene.shape, "direction": scene.direction, "pace": "fast" if fast else "slowly",
        "ground": GROUNDS[ground], "contrast": "strong" if strong else "weak", "exposure": "falls" if falls else "stays as it is",
        "from": column_row(centres[0]), "to": column_row(centres[-1]),
    }, centres  # fmt: skip


def six_parts(seen: dict[str, str]) -> Caption:
    """The truth about a clip."""
    return Caption.of({
        Part.SUBJECT: "A {size} {colour} {shape} is the only thing.".format(**seen),
        Part.ACTIONS: "It moves {direction} {pace} all the time.".format(**seen),
        Part.ENVIRONMENT: "Behind it lies a {ground} ground.".format(**seen),
        Part.VISUAL_LANGUAGE: "A drawn picture of {contrast} contrast.".format(**seen),
        Part.CAMERA_LANGUAGE: "A wide shot in which the exposure {exposure}.".format(**seen),
        Part.WORLD_KNOWLEDGE: f"A sign of {MEANINGS[seen['colour']]}.",
    })  # fmt: skip


def one_sentence(seen: dict[str, str]) -> Caption:
    """The same in one sentence, told as the subject, but for what a colour stands for; and from where to where the thing moves."""
    return Caption(
        subject="A {size} {colour} {shape} moves {direction} {pace} from {from} to {to}, behind it lies a {ground} ground, the contrast is "
        "{contrast} and the exposure {exposure}.".format(**seen)
    )


def write(
    folder: Path, clips: int, caption: Callable[[dict[str, str]], Caption] = six_parts, *, seed: int = 0, split: Split = Split.TRAIN
) -> Path:
    """MP4 files and a table of their captions."""
    source, rows = Shapes(8, SIDE, SIDE, seed=seed, split=split), []
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(clips):
        video, seen, _ = example(source, index)
        write_video(folder / f"{index:05d}.mp4", video, 8)
        rows.append({"file": f"{index:05d}.mp4", **dataclasses.asdict(caption(seen))})
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "captions.parquet")
    return folder / "captions.parquet"
