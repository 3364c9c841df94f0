"""Ways to film a story of `stories`: the loop, what it is compared with, and what is taken away from it.

All but the last two film with the same networks and from the same texts, the dense ones, in which who comes back is "it".
"""
import dataclasses
import enum
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from core_jax.compiler import jit
from owl_jax import world
from owl_jax.config import Caption
from owl_jax.films import CUT, Film, tell
from owl_jax.world import World, shoot
from videodit_jax.data.stories import Story
from videodit_jax.model import VideoDiT
from videodit_jax.sampler import Context


class Way(enum.Enum):
    """See each."""

    LOOP = "loop"
    """states, dynamics and observations; the true texts are given"""
    FORESEEN = "foreseen"
    """as the loop, its dynamics its own"""
    LAST_FRAME = "last-frame"
    """the paper's foil: the language model begins anew at each clip, with the last frame and the clip's text"""
    ORACLE = "oracle"
    """as the foil, and the text names who comes: what a perfect memory would give these networks"""
    BLIND = "blind"
    """the loop without what was filmed"""
    SILENT = "silent"
    """the loop without texts"""
    VIDEO = "video"
    """the film model as it was before any stage, the clip's text in its own encoder"""
    TEXT = "text"
    """the same without the last frame"""


TITLES = {
    Way.LOOP: "the loop", Way.FORESEEN: "the loop by itself", Way.LAST_FRAME: "last frame", Way.ORACLE: "last frame, truth told",
    Way.BLIND: "no observations", Way.SILENT: "no dynamics", Way.VIDEO: "video model, last frame", Way.TEXT: "video model, text alone",
}  # fmt: skip

Films = UInt8[np.ndarray, "B n T H W 3"]


@dataclasses.dataclass(frozen=True)
class Filmed:
    """Stories as they were filmed, and the texts that each clip followed."""

    clips: Films
    said: list[list[str]]


def script(story: Story) -> Film:
    """The dense texts."""
    return tell(story, [clip.dense for clip in story.clips], Caption.NEXT)


def film(way: Way, new_world: Callable[[], World], before: VideoDiT, stories: list[Story], seed: int = 0) -> Filmed:
    """The stories, side by side.

    Args:
      new_world: a world at its beginning.
      before: the film model as it was before any stage.
    """
    scripts = [script(story) for story in stories]
    images, texts = np.stack([one.image for one in scripts]), [one.text for one in scripts]
    n = len(scripts[0].clips)
    told = [[text, *one.said[:-1]] for text, one in zip(texts, scripts)]
    lines = [[line.removeprefix(CUT) for line in row] for row in told]
    if way in (Way.LOOP, Way.BLIND, Way.FORESEEN):
        dynamics = world.foreseen if way is Way.FORESEEN else world.told([row[1:] for row in told])
        turns = list(world.run(new_world(), images, texts, clips=n, dynamics=dynamics, seed=seed, observe=way is not Way.BLIND))
        return Filmed(np.stack([turn.clips for turn in turns], 1), [list(row) for row in zip(*(turn.said for turn in turns))])
    joined = np.stack([one.joined for one in scripts], 1)
    if way is Way.SILENT:  # cuts are told by the truth here, as there is no text to tell them
        turns = list(world.run(new_world(), images, texts, clips=n, dynamics=world.silent, cut_every=n // 3, seed=seed))
        return Filmed(np.stack([turn.clips for turn in turns], 1), lines)
    last, clips, current = images, [], new_world()
    captions = [[clip.caption for clip in story.clips] for story in stories]
    for t in range(n):
        said = [(captions if way is Way.ORACLE else lines)[b][t] for b in range(len(stories))]
        seeds = world.seeds(seed, t, len(images))
        if way in (Way.LAST_FRAME, Way.ORACLE):
            current.begin(last, said)
            clips.append(current.shoot(current.imagine(), last, joined[t], seeds))
        else:
            tokens = [before.config.text.tokenize(said[b]) for b in world.places(len(said))]
            tokens = {name: np.stack([token[name] for token in tokens]) for name in tokens[0]}
            clips.append(shoot(current, before, *_contexts(before, tokens), last, joined[t] & (way is Way.VIDEO), seeds))
        last = clips[-1][:, -1]
    return Filmed(np.stack(clips, 1), lines)


@jit
def _contexts(model: VideoDiT, tokens: dict[str, Array]) -> tuple[Context, Context]:
    """What the film model reads of texts, and of none."""
    return model.text(tokens), model.text({**tokens, "length": jnp.zeros_like(tokens["length"])})


def foreseen_texts(new_world: Callable[[], World], stories: list[Story]) -> list[list[str]]:
    """What the model says will happen next behind each clip but the last, the true clips and texts before given."""
    scripts = [script(story) for story in stories]
    current, said = new_world(), []
    current.begin(np.stack([one.image for one in scripts]), [one.text for one in scripts])
    for t in range(len(scripts[0].clips) - 1):
        current.clip = t
        current.imagine()
        current.observe(np.stack([one.clips[t] for one in scripts]))
        said.append(current.foresee())
        current.hear([one.said[t] for one in scripts])
    return [list(row) for row in zip(*said)]
