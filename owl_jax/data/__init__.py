"""Long videos with dense captions for the world stage: `videodit_jax.data.stories`, Vript, ActivityNet Captions.

The two published ones are read from a folder, local or gs://, in their own layouts (`vript`, `activitynet`), and `films` decodes them into
clips like those of a story.
"""

import itertools
from collections.abc import Iterator

from etils import epath

from core_jax.files import files
from owl_jax.data import activitynet, vript
from owl_jax.data.films import LongVideo
from videodit_jax.data.shapes import Split


def open_long_videos(folder: epath.PathLike, clip_s: float, split: Split) -> Iterator[LongVideo]:
    """Long videos of a folder, by the layout that it has.

    Raises:
      ValueError: no such folder, no dense captions in it, or none whose video is there.
    """
    folder = epath.Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; long videos with dense captions are read from one, or drawn by `stories`")
    there = list(files(folder))
    layout = next((kind for kind in (vript, activitynet) if kind.here(there)), None)
    if layout is None:
        raise ValueError(
            f"{folder} holds no dense captions: neither Vript's *{vript.CAPTIONS} nor ActivityNet's {activitynet.FILES[Split.TRAIN]}; "
            "a caption for each part of a long video is needed, which a folder of short clips lacks"
        )
    found = layout.long_videos(there, clip_s, split)
    first = next(found, None)
    if first is None:
        raise ValueError(f"{folder} has dense captions, but no video of theirs for {split.name.lower()} that lasts {clip_s:g} s")
    return itertools.chain([first], found)
