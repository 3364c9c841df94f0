"""`python -m videodit_jax.records`: packs videos, their captions and scores into one ArrayRecord dataset, a few large files instead of many.

Of several hosts, or of shares that one does one after the other, each packs every so many videos into a dataset of its own in the folder OUT, which
training reads as one. A share is whole or not there, so that a rerun packs only those that are missing.
"""
import contextlib
import dataclasses
import logging
import statistics
from collections.abc import Iterator
from typing import Any

from etils import epath

from core_jax import cli
from core_jax.files import ASKED, broken_link, each, in_folder, is_picture, refuse_unwritable, remote
from core_jax.numbers import refuse
from core_jax.video_error import VideoError
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax import share
from videodit_jax.conditioning import with_further
from videodit_jax.config import FRAME_RATE, named, shapes_of
from videodit_jax.data.clips import host_folder
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
    share: str | None = None
    """K/N, as 1/8 … 8/8 on eight hosts: pack every N-th video, from the K-th on. Where jax knows the hosts, as on a TPU slice, each finds its own"""

    def __post_init__(self):
        refuse(self, {FRAME_RATE: "fps"})
        shapes_of([], self.buckets)
        if self.share:
            share.parse(self.share)


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
    shapes = shapes_of([], config.buckets)
    both = [half.parts for half in open_splits(config.data, shapes[0], buckets=shapes, fps=config.fps, scores=with_further(config.scores))]
    if empty := [named(shape) for shape in shapes if shape not in both[0]]:
        log.warning("no clip to train on has the shape %s, of which no dataset is made", ", ".join(empty))
    return {named(shape): [[video.file for video in half[shape].videos] if shape in half else [] for half in both] for shape in both[0]}


def main(args: list[str]) -> None:
    config = cli.parse(RecordsConfig, args, "videodit_jax.records")
    if remote(config.out):
        raise ValueError(f"--out {config.out}: a dataset is written on this machine; copy it then, by gcloud storage cp -r")
    number, shares = share.start(config)
    shape = ()
    if config.buckets:
        frames, _, size = config.buckets[0].partition("x")
        shape = "--frames", frames, "--size", size, "--buckets", *config.buckets
    out, following = host_folder(config.out, number, shares), cli.command("videodit_jax.train", "--data", config.out, *shape)
    if out.exists():
        if shares > 1:
            return print(f"{out} was finished before; next, once all shares are there: {following}")
        raise ValueError(f"{out} exists already")
    refuse_unwritable("--out", out)
    folder, files, table = listed(config.data, with_further(config.scores), bool(config.buckets))
    if config.buckets:
        parts = by_shape(config)
    else:
        broken = {file for file in files if broken_link(in_folder(file, folder))}
        for file in sorted(broken):
            log.warning("%s is set aside: a link that leads nowhere", in_folder(file, folder))
        parts = {"": halves(folder, [file for file in files if file not in broken])}
    every = [(name, split, file) for name, both in parts.items() for split, part in zip(("train", "validation"), both) for file in sorted(part)]
    if (wanted := len({file for *_, file in every})) < shares:
        raise ValueError(f"{config.data} holds {counted(wanted, 'video')}, and each of {shares} shares wants one: take fewer")
    mine: dict[str, dict[str, list[str]]] = {}
    for name, split, file in every[number::shares]:
        mine.setdefault(name, {}).setdefault(split, []).append(file)
    lengths: dict[str, float] = {}
    with DecodePool() as pool:
        packed = {name: {split: examples(folder, part, table, pool, lengths) for split, part in both.items()} for name, both in mine.items()}
        if config.buckets:
            write_buckets(out, packed)
        else:
            write_records(out, packed[""])
    if lengths:
        longest, mean = max(lengths, key=lengths.get), statistics.fmean(lengths.values())
        said = "of each video training reads the first --frames alone; they last %.1f s on average, and %s lasts %.1f s (koala_jax.split --longest cuts)"
        log.info(said, mean, longest, lengths[longest])
    when = "next, once all shares are there" if shares > 1 else "next"
    packed_here = sum(len(part) for both in mine.values() for part in both.values())
    print(f"wrote {out}, {counted(packed_here, 'video')}; {when}: {following}")


if __name__ == "__main__":
    cli.run(main)
