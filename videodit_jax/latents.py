"""`python -m videodit_jax.latents`: encodes videos once, so that training reads their latents and not their pixels.

Each clip's latents are kept as they come in OUT.parts, a file each, so that a rerun encodes none twice; then they become one dataset of
ArrayRecord files with captions and scores, as `videodit_jax.records` writes one of videos. Of several hosts each encodes every so many videos, and
writes a dataset of its own in the folder OUT: training reads such a folder as one.
"""
import dataclasses
import hashlib
import io
import itertools
import json
import logging
from collections.abc import Iterator
from typing import Any

import grain
import jax
import numpy as np
from etils import epath
from rich.console import Console
from rich.progress import track

from core_jax import cli, mesh
from core_jax.cores import cores
from core_jax.files import remote, write_bytes
from core_jax.video import VideoError
from videodit_jax.autoencoder import WAN, latent_grid
from videodit_jax.autoencoder.codec import Codec
from videodit_jax.config import Dtype, refuse_fps, video_size
from videodit_jax.data import probe
from videodit_jax.data.clips import host_folder
from videodit_jax.data.folder import Folder, open_splits
from videodit_jax.data.records import write_records

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LatentsConfig:
    """Encode videos by Wan 2.1's autoencoder, for `train --autoencoder`. A rerun with the same settings goes on where it stopped."""

    data: str
    """what --data of videodit_jax.train takes: a folder of videos, or a table of clips"""
    autoencoder: str
    """directory of the autoencoder in diffusers' format, or of a Wan 2.1 pipeline that has it as `vae`"""
    out: str
    """the new folder of the dataset, on this machine (of several hosts each makes a folder in it); training reads it here or from a store"""
    frames: int = 81
    """of a clip, 4n + 1"""
    size: str = "480x832"
    """height x width of a clip in pixels, multiples of 8"""
    fps: float | None = None
    """frames a second that a clip is read at; the video's own rate if not given"""
    dtype: Dtype = Dtype.AUTO
    """of the computation; auto: bfloat16 on TPU and GPU, float32 on a CPU"""
    workers: int = cores()
    """processes that decode video"""

    def __post_init__(self):
        if self.autoencoder == WAN:
            raise ValueError(f"--autoencoder {WAN}: a directory of its weights is wanted")
        if self.workers < 1 or self.frames < 1:
            raise ValueError(f"--workers {self.workers} --frames {self.frames}: at least 1 is needed")
        refuse_fps(self.fps)
        latent_grid(self.video)

    @property
    def video(self) -> tuple[int, int, int]:
        """(T, H, W) of a clip."""
        return self.frames, *video_size(self.size)


class Parts:
    """The latents in OUT.parts of one autoencoder at one precision."""

    def __init__(self, config: LatentsConfig, out: epath.Path, weights: str):
        self.folder = out.parent / f"{out.name}.parts"
        self.settings = [config.video, config.dtype.resolve().value, weights]

    def path(self, source: Folder, clip: int) -> epath.Path:
        """Of a clip, by its video's name, size and times."""
        at, number = source.place(clip)
        video = source.videos[at]
        key = json.dumps([*self.settings, video.file, video.bytes, video.begin, video.rate, number])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"

    def keep(self, path: epath.Path, latents: np.ndarray) -> None:
        """Whole or not at all."""
        buffer = io.BytesIO()
        np.save(buffer, latents)
        write_bytes(path, buffer.getvalue())


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


def examples(source: Folder, clips: dict[int, epath.Path]) -> Iterator[dict[str, Any]]:
    """What `write_records` takes, of clips whose latents lie at these paths."""
    for clip, path in clips.items():
        at, number = source.place(clip)
        video = source.videos[at]
        latents = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        yield {"video": latents, "caption": video.caption, "scores": dict(video.scores), "id": f"{video.file} {number}"}


def encode(config: LatentsConfig) -> int:
    """Encodes this host's clips as far as it was not done and writes the dataset; returns how many clips it holds."""
    mesh.start()
    host, hosts = jax.process_index(), jax.process_count()
    out = host_folder(config.out, host) if hosts > 1 else epath.Path(config.out)
    if remote(out):
        raise ValueError(f"--out {out}: a dataset is written on this machine; copy it then, by gcloud storage cp -r")
    if out.exists():
        raise ValueError(f"--out {out} exists already")
    codec = Codec(config.autoencoder, mesh.build(devices=jax.local_devices()), config.dtype.jax)
    parts = Parts(config, out, codec.digest)
    folder = epath.Path(config.data)
    kept = dict(cache=probe.cache_of(folder), progress=probe.saying(folder))
    halves = open_splits(folder, config.video, fps=config.fps, workers=config.workers, **kept)
    clips = [{clip: parts.path(source, clip) for clip in range(len(source)) if source.place(clip)[0] % hosts == host} for source in halves]
    every = {path: (path, source, clip) for source, some in zip(halves, clips) for clip, path in some.items()}  # a single video is in both halves
    todo = [one for path, one in every.items() if not path.exists()]
    shown = track(decoded(todo, max(config.workers, 2), 2 * codec.batch), "encoding", len(todo), console=Console(stderr=True))
    while some := list(itertools.islice(shown, codec.batch)):
        if whole := [(path, video) for path, video in some if video is not None]:
            paths, videos = zip(*whole)
            for path, latents in zip(paths, codec.encode(np.stack(videos))):
                parts.keep(path, latents)
    made = [{clip: path for clip, path in some.items() if path.exists()} for some in clips]
    write_records(out, {name: examples(*half) for name, *half in zip(("train", "validation"), halves, made) if half[1]})
    parts.folder.rmtree()
    return sum(map(len, made))


def main(args: list[str]) -> None:
    config = cli.parse(LatentsConfig, args, "videodit_jax.latents")
    number = encode(config)
    flags = ("--data", config.out, "--autoencoder", config.autoencoder, "--frames", config.frames, "--size", config.size)
    print(f"wrote {config.out}, {number} clips; next: {cli.command('videodit_jax.train', *flags)}")


if __name__ == "__main__":
    cli.run(main)
