"""Clips from, and into, a dataset of tensorflow_datasets in ArrayRecord files, without tensorflow.

Features: `video`, either a Tensor, of pixels uint8 (T, H, W, 3) or of latents float16 (T, H, W, 16), or the bytes of a video file (Text), of which
the first T frames count, or of a picture, a clip of one frame;
`caption`, Text; and, where they are known, `id`, Text, the scores, each a Scalar float32 with NaN for unknown, `text`, a Tensor float16 (n, C) of
the caption's features, and `picture`, a Tensor float16 (N, C) of the first frame's.
tfds opens such a folder with `builder_from_directory(folder).as_data_source(split)`, grain its files as ArrayRecord.
"""

import contextlib
import copy
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Float64

from core_jax.cores import cores
from core_jax.files import each
from core_jax.lock import hold, release
from core_jax.pictures import is_image, read_covering
from core_jax.video_error import Unread, VideoError, patiently
from core_jax.video_worker import DecodePool
from videodit_jax.conditioning import SCORES, with_further
from videodit_jax.data import sampled
from videodit_jax.data.clips import COUNTED, Clips, SetAside, datasets, fitting, short, split_last
from videodit_jax.data.sampled import Looked, Sample
from videodit_jax.text import Reads, TextConfig

FILE_BYTES, BEGUN = 2**30, 32
"""of a file, about: so many examples' mean is taken for that of all"""
READ_BYTES = 2**29
"""of the records that are looked at where a dataset keeps no sample"""
AWAY = re.compile("(?<!No such file or directory); (opening|reading) ")
"""what ArrayRecord says where the system or a store failed; of a file that is torn it says what is wrong in it"""
Splits = dict[str, Iterable[dict[str, Any]]]
"""examples by the name of their split"""
HELD_OUT_NAMES = ("validation", "valid", "val", "test", "held_out")


