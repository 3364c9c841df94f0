"""What a run's model reads of prompts, pictures and scores, and what it does not, which is said."""
import logging
import re
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float16

from videodit_jax.conditioning import SCORES, ScoreStatistics
from videodit_jax.config import TrainConfig
from videodit_jax.data.shapes import WORDS
from videodit_jax.picture import VIT_H, features_of
from videodit_jax.text import Reads
from videodit_jax.umt5 import XXL
from videodit_jax.umt5.encoder import TextEncoder

log = logging.getLogger(__name__)


def texts_of(
    trained: TrainConfig, directory: str | None, who: str, on: Mesh, prompts: Sequence[str]
) -> dict[str, str | Float16[np.ndarray, "n C"]]:
    """Each prompt as a run's model reads it.

    Args:
      directory: of the text encoder, where it is not the one that the run was trained with.
      who: the run, for what is said.

    Raises:
      ValueError: a text encoder is not given, not needed, or another one.
    """
    if trained.model.text.reads is Reads.BYTES:
        if directory:
            raise ValueError(f"--text-encoder {directory}: {who} reads captions itself")
        return dict(zip(prompts, prompts))
    given, text = directory or trained.text_encoder, trained.model.text
    if given == XXL or not epath.Path(given).exists():
        raise ValueError(f"give --text-encoder, a directory of the encoder whose features {who} reads: {given} is none")
    if not any(prompts):
        return dict(zip(prompts, prompts))
    encoder = TextEncoder(given, on, trained.dtype.jax, text.words)
    if encoder.width != text.width:
        raise ValueError(f"{given} gives {encoder.width} features a token, and {who} reads {text.width}")
    read = sorted(filter(None, set(prompts)), key=lambda prompt: (len(prompt), prompt))  # captions of about one length belong side by side
    if long := _too_many([len(encoder.tokens(prompt)) for prompt in read], text.words):
        log.warning(f"warning: this run reads {text.words} tokens of a prompt, and {long}: the end is cut")
    return {"": "", **dict(zip(read, encoder(read)))}


def image_encoder_of(trained: TrainConfig, directory: str | None, who: str) -> str | None:
    """Directory of what a run's model reads a picture by, None where it reads none; arguments as of `texts_of`.

    Raises:
      ValueError: it is not given, not needed, or another one.
    """
    given, wanted = directory or trained.image_encoder, trained.model.picture
    if not any(wanted):
        if directory:
            raise ValueError(f"--image-encoder {directory}: {who} reads no features of a picture")
        return None
    if given == VIT_H or not epath.Path(given).exists():
        raise ValueError(f"give --image-encoder, a directory of the encoder whose features {who} reads: {given} is none")
    if (made := features_of(given)) != wanted:
        raise ValueError(f"{given} gives {made[0]} tokens of {made[1]} features, and {who} reads {wanted[0]} of {wanted[1]}")
    return given


def flag_of(name: str, value: float) -> str:
    """How a score is given to `sample`."""
    return f"--{name} {value:g}" if name in SCORES else f"--score {name}={value:g}"


def by_name(scores: Iterable[dict[str, float]]) -> dict[str, list[float]]:
    """The known values of each score, of many videos' scores."""
    found: dict[str, list[float]] = {}
    for own in scores:
        for name, value in own.items():
            found.setdefault(name, []).append(value)
    return found


def warn_of_prompts(config: TrainConfig, prompts: Sequence[str]) -> None:
    """Says so where the end of a prompt is not read, or it has words that no caption of `shapes` has."""
    text = config.model.text
    if text.reads is Reads.FEATURES:
        return
    words = dict.fromkeys(word for prompt in prompts for word in re.findall(r"\w+", prompt.lower()))
    if config.data == "shapes" and (unknown := [word for word in words if word not in WORDS]):
        more = f" and {len(unknown) - 10} more words" * (len(unknown) > 10)
        seen = f"this run never saw {', '.join(unknown[:10])}{more} in a caption, and knows no other words than: {' '.join(WORDS)}"
        log.warning(f"warning: {seen}")
    if long := _too_many([len(text.pieces(prompt)) for prompt in prompts], text.words):
        read = f"this run reads the first {text.words} words and marks of a prompt, and {long}: the rest does nothing"
        log.warning(f"warning: {read}")


def _too_many(numbers: Sequence[int], most: int) -> str:
    """How many words the prompts that are too long have; "" where none is."""
    long = [number for number in numbers if number > most]
    return f"{len(long)} of {len(numbers)} have up to {max(long)}" if len(long) > 1 else f"this one has {long[0]}" if long else ""


def warn_out_of_range(statistics: ScoreStatistics, scores: dict[str, list[float]]) -> None:
    """Says so where a score of a video lies outside what the run was trained on; it then counts as the nearest end."""
    for name, values in scores.items():
        least, most = min(values), max(values)
        said, low_high = flag_of(name, least) if least == most else f"{name} from {least:g} to {most:g}", statistics.range(name)
        if low_high is None:
            log.warning(f"warning: this run never saw a known {name} score, so {said} does nothing")
        elif not low_high[0] <= least <= most <= low_high[1]:
            low, high = low_high
            log.warning(f"warning: {said} lies outside the range seen in training, {low:.4g} to {high:.4g}, and counts as its nearest end")
