"""`python -m videodit_jax.records`: packs videos, their captions and scores into one ArrayRecord dataset, a few large files instead of many."""
import contextlib
import dataclasses
import logging
import statistics
from collections.abc import Iterator
from typing import Any

from etils import epath

from core_jax import cli
from core_jax.files import ASKED, broken_link, each, in_folder, is_picture, remote
from core_jax.numbers import refuse
from core_jax.video_error import VideoError
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from videodit_jax.conditioning import with_further
from videodit_jax.config import FRAME_RATE, shapes_of
from videodit_jax.data import probe
from videodit_jax.data.buckets import named
from videodit_jax.data.folder import halves, listed, open_splits
from videodit_jax.data.records import write_buckets, write_records

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RecordsConfig:
    """Pack videos unchanged, one a record. Training reads the first frames of a record: cut videos into clips first (koala_jax.split)."""

    data: str
    """what --data of videodit_jax.train takes: a folder of videos, or a table of clips"""
    out: str
    """the new folder of the dataset, on this machine; training reads it here or from a store that it was copied to"""
    buckets: tuple[str, ...] = ()
    """all shapes of clips, frames x height x width, that training will have: a dataset for each, of the videos, and pictures, that are nearest"""
    fps: float | None = None
    """with --buckets, frames a second at which training will read a clip; by default the video's own rate"""
    scores: tuple[str, ...] = ()
    """further columns of the table to take along, which --model.scores of videodit_jax.train can name"""

    def __post_init__(self):
        refuse(self, {FRAME_RATE: "fps"})
        shapes_of([], self.buckets)


def examples(
    folder: epath.Path, files: list[str], table: dict[str, tuple[str, dict[str, float]]], pool: DecodePool, lengths: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """What `write_records` takes; `lengths` gets the seconds of each video that can be read."""

    def read(file: str) -> bytes:
        video = in_folder(file, folder).read_bytes()
        with contextlib.suppress(VideoError):  # training says why, and sets it aside
            if not is_picture(file):
                lengths[file] = pool.probe(video).duration
        return video

    videos = each(read, files, ahead=ASKED)
    for file, video in zip(cli.tracked(files, "videos packed"), videos):
        caption, scores = table[file]
        yield {"video": video, "caption": caption, "scores": scores, "id": file}


def by_shape(config: RecordsConfig) -> dict[str, list[list[str]]]:
    """The files to train on and those to hold out, of each shape that has some to train on."""
    shapes, data = shapes_of([], config.buckets), epath.Path(config.data)
    kept = dict(cache=probe.cache_of(data), progress=probe.saying(data))
    both = [half.parts for half in open_splits(data, shapes[0], buckets=shapes, fps=config.fps, scores=with_further(config.scores), **kept)]
    if empty := [named(shape) for shape in shapes if shape not in both[0]]:
        log.warning("no clip to train on has the shape %s, of which no dataset is made", ", ".join(empty))
    return {named(shape): [[video.file for video in half[shape].videos] if shape in half else [] for half in both] for shape in both[0]}


def main(args: list[str]) -> None:
    config = cli.parse(RecordsConfig, args, "videodit_jax.records")
    if remote(config.out):
        raise ValueError(f"--out {config.out}: a dataset is written on this machine; copy it then, by gcloud storage cp -r")
    lengths: dict[str, float] = {}
    folder, files, table = listed(config.data, with_further(config.scores), bool(config.buckets))
    with DecodePool() as pool:
        packed = lambda parts: {split: examples(folder, sorted(part), table, pool, lengths) for split, part in zip(("train", "validation"), parts) if part}
        if config.buckets:
            shapes = by_shape(config)
            files = [file for parts in shapes.values() for part in parts for file in part]
            write_buckets(config.out, {name: packed(parts) for name, parts in shapes.items()})
        else:
            broken = {file for file in files if broken_link(in_folder(file, folder))}
            for file in sorted(broken):
                log.warning("%s is set aside: a link that leads nowhere", in_folder(file, folder))
            files = [file for file in files if file not in broken]
            write_records(config.out, packed(halves(folder, files)))
    if lengths:
        longest, mean = max(lengths, key=lengths.get), statistics.fmean(lengths.values())
        said = "of each video training reads the first --frames alone; they last %.1f s on average, and %s lasts %.1f s (koala_jax.split --longest cuts)"
        log.info(said, mean, longest, lengths[longest])
    shape = ()
    if config.buckets:
        frames, _, size = next(iter(shapes)).partition("x")
        shape = "--frames", frames, "--size", size, "--buckets", *config.buckets
    print(f"wrote {config.out}, {counted(len(files), 'video')}; next: {cli.command('videodit_jax.train', '--data', config.out, *shape)}")


if __name__ == "__main__":
    cli.run(main)