class Records(Clips):
    """Some examples of a split."""

    def __init__(
        self,
        builder: tfds.core.DatasetBuilder,
        split: str,
        clip: jax.ShapeDtypeStruct,
        *,
        text: TextConfig = TextConfig(),
        picture: tuple[int, int] = (0, 0),
        scores: tuple[str, ...] = SCORES,
        rows: range | None = None,
        parts: dict[str, tfds.core.DatasetBuilder] = {},
        fps: float | None = None,
        pool: DecodePool | None = None,
    ):
        super().__init__(f"{builder.data_dir} ({split})", SetAside())
        features = builder.info.features
        missing = {"video", "caption"} - set(features)
        if missing:
            raise ValueError(f"{builder.data_dir} has no feature {min(missing)!r}; its features are {', '.join(features)}")
        self.encoded = isinstance(features["video"], tfds.features.Text)
        given = "encoded videos" if self.encoded else f"{np.dtype(features['video'].np_dtype)} {list(features['video'].shape)}"
        wanted = f"{clip.dtype} {list(clip.shape)}"
        if clip.dtype != np.uint8 if self.encoded else given != wanted:
            how = ": latents go with --autoencoder" if ("float16" in given) != ("float16" in wanted) else ""
            if given == f"{clip.dtype} {[*clip.shape[:3], clip.shape[3] // 2]}":
                how = ": videodit_jax.latents --picture keeps those of a first frame as well"
            raise ValueError(f"{builder.data_dir} holds {given}, but {wanted} are asked for{how}")
        if text.reads is Reads.FEATURES:
            held = list(features["text"].shape) if "text" in features else "no features of captions"
            if held != [None, text.width]:
                raise ValueError(f"{builder.data_dir} holds {held}, and --text-encoder wants {text.width} a token: videodit_jax.latents --text-encoder makes them")
        if any(picture):
            held = list(features["picture"].shape) if "picture" in features else "no features of first frames"
            if held != [*picture]:
                raise ValueError(f"{builder.data_dir} holds {held}, and --image-encoder wants {[*picture]}: videodit_jax.latents --image-encoder makes them")
        self.text = ["text"] * (text.reads is Reads.FEATURES)
        self.features = [*self.text, *["picture"] * any(picture)]
        self.token_bytes = features["text"].shape[1] * np.dtype(features["text"].np_dtype).itemsize if "text" in features else 1
        self.builder, self.parts, self.split, self.video, self.fps, self.pool = builder, parts, split, clip.shape[:3], fps, pool
        self.names, self.held = scores, [name for name in scores if name in features]
        skip = {name: tfds.decode.SkipDecoding() for name in ("video", "text", "picture") if name in features}
        self._data = builder.as_data_source(split, decoders={name: how for name, how in skip.items() if name not in ["video", *self.features]})
        self._light = copy.copy(self._data)  # by the same readers, each of which keeps a file open
        self._light.decoders = skip
        self.rows = range(len(self._data)) if rows is None else rows
        self._probed: dict[int, tuple[float, float]] = {}  # of an encoded video, when it begins and its rate, which takes reading it to its end

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, id: int) -> dict[str, Any]:
        record = self._record(self._data, self.rows[id])
        video = self._decode(record, id) if self.encoded else record["video"]
        features = {name: record[name] for name in self.features}
        return {"video": video, "caption": record["caption"].decode(), "scores": self._known(record), "id": id} | features

    def _record(self, data, row: int) -> dict[str, Any]:
        """Raises VideoError where a file of the dataset is torn or lost, Unread where its bytes could not be read, having been patient."""
        return patiently(lambda: self._read(data, row))

    def _read(self, data, row: int) -> dict[str, Any]:
        try:
            record = data[row]
        except Exception as error:  # each of ArrayRecord's, of protobuf's and of tfds' ways to fail has a kind of its own
            label, said = f"record {row} of {self.name}", str(error).partition("\n")[0]
            if AWAY.search(said):
                self._data.data_source = self._light.data_source = copy.copy(data.data_source)  # with new readers: one that failed to open fails for ever
                raise Unread(label, said) from error
            raise VideoError(label, said) from error
        if record["caption"] is None:  # ArrayRecord gave nothing
            raise VideoError(f"record {row} of {self.name}", "it is not whole")
        return record

    def _known(self, record: dict[str, Any]) -> dict[str, float]:
        return dict.fromkeys(self.names, np.nan) | {name: float(record[name]) for name in self.held}

    def _decode(self, record: dict[str, Any], id: int) -> np.ndarray:
        T, *size = self.video
        try:
            if is_image(record["video"]):
                return self.pool.run(read_covering, record["video"], tuple(size))[None]
            if id not in self._probed:
                info = self.pool.probe(record["video"])
                rate = self.fps or info.fps
                if not fitting(info.duration, rate, T):
                    raise VideoError("", short(info.duration, rate, T))
                self._probed[id] = info.seconds[0], rate
            begin, rate = self._probed[id]
            return self.pool.read_clip(record["video"], begin + (np.arange(T) + 0.5) / rate, tuple(size))
        except VideoError as error:
            label = record["id"].decode() if "id" in record else self.rows[id]
            raise VideoError(f"record {label} of {self.name}", error.reason) from error

    def scores(self) -> dict[str, Float64[np.ndarray, " n"]]:
        """Each score, NaN for unknown, of evenly spaced examples."""
        return {name: np.array([one.scores.get(name, np.nan) for one in self._looked], np.float64) for name in self.names}

    def lengths(self) -> list[int]:
        """Of their captions: in words and marks, or in tokens where features are read."""
        return [one.tokens if self.text else one.words for one in self._looked]

    @functools.cached_property
    def _looked(self) -> list[Looked]:
        def look(row: int) -> Looked:
            record = self._record(self._light, row)
            return Looked.at(self._known(record), record["caption"].decode(), len(record.get("text", b"")) // self.token_bytes)

        splits = [one.info.splits for one in self.parts.values()]
        numbers = [held[self.split].num_examples if self.split in held else 0 for held in splits]
        if found := sampled.read(list(self.parts), numbers, self.split, self.rows):
            return found
        whole = self.builder.info.splits[self.split]
        affordable = READ_BYTES * whole.num_examples // max(whole.num_bytes, 1)  # a record is read with its video
        return list(each(look, self._sample(max(min(COUNTED, affordable), 1))))

    def _sample(self, number: int) -> list[int]:
        """Up to `number` rows, evenly spaced."""
        return [self.rows[i] for i in np.unique(np.linspace(0, len(self) - 1, min(number, len(self))).astype(int))]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the features, of which rows are used, and of the content of up to 64 of them; not of the path."""
        described = (epath.Path(self.builder.data_dir) / "features.json").read_text()
        digest = hashlib.sha256(repr([described, self.split, self.rows, self.video[0], self.fps]).encode())
        for row in self._sample(64):
            for name, value in sorted(self._record(self._light, row).items()):
                digest.update(name.encode())
                digest.update(value if isinstance(value, bytes) else repr(value).encode())
        return digest.hexdigest()[:32]


def open_splits(
    path: epath.PathLike, clip: jax.ShapeDtypeStruct, *, bucket: str = "", text: TextConfig = TextConfig(), picture: tuple[int, int] = (0, 0),
    scores: tuple[str, ...] = SCORES, fps: float | None = None, workers: int = cores(), made_by: dict[str, str] = {},
) -> tuple[Records, Records]:
    """The training and the held-out examples: a split of that name, else the last tenth of the training split, at most 4,096.

    `bucket` names one of several shapes of clips, where each has a dataset. `clip` is what an example's video is to be, as `TrainConfig.stored` says:
    stored ones are that, encoded ones are read at `fps`, else at their own rate. Features are read where `text` and `picture` say so. `made_by` has
    digests of models, by the flag that names each: where the dataset keeps one, it is that.

    Raises:
      ValueError: another model's, not such a dataset or a torn one, parts that are not alike, a feature that is missing or of another shape, no
        example.
    """
    folders = datasets(path, bucket)
    if not folders:
        raise ValueError(f"{path} is no dataset of tensorflow_datasets: it has no dataset_info.json")
    builders = [_builder(folder) for folder in folders]
    builder = builders[0] if len(builders) == 1 else tfds.builder_from_directories(folders)
    for one in builders:
        if repr(one.info.features) != repr(builders[0].info.features):
            raise ValueError(f"{path} holds parts of unlike features: {one.data_path.name} has not those of {builders[0].data_path.name}")
    for flag, made in made_by.items():
        if any(made != one.info.metadata.get(flag, made) for one in builders if one.info.metadata):
            raise ValueError(f"{path} was made by another model than {flag} now names")
    splits = builder.info.splits
    if "train" not in splits or not splits["train"].num_examples:
        raise ValueError(f"{path} has no example in a split `train`; its splits are {', '.join(splits) or 'none'}")
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(f"{path} is stored as {builder.info.file_format.value}, where array_record is needed")
    options = {"parts": dict(zip(folders, builders)), "text": text, "picture": picture, "scores": scores, "fps": fps, "pool": DecodePool(workers)}
    named = [name for name in HELD_OUT_NAMES if name in splits and splits[name].num_examples]
    if named:
        return Records(builder, "train", clip, **options), Records(builder, named[0], clip, **options)
    halves = split_last(splits["train"].num_examples)
    return tuple(Records(builder, "train", clip, rows=rows, **options) for rows in halves)


def _builder(folder: str) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # of protobuf, of json, or whatever a file that was torn or is none of theirs makes of their code
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{folder} is no dataset that can be read: {reason}") from error


def write_records(path: epath.PathLike, splits: Splits, made_by: dict[str, str] = {}) -> None:
    """Writes examples {"video": array or bytes, "caption", "scores", "id"}, maybe "text" and "picture", by split, in order, to the new folder `path`.

    The first example of the first split tells whether videos are arrays, all of its shape, or bytes, which scores there are besides SCORES, and
    whether there are features of captions and of first frames.
    It is written beside `path` and renamed.

    Args:
      made_by: digests of the models behind it, kept as the dataset's metadata.

    Raises:
      ValueError: `path` exists, another process is writing it, or there is no example.
    """
    with _becoming(epath.Path(path)) as partial:
        _write(partial, epath.Path(path), splits, made_by)


def write_buckets(path: epath.PathLike, buckets: dict[str, Splits], made_by: dict[str, str] = {}) -> None:
    """As `write_records`, a dataset for each shape of clips in a folder of its name."""
    with _becoming(epath.Path(path)) as partial:
        for name, splits in buckets.items():
            _write(partial / name, epath.Path(path) / name, splits, made_by)


@contextlib.contextmanager
def _becoming(path: epath.Path) -> Iterator[epath.Path]:
    """A new folder that is renamed to `path` when all is written. Raises ValueError: that exists, or another process is writing it."""
    if path.exists():
        raise ValueError(f"{path} exists already")
    held = path.parent / f".{path.name}.partial"
    hold(held, f"another process is writing {path}: wait for its end, or choose another --out")
    try:
        partial = held / path.name
        partial.rmtree(missing_ok=True)  # of a run that was killed
        partial.mkdir()
        yield partial
        partial.rename(path)
    finally:
        held.rmtree(missing_ok=True)
        release(held)


def _write(partial: epath.Path, path: epath.Path, splits: Splits, made_by: dict[str, str]) -> None:
    """A dataset into the folder `partial`, which then is `path`."""
    streams = {name: iter(examples) for name, examples in splits.items()}
    first = next(iter(streams), None)
    begun = list(itertools.islice(streams[first], BEGUN)) if streams else []
    if not begun:
        raise ValueError(f"there is no example to write to {path}")
    example, videos = begun[0], [one["video"] for one in begun]
    streams[first] = itertools.chain(begun, streams[first])
    names, tensor = with_further(example["scores"]), not isinstance(example["video"], bytes)
    text, score = tfds.features.Text(), tfds.features.Scalar(np.float32)
    shape = tfds.features.Tensor(shape=example["video"].shape, dtype=example["video"].dtype, encoding="bytes") if tensor else text
    features = {"video": shape, "caption": text, "id": text, **dict.fromkeys(names, score)}
    for name, rows in {"text": None, "picture": len(example.get("picture", ()))}.items():
        if name in example:
            features[name] = tfds.features.Tensor(shape=(rows, example[name].shape[1]), dtype=example[name].dtype, encoding="bytes")

    def told(one: dict[str, Any], sample: Sample) -> dict[str, Any]:
        scores = {name: float(np.float32(one["scores"].get(name, np.nan))) for name in names}
        sample.add(Looked.at(scores, one["caption"], len(one.get("text", ()))))
        return {name: one[name] for name in ("video", "caption", "text", "picture") if name in features} | scores | {"id": str(one["id"])}

    partial.mkdir(exist_ok=True)
    of = tfds.core.DatasetIdentity(name="clips", version="1.0.0", data_dir=str(partial), module_name=__name__)
    info = tfds.core.DatasetInfo(
        builder=of, features=tfds.features.FeaturesDict(features), disable_shuffling=True, metadata=tfds.core.MetadataDict(made_by)
    )
    size = max(sum(len(value) if isinstance(value, bytes) else value.nbytes for value in videos) // len(videos), 1)
    writer = tfds.core.SequentialWriter(info, max(FILE_BYTES // size, 1), file_format="array_record")  # its builders hold all, and need tensorflow
    writer.initialize_splits(list(streams))
    samples = {name: Sample() for name in streams}
    for name, stream in streams.items():
        writer.add_examples({name: map(told, stream, itertools.repeat(samples[name]))})
    writer.close_all()
    sampled.write(partial, samples)
    for file in partial.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())  # as of any file before it gets its name, and latents.py then removes what this was made of
