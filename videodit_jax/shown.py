"""What sample videos are drawn of while a run trains: captions of held-out clips, or the prompts of a file in their place."""
import dataclasses

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float16, Shaped

from videodit_jax import prompts
from videodit_jax.config import TrainConfig
from videodit_jax.data import Source
from videodit_jax.data.loader import spaced
from videodit_jax.given import apart
from videodit_jax.reading import texts_of, warn_of_prompts

CLIPS, PROMPTS = 8, 64
"""held-out clips in a sheet; and prompts at most: all their videos are held at once"""


@dataclasses.dataclass(frozen=True)
class Shown:
    """One video each."""

    labels: list[str]
    texts: list[str | Float16[np.ndarray, "n C"]]
    """as the model reads them"""
    scores: list[dict[str, float]]
    """the known ones"""
    seeds: list[int]
    first: Shaped[np.ndarray, "B t H W C"] | None = None
    """first frames that are given"""
    picture: Float16[np.ndarray, "B N C"] | None = None
    """features of these, of a model that reads them"""


def of_prompts(config: TrainConfig, on: Mesh) -> Shown:
    """Of `config.sample_prompts`: the videos that `videodit_jax.sample --prompts FILE --n 1` makes. A text encoder is gone again then; of several
    hosts all must ask.

    Raises:
      ValueError: the file holds no prompts or too many, hosts read others, or the text encoder that they want is not there.
    """
    file = config.sample_prompts
    rows = prompts.read(file, config.model.scores)
    if len(rows) > PROMPTS:
        raise ValueError(f"--sample-prompts {file} holds {len(rows)} prompts, and videos of {PROMPTS} at most are drawn while a run trains")
    prompts.digest(rows, "--sample-prompts")
    warn_of_prompts(config, [prompt for prompt, _ in rows])
    try:
        texts = texts_of(config, None, config.out, on, [*dict.fromkeys(prompt for prompt, _ in rows)])
    except ValueError as error:
        raise ValueError(f"--sample-prompts {file}: {error}") from error
    asked = prompts.asked(rows, 1, 0)
    return Shown([one.label for one in asked], [texts[one.prompt] for one in asked], [one.scores for one in asked], [one.seed for one in asked])


def of_clips(config: TrainConfig, held_out: Source) -> Shown:
    """Of held-out clips, by their captions, scores and, of a model that is given them, first frames."""
    clips = [held_out[i] for i in spaced(len(held_out), CLIPS)]
    scores = [{name: clip["scores"].get(name, np.nan) for name in config.model.scores} for clip in clips]
    known = [apart(config.model, clip["video"])[1] for clip in clips]
    first = np.stack(known if config.model.gray else [clip[:1] for clip in known]) if config.model.given else None
    picture = np.stack([clip["picture"] for clip in clips]) if any(config.model.picture) else None
    return Shown([clip["caption"] for clip in clips], [config.model.text.of(clip) for clip in clips], scores, list(range(len(clips))), first, picture)
