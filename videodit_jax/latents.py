"""`python -m videodit_jax.latents`: encodes videos, and captions, once, so that training reads their latents and features.

Each clip's latents, and each caption's features, are kept as they come in OUT.parts, a file each, so that a rerun encodes none twice; then they
become one dataset of ArrayRecord files with captions and scores, as `videodit_jax.records` writes one of videos. Of several hosts each encodes every
so many clips, and writes a dataset of its own in the folder OUT: training reads such a folder as one. With `--buckets` a dataset is a folder of one for
each shape of clips.
"""
import dataclasses
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from core_jax import cli, mesh
from core_jax.cores import cores
from core_jax.files import refuse_unwritable, remote
from core_jax.numbers import COUNT, refuse
from core_jax.video_error import VideoError
from core_jax.words import counted
from videodit_jax.autoencoder import SIZES
from videodit_jax.autoencoder.codec import Codec
from videodit_jax.autoencoder.load import latents_of
from videodit_jax.conditioning import with_further
from videodit_jax.config import FRAME_RATE, Dtype, named, shapes_of, video_size
from videodit_jax.data import buckets, digests
from videodit_jax.data.buckets import Mixed, Shape
from videodit_jax.data.clips import host_folder
from videodit_jax.data.folder import Folder, open_splits
from videodit_jax.data.hosts import gathered, the_same
from videodit_jax.data.records import write_buckets, write_records
from videodit_jax.given import then_gray
from videodit_jax.parts import path_of, read_array, write_array
from videodit_jax.picture import VIT_H, PictureEncoder, features_of
from videodit_jax.umt5 import XXL
from videodit_jax.umt5.captions import Captions

Halves = tuple[Folder, Folder] | tuple[Mixed, Mixed]
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LatentsConfig:
    """Encode videos by Wan's autoencoder, and captions by its text encoder, for `train`. A rerun with the same settings goes on where it stopped."""

    data: str
    """what --data of videodit_jax.train takes: a folder of videos, or a table of clips"""
    autoencoder: str
    """directory of the autoencoder in diffusers' format, or of a pipeline of Wan 2.1 or 2.2 that has it as `vae`"""
    out: str
    """the new folder of the dataset, on this machine (of several hosts each makes a folder in it); training reads it here or from a store"""
    text_encoder: str | None = None
    """directory of UMT5's weights and tokenizer, or of a pipeline of Wan; without it captions are kept as text, and the model reads their bytes"""
    frames: int = 81
    """frames of a clip, 4n + 1"""
    size: str = "480x832"
    """height x width of a clip in pixels: multiples of 8, of 16 for the patches of the presets, and with Wan 2.2's of twice as many"""
    buckets: tuple[str, ...] = ()
    """further shapes, frames x height x width, as --buckets of videodit_jax.train: each clip has the nearest, pictures those of one frame"""
    fps: float | None = None
    """frames a second at which a clip is read; by default the video's own rate"""
    picture: bool = False
    """keep the latents of each clip's first frame and gray ones too, which Wan's image-to-video reads: the dataset is twice as large"""
    image_encoder: str | None = None
    """with --picture, directory of the encoder whose features of the first frame Wan 2.1's image-to-video reads too, or of a pipeline that has it"""
    scores: tuple[str, ...] = ()
    """further columns of the table to take along, which --model.scores of videodit_jax.train can name"""
    dtype: Dtype = Dtype.AUTO
    """dtype of the computation; auto: bfloat16 on TPU and GPU, float32 on a CPU"""
    workers: int = cores()
    """decoding processes"""

    def __post_init__(self):
        if self.autoencoder in SIZES:
            raise ValueError(f"--autoencoder {self.autoencoder}: a directory of its weights is wanted")
        if self.text_encoder == XXL:
            raise ValueError(f"--text-encoder {XXL}: a directory of its weights is wanted")
        if self.image_encoder == VIT_H:
            raise ValueError(f"--image-encoder {VIT_H}: a directory of its weights is wanted")
        if self.image_encoder and not self.picture:
            raise ValueError(f"--image-encoder {self.image_encoder} goes with --picture: features of a first frame come with its latents")
        refuse(self, {COUNT: "workers frames", FRAME_RATE: "fps"})
        if self.picture and (still := [shape for shape in self.shapes if shape[0] == 1]):
            which = "--frames 1" if self.frames == 1 else f"--buckets {named(still[0])}"
            raise ValueError(f"{which}: with --picture the first frame is given, which of one frame would be all")

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """(T, H, W) of clips."""
        return shapes_of([(self.frames, *video_size(self.size))], self.buckets)


