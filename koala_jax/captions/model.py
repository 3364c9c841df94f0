"""Captions by a vision-language model of core_jax.lmm, in batches of one size, so that few programs are compiled."""
import dataclasses

import jax
import jax.numpy as jnp

from core_jax import mesh
from core_jax.lmm.ask import ask
from core_jax.lmm.generate import generate
from core_jax.lmm.load import load
from core_jax.lmm.tokenizer import load_tokenizer
from core_jax.mesh import MeshConfig
from koala_jax.captions.backend import Failure, Request
from koala_jax.captions.schema import prompt


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model, and how it answers."""

    directory: str = ""
    """as `transformers` writes it: LLaVA-OneVision or Chameleon, config.json, safetensors and tokenizer.json"""
    batch: int = 8
    """answers at one time"""
    most: int = 128
    """tokens of an answer"""
    half: bool = False
    """weights and computation in bf16 instead of fp32"""
    mesh: MeshConfig = MeshConfig()
    """how devices share the work; data · fsdp divides the batch"""


class Model:
    """A backend (`Answers`). A first answer takes the likeliest words; one that is asked for again is drawn."""

    def __init__(self, config: ModelConfig):
        if not config.directory:
            raise ValueError("the backend model needs --model.directory, a directory as transformers writes it")
        self.config, self.mesh = config, mesh.build(config.mesh)
        self.dtype = jnp.bfloat16 if config.half else jnp.float32
        rows = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        if config.batch % rows:
            raise ValueError(f"a batch of {config.batch} is not divided by the {rows} devices of the mesh's axes data and fsdp")
        self.lmm = load(config.directory, self.mesh, self.dtype).ready()
        self.tokenizer = load_tokenizer(config.directory, self.lmm.config)
        self.calls = 0

    def __call__(self, requests: list[Request]) -> list[str | Failure]:
        answers: dict[int, str | Failure] = {}
        for again in (False, True):
            asked = [i for i, request in enumerate(requests) if (request.attempt > 0) == again]
            for start in range(0, len(asked), self.config.batch):
                places = asked[start : start + self.config.batch]
                answers |= zip(places, self._batch([requests[i] for i in places], temperature=0.7 if again else 0.0))
        return [answers[i] for i in range(len(requests))]

    def _batch(self, requests: list[Request], temperature: float) -> list[str]:
        self.calls += 1
        with jax.set_mesh(self.mesh):
            sequences = [ask(self.lmm, self.tokenizer, request.frames, prompt(request.part)) for request in requests]
            sequences += sequences[-1:] * (self.config.batch - len(sequences))
            key = jax.random.key(self.calls)
            answers = generate(self.lmm, sequences, most=self.config.most, temperature=temperature, key=key, dtype=self.dtype)
        return [self.tokenizer.decode(answer) for answer in answers[: len(requests)]]
