"""The smallest world model that is still a whole one."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.lmm.config import DecoderConfig, TowerConfig
from core_jax.lmm.fresh import fresh_config, fresh_tokenizer, untrained
from core_jax.lmm.model import Inputs
from core_jax.lmm.tokenizer import Tokenizer
from core_jax.rngs import Rngs
from owl_jax.config import OwlConfig
from owl_jax.model import Owl
from owl_jax.sequence import Batch, Kind, Pieces, collate, longest, unroll
from owl_jax.stages import Stage
from tests.videodit.small import CONFIG, shaken
from videodit_jax.run import make_model

FILM = dataclasses.replace(CONFIG, frames=4, model=dataclasses.replace(CONFIG.model, given=True))
WORDS = ["a red circle moves left", "it comes back from the right", "the room is empty", "it rests"]
LMM = fresh_config(
    DecoderConfig(vocabulary=300, width=32, layers=2, heads=2, kv_heads=1, mlp=64, context=1024), TowerConfig(tile=12, patch=3, width=32, layers=1, heads=2, mlp=32)
)
OWL = OwlConfig(queries=3, words=6, width=32, layers=1, heads=2)


@functools.cache
def pieces(config: OwlConfig = OWL) -> Pieces:
    return Pieces(LMM, Tokenizer(fresh_tokenizer(WORDS, LMM.decoder.vocabulary), LMM), config)


@functools.cache
def owl(config: OwlConfig = OWL) -> tuple[Owl, Pieces]:
    made = jax.jit(lambda: shaken(Owl(config, untrained(LMM, 0), make_model(FILM), rngs=Rngs(1))))()
    return made, pieces(config)


@jax.jit
def read(model: Owl, inputs: Inputs, places: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The language model's outputs, and the states among them. The model is an argument: a program into which it is written takes longer to compile."""
    outputs = model.read(inputs, places, jnp.float32)
    return outputs, model.states(outputs, places)


def films(n: int, clips: int, seed: int = 0) -> np.ndarray:
    """Random clips, (n, clips, T, H, W, 3), each beginning with the last frame of the one before."""
    video = np.random.default_rng(seed).integers(0, 256, (n, clips, *FILM.video, 3)).astype(np.uint8)
    video[:, 1:, 0] = video[:, :-1, -1]
    return video


def batch(pieces: Pieces, clips: np.ndarray, stage: Stage) -> Batch:
    """These films, (n, clips, T, H, W, 3), as the stage learns from them."""
    kind = Kind.DYNAMICS if stage is Stage.WORLD else Kind.TEXT
    n = clips.shape[1]
    said = [WORDS[t % 4] for t in range(n - 1)] + [None]
    whole = [unroll(pieces, film[0, 0], "it rests", film, said if stage is Stage.WORLD else ["it rests"] * n, kind) for film in clips]
    inputs, states, learned = collate(pieces, whole, longest(pieces, clips[0, 0], n, False))
    caption = jax.tree.map(lambda *x: np.stack([np.stack(x)] * len(clips)), *[FILM.model.text.tokenize(w) for w in WORDS[:n]])
    scores = np.full((len(clips), n, 3), np.nan, np.float32)
    return jax.tree.map(jnp.asarray, Batch(inputs, states, learned, clips, np.ones((len(clips), n), bool), scores, caption))