def part(folder: epath.Path, settings: list, source: Folder, clip: int) -> epath.Path:
    """Where a clip's latents are kept, by its shape, the settings and its video's name, size and times."""
    at, number = source.place(clip)
    video = source.videos[at]
    return path_of(folder, [(source.frames, *source.size), *settings, video.file, video.bytes, video.begin, video.rate, number])


def beside(latents: epath.Path) -> epath.Path:
    """Where the features of a clip's first frame are kept."""
    return latents.with_suffix(".picture.npy")


def decoded(todo: list[tuple[epath.Path, Folder, int]], threads: int, ahead: int) -> Iterator[tuple[epath.Path, np.ndarray | None]]:
    """(path, pixels) of clips, so many read ahead; None of one that does not decode, which is set aside."""

    def read(i: int) -> tuple[int, np.ndarray | None]:
        _, source, clip = todo[i]
        try:
            return i, source.read(clip)["video"]
        except VideoError as error:
            source.set_aside.report(error)
            return i, None

    options = grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead)
    for i, video in grain.MapDataset.range(len(todo)).map(read).to_iter_dataset(options):
        yield todo[i][0], video


def examples(captions: Captions, source: Folder, clips: dict[int, epath.Path]) -> Iterator[dict[str, Any]]:
    """What `write_records` takes, of clips whose latents lie at these paths."""
    for clip, path in clips.items():
        at, number = source.place(clip)
        video = source.videos[at]
        example = {"video": read_array(path), "caption": video.caption, "scores": dict(video.scores), "id": f"{video.file} {number}"}
        picture = {"picture": read_array(beside(path))} if beside(path).exists() else {}
        yield example | captions.features(video.caption) | picture


def encode(config: LatentsConfig) -> str:
    """Encodes this host's clips as far as that was not done, and writes its dataset; says so.

    Raises:
      ValueError: bad input; where one host of several fails before the encoding, all of them raise.
    """
    mesh.start(config)
    host, hosts = jax.process_index(), jax.process_count()
    out = host_folder(config.out, host, hosts)
    if remote(out):
        raise ValueError(f"--out {config.out}: a dataset is written on this machine; copy it then, by gcloud storage cp -r")
    if all(gathered(out.exists()) if hosts > 1 else [out.exists()]):
        raise ValueError(f"--out {config.out} exists already")
    codec, captions, parts = None, None, out.parent / f"{out.name}.parts"

    def mine(halves: Halves) -> list[tuple[Folder, int]]:
        """The clips of this host."""
        return [(source, clip) for half in halves for source in buckets.parts(half).values() for clip in range(len(source))][host::hosts]

    def opened() -> Halves:
        nonlocal codec, captions
        if not out.exists():
            refuse_unwritable("--out", out)
        for shape in config.shapes:
            latents_of(config.autoencoder).grid(shape)  # refuses a size that has none
        codec, captions = Codec(config.autoencoder, local(), config.dtype.jax), Captions(config.text_encoder, parts, config.dtype)
        if config.image_encoder:
            features_of(config.image_encoder)  # refuses what is none; its weights come when the text encoder has left
        shapes = config.shapes if config.buckets else ()
        halves = open_splits(config.data, config.shapes[0], buckets=shapes, fps=config.fps, workers=config.workers, scores=with_further(config.scores))
        if not out.exists():
            captions.load(source.videos[source.place(clip)[0]].caption for source, clip in mine(halves))
        return halves

    halves = the_same(config.data, opened)
    if (clips := sum(map(len, halves))) < hosts:
        raise ValueError(f"{config.data} gives {clips} clips, and {hosts} hosts were started: fewer are wanted")
    done = f"{out} was finished before"
    if not out.exists():
        done = f"wrote {out}, {counted(write(config, out, parts, codec, captions, halves, mine(halves)), 'clip')}"
    multihost_utils.sync_global_devices("latents")  # a host that left minutes before the others would take them along
    return done


