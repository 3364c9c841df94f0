"""Captions by a vision-language model of core_jax.lmm, in batches of one size, so that few programs are compiled."""
import dataclasses
import functools
import secrets
from pathlib import Path

import jax
import jax.numpy as jnp

from core_jax import mesh
from core_jax.files import keep, read_kept, sha256
from core_jax.kept import place
from core_jax.lmm.ask import ask
from core_jax.lmm.config import read_config
from core_jax.lmm.generate import generate
from core_jax.lmm.load import load
from core_jax.lmm.model import LMM
from core_jax.lmm.tokenizer import load_tokenizer
from core_jax.mesh import MeshConfig
from core_jax.numbers import COUNT, refuse
from core_jax.sharding import refuse_undivided
from koala_jax.captions.backend import Failure, Request
from koala_jax.captions.schema import prompt, whole_sentences


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model, and how it answers."""

    directory: str = ""
    """directory of a LLaVA-OneVision or Chameleon as `transformers` writes it: config.json, safetensors and tokenizer.json"""
    batch: int = 8
    """answers generated at one time"""
    most: int = 128
    """longest answer, in tokens"""
    half: bool = False
    """weights and computation in bf16 instead of fp32"""
    mesh: MeshConfig = MeshConfig()
    """how a host's devices share the work; data · fsdp divides the batch"""

    def __post_init__(self):
        refuse(self, {COUNT: "batch most"}, "model")


class Model:
    """A backend (`Answers`). A first answer takes the likeliest words; one that is asked for again is drawn."""

    def __init__(self, config: ModelConfig):
        if not config.directory:
            raise ValueError("the backend model needs --model.directory, a directory as transformers writes it; --backend endpoint and template need none")
        self.config, self.mesh = config, mesh.build(config.mesh, jax.local_devices())
        self.dtype = jnp.bfloat16 if config.half else jnp.float32
        refuse_undivided("--model.batch", config.batch, self.mesh)
        self.tokenizer = load_tokenizer(config.directory, read_config(config.directory))
        self.draws = secrets.randbits(31)  # a rerun would draw again what failed the checks, were it the same

    @functools.cached_property
    def lmm(self) -> LMM:
        """Loaded when it is first asked: a rerun that finds all done needs no weights."""
        return load(self.config.directory, self.mesh, self.dtype).ready()

    def __call__(self, requests: list[Request]) -> list[str | Failure]:
        answers: dict[int, str | Failure] = {}
        for again in (False, True):
            asked = [i for i, request in enumerate(requests) if (request.attempt > 0) == again]
            for start in range(0, len(asked), self.config.batch):
                places = asked[start : start + self.config.batch]
                answers |= zip(places, self._batch([requests[i] for i in places], temperature=0.7 if again else 0.0))
        return [answers[i] for i in range(len(requests))]

    def _batch(self, requests: list[Request], temperature: float) -> list[str]:
        self.draws += 1
        lmm = self.lmm
        with jax.set_mesh(self.mesh):
            sequences = [ask(lmm, self.tokenizer, request.frames, prompt(request.part)) for request in requests]
            sequences += sequences[-1:] * (self.config.batch - len(sequences))
            key = jax.random.key(self.draws)
            answers = generate(lmm, sequences, most=self.config.most, temperature=temperature, key=key, dtype=self.dtype)
        texts = [self.tokenizer.decode(answer) for answer in answers[: len(requests)]]
        return [whole_sentences(text) if len(answer) == self.config.most else text for text, answer in zip(texts, answers)]


def content(directory: str) -> list[str]:
    """A digest of each file that makes the model, by name. It is kept beside jax's compilation cache with the file's size and time of
    change: a rerun does not read 16 GB for it."""
    folder = Path(directory).resolve()
    path = place("digests", str(folder))
    kept, found = read_kept(path), {}
    for file in sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".json")):
        stat = file.stat()
        known, made = [stat.st_size, stat.st_mtime_ns], kept.get(file.name)
        found[file.name] = made if made and made[:2] == known else [*known, sha256(file)[:16]]
    if found != kept:
        keep(path, found)
    return [made[2] for made in found.values()]
