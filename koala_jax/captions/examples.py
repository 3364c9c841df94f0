"""What a captioner learns from: questions about clips, or about one frame of them, and the parts of their captions as answers."""
import dataclasses
import functools
import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from flax import struct
from jaxtyping import Array, Int, UInt8

from core_jax.cores import cores
from core_jax.lmm.ask import ask
from core_jax.lmm.model import LMM, Inputs
from core_jax.lmm.sequence import Sequence, bucket, stack
from core_jax.lmm.tokenizer import Tokenizer
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax.captions.clips import Clip, sampler
from koala_jax.captions.schema import Part, prompt
from koala_jax.shots.inputs import video_of


log = logging.getLogger(__name__)

KEPT = 2**31
"""bytes of frames that stay in memory, at most"""


@struct.dataclass
class Batch:
    """Sequences, and where in them the tokens are chosen that count."""

    inputs: Inputs
    places: Int[Array, "B A"]
    """positions before the tokens of the answers"""
    targets: Int[Array, "B A"]
    """those tokens, the stop token last; −1 is none"""


def split(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """Of the clips that have a caption, those to train on and those held out, about one video in ten, by a hash of its name; at least one
    of each where there are two. Clips that koala_jax.split cut from one video go together.

    Raises:
      ValueError: none has.
    """
    captioned = [clip for clip in clips if any(clip.row.get(part.value) for part in Part)]
    if not captioned:
        columns = ", ".join(part.value for part in Part)
        raise ValueError(f"of {counted(len(clips), 'clip')} none has a caption in parts: the table needs the columns {columns}")
    order = sorted({video_of(clip.file) for clip in captioned}, key=lambda video: hashlib.sha256(video.encode()).digest())
    held_out = set(order[: max(1, len(order) // 10)]) if len(order) > 1 else set()
    away = [video_of(clip.file) in held_out for clip in captioned]
    return [clip for clip, out in zip(captioned, away) if not out], [clip for clip, out in zip(captioned, away) if out]


@dataclasses.dataclass
class Examples:
    """Example i is a part of a clip; every epoch takes each once, in another order. Which it is, and whether it is shown as a video or
    as one frame of it, depends on (seed, i) alone."""

    clips: list[Clip]
    model: LMM
    """its config, which is all that is read while it trains"""
    tokenizer: Tokenizer
    frames: int
    side: int
    images: float
    """share of examples that are shown as one frame"""
    seed: int
    pool: DecodePool = dataclasses.field(default_factory=lambda: DecodePool(cores()))

    def __post_init__(self):
        self.parts = [(clip, part) for clip in self.clips for part in Part if clip.row.get(part.value)]
        by_name = {clip.name: clip for clip in self.clips}
        sample = sampler(self.frames, self.side, self.pool)
        decode = lambda name: sample(by_name[name])
        self._decoded = functools.lru_cache(max(1, KEPT // (3 * self.frames * self.side**2)))(decode)
        self._left_out, self._lock = set(), threading.Lock()
        shuffle = lambda epoch: np.random.default_rng([self.seed, epoch]).permutation(len(self.parts))
        self._order = functools.lru_cache(2)(shuffle)

    @property
    def fingerprint(self) -> str:
        """Of the parts in their order."""
        told = [(clip.name, part.value, clip.row[part.value]) for clip, part in self.parts]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def show(self, clip: Clip) -> UInt8[np.ndarray, "T H W 3"] | None:
        """Frames of a clip; None, said once, where it cannot be read."""
        if clip.name in self._left_out:
            return None
        try:
            return self._decoded(clip.name)
        except (ValueError, OSError) as error:
            return self._leave_out(clip.name, error)

    def _leave_out(self, name: str, why: str | Exception) -> None:
        with self._lock:
            if name not in self._left_out:
                log.warning("%s is left out: %s", name, why)
            self._left_out.add(name)

    def __getitem__(self, i: int) -> tuple[Sequence, list[int]]:
        """A question, and the tokens of its answer. In the place of a clip that cannot be read, or of an answer that the model's context
        cannot hold, stands the epoch's next one.

        Raises:
          ValueError: there is none.
        """
        epoch, place = divmod(i, len(self.parts))
        for further in range(len(self.parts)):
            clip, part = self.parts[self._order(epoch)[(place + further) % len(self.parts)]]
            if (frames := self.show(clip)) is None:
                continue
            rng = np.random.default_rng([self.seed, 1, i])
            if rng.random() < self.images:
                frames = frames[[rng.integers(len(frames))]]
            question = ask(self.model, self.tokenizer, frames, prompt(part))
            answer = [*self.tokenizer.plain(clip.row[part.value]), *self.model.config.stop[:1]]
            if (tokens := len(question) + len(answer) - 1) <= self.model.config.decoder.context:
                return question, answer
            self._leave_out(f"{clip.name}, {part.value}", f"{tokens} tokens do not fit in the model's {self.model.config.decoder.context}")
        raise ValueError(f"of {counted(len(self.clips), 'clip')} none can be read, or none fits in the model's context")

    def batches(self, size: int, start: int) -> Iterator[Batch]:
        """Batches without end, from example `start` on; the next one is made while the last one is used."""
        with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(self.pool.workers) as readers:
            make = lambda at: self.batch(list(readers.map(self.__getitem__, range(at, at + size))))
            coming = thread.submit(make, start)
            while True:
                ready, start = coming.result(), start + size
                coming = thread.submit(make, start)
                yield ready

    def batch(self, examples: list[tuple[Sequence, list[int]]]) -> Batch:
        """Examples as one batch, in buckets of length."""
        whole = [extended(question, answer) for question, answer in examples]
        most = bucket(max(len(answer) for _, answer in examples), 8)
        places, targets = np.zeros((len(examples), most), np.int32), np.full((len(examples), most), -1, np.int32)
        for row, (question, answer) in enumerate(examples):
            places[row, : len(answer)] = len(question) - 1 + np.arange(len(answer))
            targets[row, : len(answer)] = answer
        return Batch(stack(self.model.config, whole), places, targets)


def extended(question: Sequence, answer: list[int]) -> Sequence:
    """A question with its answer behind it, but for the answer's last token, after which nothing is chosen."""
    tokens = np.concatenate([question.tokens, np.array(answer[:-1], np.int32)])
    if question.sources is None:
        return Sequence(tokens)
    more = ((0, len(answer) - 1), (0, 0))
    sources, weights = np.pad(question.sources, more, constant_values=-1), np.pad(question.weights, more)
    return Sequence(tokens, question.tiles, sources, weights)