def local() -> Mesh:
    """The devices of this host."""
    return mesh.build(devices=jax.local_devices())


def write(
    config: LatentsConfig, out: epath.Path, parts: epath.Path, codec: Codec, captions: Captions, halves: Halves, own: list[tuple[Folder, int]]
) -> int:
    """Encodes what this host's own clips lack in `parts`, and makes its dataset of them; how many clips it has.

    Raises:
      ValueError: none to train on decodes.
    """
    made_by = digests(config.autoencoder, config.text_encoder, config.image_encoder)
    settings = [config.dtype.resolve().value, made_by["--autoencoder"], *["picture"] * config.picture, *filter(None, [made_by.get("--image-encoder")])]
    captions.encode()
    reader = PictureEncoder(config.image_encoder, local()) if config.image_encoder else None
    to_train, held_out = (buckets.parts(half, config.shapes[0]) for half in halves)
    if bare := [named(shape) for shape in config.shapes if shape not in to_train]:
        log.warning("no clip to train on has the shape %s, of which no dataset is made", ", ".join(bare))
    made, asked, found = {}, {"train": 0, "validation": 0}, {"train": 0, "validation": 0}
    for shape, source in to_train.items():
        both = {"train": source, "validation": held_out.get(shape)}
        paths = {name: {clip: part(parts, settings, one, clip) for one, clip in own if one is half} for name, half in both.items()}
        every = {path: (path, both[name], clip) for name, some in paths.items() for clip, path in some.items()}  # a single video is in both halves
        run(codec, reader, [one for path, one in every.items() if not path.exists()], max(config.workers, 2), config.picture)
        there = {name: {clip: path for clip, path in some.items() if path.exists()} for name, some in paths.items()}
        for name in both:
            asked[name], found[name] = asked[name] + len(paths[name]), found[name] + len(there[name])
        if there["train"] or jax.process_count() > 1 and there["validation"]:  # of several hosts another one may have some to train on
            made[named(shape)] = {name: examples(captions, both[name], some) for name, some in there.items() if some}
    if not made:
        parts.rmtree(missing_ok=True)
        some = f"{counted(asked['train'], 'clip')} to train on" if any(found.values()) else counted(sum(asked.values()), "clip")
        raise ValueError(f"of {some} none decodes")
    if config.buckets:
        write_buckets(out, made, made_by)
    else:
        write_records(out, *made.values(), made_by)
    parts.rmtree()
    return sum(found.values())


def run(codec: Codec, reader: PictureEncoder | None, todo: list[tuple[epath.Path, Folder, int]], threads: int, picture: bool) -> None:
    """Encodes clips and keeps their latents, each whole or not at all; for `picture` beside those of its first frame and gray ones, (T, H, W, 2C), and
    that frame's features if there is who makes them."""

    def encoded(videos: np.ndarray) -> np.ndarray:
        latents = codec.encode(videos)
        return np.concatenate([latents, codec.encode(then_gray(videos[:, :1], videos.shape[1]))], -1) if picture else latents

    coming = decoded(todo, threads, 2 * codec.batch)
    with cli.progress("clips", len(todo), cli.console()) as done:
        while some := list(itertools.islice(coming, codec.batch)):
            if whole := [(path, video) for path, video in some if video is not None]:
                paths, videos = zip(*whole)
                for path, features in zip(paths, reader(np.stack([video[0] for video in videos]))) if reader else ():
                    write_array(beside(path), features)  # first: a clip whose latents are there is done
                for path, latents in zip(paths, encoded(np.stack(videos))):
                    write_array(path, latents)
            done(len(some))


def main(args: list[str]) -> None:
    config = cli.parse(LatentsConfig, args, "videodit_jax.latents")
    done = encode(config)
    flags = ("--data", config.out, "--autoencoder", config.autoencoder, "--frames", config.frames, "--size", config.size)
    flags += ("--buckets", *config.buckets) * bool(config.buckets)
    flags += ("--model.given", "--model.gray", "--given-part", 1) * (config.picture and not config.image_encoder)
    for name in ("text_encoder", "image_encoder", "fps"):
        flags += (f"--{name.replace('_', '-')}", getattr(config, name)) * (getattr(config, name) is not None)
    print(f"{done}; next: {cli.command('videodit_jax.train', *flags)}")


if __name__ == "__main__":
    cli.run(main)
