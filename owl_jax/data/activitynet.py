"""ActivityNet Captions (Krishna et al., arXiv 1705.00754): 20,000 videos of two minutes, each with a few timed sentences.

    …/train.json, val_1.json, val_2.json             {"v_<id>": {"duration": s, "timestamps": [[start_s, end_s], …], "sentences": […]}}
    …/v_<id>.mp4 (or .mkv, .webm)                    the videos, anywhere in the folder

val_1 and val_2 are two people's captions of the same videos; the first serves as held out. There is no caption of the whole video:
its first sentence is the title. Sentences overlap and leave gaps, see `films.runs`.

Licence: the dataset's page states none for the captions; the videos are YouTube's and their makers'.
"""

import json
import logging
from collections.abc import Iterator

from etils import epath

from owl_jax.data.films import LongVideo, by_stem, finite, runs
from videodit_jax.data.shapes import Split

log = logging.getLogger(__name__)

FILES = {Split.TRAIN: "train.json", Split.HELD_OUT: "val_1.json"}


def here(files: list[epath.Path]) -> bool:
    return _captions(files, Split.TRAIN) is not None


def long_videos(files: list[epath.Path], clip_s: float, split: Split) -> Iterator[LongVideo]:
    """Those whose video is there; which entries are not in this layout is said.

    Raises:
      ValueError: no captions for the split, or no entry is in this layout.
    """
    path = _captions(files, split)
    if path is None:
        raise ValueError(f"beside {_captions(files, Split.TRAIN)} there is no {FILES[split]}, the captions for {split.name.lower()}")
    there = by_stem(files)
    try:
        told = json.loads(path.read_text()).items()
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not in the layout of ActivityNet Captions, which is a JSON object with an entry for each video: {error}") from error
    failed = []
    for name, entry in told:
        try:
            duration, spans, sentences = finite(entry["duration"]), entry["timestamps"], entry["sentences"]
            captions = [(finite(start), finite(end), text.strip()) for (start, end), text in zip(spans, sentences, strict=True)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            failed.append(
                f"{path}: {name} is not in the layout of ActivityNet Captions, which has as many timestamps as sentences, "
                f"and a duration ({type(error).__name__}: {error})"
            )
            continue
        if name in there and captions:
            yield from runs(there[name], min(captions)[2], captions, duration, clip_s)
    if failed and len(failed) == len(told):
        raise ValueError(failed[0])
    for said in failed:
        log.warning("left out: %s", said)


def _captions(files: list[epath.Path], split: Split) -> epath.Path | None:
    return next((path for path in files if path.name == FILES[split]), None)
