"""Where training clips come from: `shapes`, `stories`, a folder of videos, a table of clips, or an ArrayRecord dataset.

A source is random-access, as grain wants it: `len(source)`, and `source[i]` gives
  {"video": uint8 (T, H, W, 3), or float16 (T, H, W, C) where it holds latents, "caption": str, "scores": {name: float, NaN if unknown}},
and, where it holds features of captions, these as "text", float16 (n, C), and of its first frame, these as "picture", float16 (N, C).
`source.scores()` gives the known scores without decoding a frame, {name: (n,)}, `source.fingerprint` names its content, and `source.unused`,
of a folder or a table, the files that could not be used. Clips of several shapes are a source for each (`buckets.Mixed`).
"""
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath

from core_jax.files import read_kept
from videodit_jax import picture
from videodit_jax.autoencoder import SIZES
from videodit_jax.autoencoder import load as load_autoencoder
from videodit_jax.conditioning import SCORES, ScoreStatistics, with_further
from videodit_jax.config import TrainConfig, named
from videodit_jax.data.buckets import Mixed, Shape, parts
from videodit_jax.data.clips import COUNTED, bucketed, datasets
from videodit_jax.data.hosts import the_same
from videodit_jax.data.shapes import Shapes, Split
from videodit_jax.data.stories import Stories, StoryClips
from videodit_jax.text import Reads
from videodit_jax.umt5 import XXL
from videodit_jax.umt5 import load as load_umt5


log = logging.getLogger(__name__)


class Source(Protocol):
    """See the top of this file."""

    fingerprint: str

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> dict[str, Any]: ...
    def scores(self) -> dict[str, np.ndarray]: ...


def open_sources(config: TrainConfig, begun: epath.Path | None = None) -> tuple[Source, Source]:
    """The training and the held-out split of `--data`, `the_same` on every host.

    Args:
      begun: JSON that a run keeps; the files that it names as `unused`, which could not be used as the run began, stay out of it. One that a
        store gave too late may be whole the next time, and would make it a run on other data.

    Raises:
      ValueError: there is nothing that can be read there, or it is not the same for every host.
    """
    return the_same(config.data, lambda: _open(config, begun))


