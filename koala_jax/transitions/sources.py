"""The clips that `train` and `benchmark` splice: read by decoding workers, so that one that is broken or hostile costs itself alone."""
from collections.abc import Sequence

from core_jax import cli
from core_jax.files import existing
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax.transitions.synthesis.shots import Source, read

LIMIT = 600.0
"""seconds that reading one clip may take"""


def sources(clips: Sequence[str], *size: tuple[int, int]) -> list[Source]:
    """What `shots.read` gives of each, in order; those that cannot be read are named and left out.

    Raises:
      ValueError: none can be read, or one is not there, as one whose name is mistyped.
    """
    for clip in clips:
        existing(clip)
    found, console = [], cli.console()
    with DecodePool(seconds=LIMIT) as pool, cli.progress("clips read", len(clips), console) as done:
        for made in pool.each(lambda clip: pool.run(read, clip, *size), clips):
            if isinstance(made, VideoError):
                console.print(f"left out: {made}")
            else:
                found.append(made)
            done()
    if clips and not found:
        raise ValueError(f"of {counted(len(clips), 'clip')} none can be read")
    return found
