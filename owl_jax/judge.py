"""What of a story its film kept, read off the pixels by `check_stories`, with no model; a value a story, NaN where it does not apply.

  returning     of the clips in which somebody comes back: the share in which the one who was seen wholly has the right colour and shape
  event, room   of all clips: the share in which the checker reads what the story tells
  join          mean |o_t[1] − o_{t−1}[−1]| where the film goes on without a cut, over the mean step within clips
  motion        mean step within clips, over the true story's
  dynamic       VBench's dynamic degree: the share of moving clips; and over the true story's
  slow-fast     VBench-Long's consistency (videodit_jax/evaluate/consistency.py) on the embedding that is named
"""
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from owl_jax.films import begins_scene, uncut
from videodit_jax.data.check_stories import Seen, said
from videodit_jax.data.stories import Story
from videodit_jax.evaluate.consistency import consistency, slow_fast
from videodit_jax.evaluate.quality import dynamic_degree

Clips = UInt8[np.ndarray, "n T H W 3"]
Embed = Callable[[UInt8[np.ndarray, "T H W 3"]], Float[np.ndarray, "T C"]]


def _steps(clips: Clips) -> Float[np.ndarray, "n T-1"]:
    return np.abs(np.diff(clips.astype(np.float32), axis=1)).mean((2, 3, 4))


def _mean(values: list[bool]) -> float:
    return float(np.mean(values)) if values else np.nan


def motion(clips: Clips, fps: float) -> tuple[float, float]:
    """(mean step within clips, dynamic degree)."""
    return float(_steps(clips).mean()), float(np.mean([dynamic_degree(clip, fps) for clip in clips]))


def judge(
    story: Story, true: tuple[float, float], clips: Clips, seen: list[Seen], texts: list[str], cuts: list[bool], embed: Embed, fps: float
) -> dict[str, float]:
    """One film of the story.

    Args:
      true: `motion` of the story's own clips.
      seen: what `check` reads in each clip.
      texts: what each clip followed.
      cuts: which clips begin a scene of the film, whatever the story does.
      embed: frames to unit vectors.
    """
    back = [(was, found) for was, found in zip(story.clips, seen) if was.returns and was.actor]
    fresh = [(was, found) for was, found in zip(story.clips, seen) if not was.returns and was.actor]
    (step, dynamic), (true_step, true_dynamic) = motion(clips, fps), true
    across = np.abs(clips[1:, 1].astype(np.float32) - clips[:-1, -1]).mean((1, 2, 3))[np.logical_not(cuts[1:])]
    told = [(said(uncut(text)), found.event) for text, found in zip(texts, seen)]
    e = embed(clips.reshape(-1, *clips.shape[2:])).reshape(*clips.shape[:2], -1)
    return {
        "returning, colour and shape": _mean([right(was, found) for was, found in back]),
        "returning, colour": _mean([found.colour == was.actor.colour for was, found in back]),
        "returning, shape": _mean([found.shape == was.actor.shape for was, found in back]),
        "others, colour and shape": _mean([right(was, found) for was, found in fresh]),
        "event": _mean([found.event == was.event for was, found in zip(story.clips, seen)]),
        "event as its text says": _mean([event == found for event, found in told if event]),
        "room": _mean([found.room == was.room for was, found in zip(story.clips, seen)]),
        "slow-fast consistency": slow_fast([consistency(one) for one in e], e[:, 0]),
        "join": float(across.mean() / max(_steps(clips)[:, 1:].mean(), 1e-6)) if across.size else np.nan,
        "motion of the data's": step / true_step,
        "dynamic degree": dynamic,
        "dynamic degree of the data's": dynamic / true_dynamic if true_dynamic else np.nan,
        "same text, most often": float(max(texts.count(text) for text in texts)),
    }


def right(was, found: Seen) -> bool:
    """The actor has the right colour and shape."""
    return found.actor == was.actor


def by_clip(story: Story, seen: list[Seen]) -> dict[str, list[float]]:
    """Against time: is the room right, how far is the ground from it (levels of 255), is the event right, each clip."""
    return {
        "room right": [float(found.room == was.room) for was, found in zip(story.clips, seen)],
        "ground, levels off": [min(found.ground, 255.0) for found in seen],
        "actor right": [float(right(was, found)) if was.actor else np.nan for was, found in zip(story.clips, seen)],
        "event right": [float(found.event == was.event) for was, found in zip(story.clips, seen)],
    }


def next_event(story: Story, foreseen: list[str]) -> dict[str, float]:
    """Of the texts foreseen behind each clip but the last, from the true past: the share that names the true next event, and that cuts
    where it cuts."""
    texts = [(begins_scene(text), said(uncut(text))) for text in foreseen]
    return {
        "next event foreseen": _mean([event == clip.event for (_, event), clip in zip(texts, story.clips[1:])]),
        "next cut foreseen": _mean([cut == clip.cut for (cut, _), clip in zip(texts, story.clips[1:])]),
    }
