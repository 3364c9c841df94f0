"""The past as a film in training shows it to the language model: spoilt by noise, or filmed by the model itself; against drift.

In a film that is made, observations are the model's own clips; in training they are the data's. A share of the films (`own_history`) learns
from clips that the model makes there and then: clip t from the state of the true past and the true frame before, by a few steps of the
solver without guidance. All clips of a film are made at once, so errors of one do not add to those of the next; no gradient goes through
them. What the film model learns from, and the frames that join its clips, stay the data's.
"""
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from core_jax.lmm.config import TowerConfig
from owl_jax.model import Owl
from owl_jax.sequence import Batch, key_frames
from owl_jax.shoot import filmed
from owl_jax.stages import TrainConfig
from videodit_jax.config import SamplingConfig, TrainConfig as FilmConfig


def noisy(batch: Batch, std: float, key: PRNGKeyArray) -> Batch:
    """Observations with noise of up to `std`, one level a film; the first tile is I, which stays."""
    tiles = batch.inputs.tiles
    level_key, noise_key = jax.random.split(key)
    level = std * jax.random.uniform(level_key, (len(tiles), 1, 1, 1, 1))
    noise = (level * jax.random.normal(noise_key, tiles.shape)).at[:, 0].set(0)
    return batch.replace(inputs=batch.inputs.replace(tiles=tiles + noise))


def own(config: TrainConfig, film: FilmConfig, owl: Owl, batch: Batch, key: PRNGKeyArray) -> Batch:
    """In a share of the films, the model's own clips for the observations that a later state can see."""
    which_key, noise_key = jax.random.split(key)
    owl = jax.lax.stop_gradient(owl)  # pixels are whole numbers, so there is none; but nothing is kept for it either
    B, n = batch.joined.shape
    states = owl.states(owl.read(batch.inputs, batch.states, film.dtype.jax), batch.states)
    seen = lambda x: x[:, :-1].reshape(B * (n - 1), *x.shape[2:])
    state, video = owl.context(seen(states)), seen(batch.video)
    eps = jax.random.normal(noise_key, video.shape)
    clips = filmed(film, SamplingConfig(config.own_steps), owl.film, (state, state), video[:, 0], seen(batch.joined), eps, seen(batch.scores))
    tiles = tiles_of(clips[:, key_frames(config.owl.key_frames, film.frames)], owl.lmm.config.tower)
    tiles = tiles.reshape(B, -1, *tiles.shape[2:])
    mine = jax.random.bernoulli(which_key, config.own_history, (B, 1, 1, 1, 1))
    place = slice(1, 1 + tiles.shape[1])  # the first tile is I
    old = batch.inputs.tiles
    return batch.replace(inputs=batch.inputs.replace(tiles=old.at[:, place].set(jnp.where(mine, tiles, old[:, place]))))


def tiles_of(frames: UInt8[Array, "B k H W 3"], tower: TowerConfig) -> Float[Array, "B k h w 3"]:
    """The tiles of `core_jax.lmm.packing.video`, made on the device; where frames are of another size than tiles, within rounding and
    clipping."""
    shape = (*frames.shape[:2], tower.tile, tower.tile, 3)
    tiles = frames.astype(jnp.float32)
    if shape != frames.shape:
        tiles = jnp.clip(jnp.round(jax.image.resize(tiles, shape, "cubic")), 0, 255)
    mean, std = (np.array(value, np.float32).reshape(1, 1, 1, 1, 3) for value in (tower.mean, tower.std))
    return (tiles / 255 - mean) / std