def _open(config: TrainConfig, begun: epath.Path | None) -> tuple[Source, Source]:
    T, H, W = config.video
    folder, drawn, scores = epath.Path(config.data), config.data in ("shapes", "stories"), with_further(config.model.scores)
    if not drawn and not folder.exists():
        raise ValueError(f"there is no file or folder {config.data}, where --data says that the videos are")
    stored = {} if drawn else _stored(config, folder)
    if config.autoencoder and not stored:
        raise ValueError(f"--data {config.data} holds no latents, which --autoencoder wants: videodit_jax.latents makes a dataset of them")
    if config.data == "shapes":
        return tuple(Shapes(T, H, W, seed=split.seed(config.seed), split=split) for split in Split)
    if config.data == "stories":
        return tuple(StoryClips(Stories(T, H, W, seed=split.seed(config.seed), split=split)) for split in Split)
    if stored:
        from videodit_jax.data.records import open_splits

        made_by = digests(config.autoencoder, config.text_encoder, config.image_encoder)
        kept = dict(text=config.model.text, picture=config.model.picture, scores=scores, fps=config.fps, workers=config.workers, made_by=made_by)
        each = {shape: open_splits(folder, config.at(shape).stored, bucket=bucket, **kept) for shape, bucket in stored.items()}
        halves = tuple(map(Mixed, ({shape: two[half] for shape, two in each.items()} for half in (0, 1)))) if config.buckets else each[config.video]
        if config.buckets:
            _refuse_bare(config, halves[0])
        if jax.process_index() == 0 and not (begun and begun.exists()):  # at the first start alone: it may take reading records
            of = parts(halves[0]).values()
            _say_cut(config, lengths := [length for part in of for length in part.lengths()], len(lengths) == len(halves[0]))
        return halves
    from videodit_jax.data.folder import open_splits

    halves = open_splits(
        folder, config.video, buckets=config.shapes if config.buckets else (), fps=config.fps, workers=config.workers, scores=scores,
        without=read_kept(begun).get("unused", ()), samples=epath.Path(config.out) / "samples",
    )  # fmt: skip
    if config.buckets:
        _refuse_bare(config, halves[0])
    if jax.process_index() == 0:
        captions = [video.caption for half in halves for part in parts(half).values() for video in part.videos if video.caption]
        some = captions[:: -(-len(captions) // COUNTED) or 1]
        _say_cut(config, [len(config.model.text.pieces(caption)) for caption in some], len(some) == len(captions))
    return halves


def _stored(config: TrainConfig, folder: epath.Path) -> dict[Shape, str]:
    """Of each shape of clips the name of its dataset in the folder, "" of one that is all of it; none where --data is something else.

    Raises:
      ValueError: a dataset of one shape where several are asked for, or of several where one is; what `datasets` refuses.
    """
    if made := bucketed(folder):
        if not config.buckets:
            raise ValueError(f"--data {config.data} holds clips of several shapes, {', '.join(sorted(made))}: name them by --frames, --size and --buckets")
        return {shape: named(shape) for shape in config.shapes if named(shape) in made}
    if not datasets(folder):
        return {}
    if config.buckets:
        raise ValueError(f"--data {config.data} holds clips of one shape; with --buckets videodit_jax.records and .latents make a dataset of each")
    return {config.video: ""}


def _refuse_bare(config: TrainConfig, source: Mixed) -> None:
    """Raises ValueError where no clip has the shape of samples."""
    if config.video not in source.parts:
        others = ", ".join(f"{len(part):,} of {named(shape)}" for shape, part in source.parts.items())
        raise ValueError(
            f"--frames {config.frames} --size {config.size}, which samples have: --data {config.data} has no clip of it to train on, but {others or 'none'}; "
            "name one of these by them"
        )


def _say_cut(config: TrainConfig, lengths: Sequence[int], all_of_them: bool) -> None:
    """Says so where no caption has a word, and how many are cut, by the lengths of all captions or of some."""
    words, lengths = config.model.text.words, [length for length in lengths if length]
    if not lengths:
        log.warning("%s gives no caption, and so nothing that prompts could steer by", config.data)
    if cut := sum(length > words for length in lengths):
        looked = "" if all_of_them else " looked at"
        what = "words and marks" if config.model.text.reads is Reads.BYTES else "tokens"
        said = "%d of %d captions%s are longer than the %d %s that are read (--model.text.words); the rest is cut"
        log.warning(said, cut, len(lengths), looked, words, what)


def digests(autoencoder: str | None, text_encoder: str | None, image_encoder: str | None) -> dict[str, str]:
    """Of those that are a directory, by the flag that names each. Raises ValueError: there is no such model in it."""
    named = {
        "--autoencoder": (autoencoder, load_autoencoder.digest), "--text-encoder": (text_encoder, load_umt5.digest),
        "--image-encoder": (image_encoder, picture.digest),
    }  # fmt: skip
    return {flag: digest(directory) for flag, (directory, digest) in named.items() if directory not in (None, *SIZES, XXL, picture.VIT_H)}


def statistics_of(config: TrainConfig, source: Source) -> ScoreStatistics:
    """Of the clips' scores that the model is told. Raises ValueError: one that no clip has, and nothing here measures."""
    known = source.scores()
    statistics = ScoreStatistics.of({name: known.get(name, np.array([])) for name in config.model.scores})
    if none := [name for name in statistics.unknown if name not in SCORES]:
        raise ValueError(f"--model.scores {none[0]}: no clip of --data {config.data} has such a score")
    return statistics


def encoder(config: TrainConfig, statistics: ScoreStatistics) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What turns an example into fixed-shape arrays: video, text tokens, scores as places in [0, 1], and features of the first frame where they are read."""

    def encode(example: dict[str, Any]) -> dict[str, Any]:
        scores = {name: example["scores"].get(name, np.nan) for name in config.model.scores}
        return {
            "video": example["video"],
            "text": config.model.text.tokenize(config.model.text.of(example)),
            "scores": statistics.vector(scores),
        } | ({"picture": example["picture"]} if any(config.model.picture) else {})

    return encode
