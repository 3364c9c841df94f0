"""What a film in training shows the language model of its past: noise on it, or the model's own clips."""
import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.lmm import packing
from owl_jax import history
from owl_jax.config import ContextConfig
from owl_jax.objective import loss_fn
from owl_jax.shoot import filmed
from owl_jax.stages import Stage, stories
from owl_jax.world import World
from tests.owl import small
from videodit_jax.config import SamplingConfig

CONFIG = dataclasses.replace(stories(Stage.WORLD), filmed=2, owl=small.OWL, own_history=1.0, own_steps=2, clips=3)


def test_noise_on_the_history_spares_the_first_image(owl):
    told = small.batch(owl[1], small.films(2, 3), Stage.WORLD)
    other = history.noisy(told, 0.5, jax.random.key(0))
    difference = jnp.abs(other.inputs.tiles - told.inputs.tiles).mean((2, 3, 4))
    assert float(difference[:, 0].max()) == 0 and float(difference[:, 1:].min()) > 0


def test_own_clips_enter_the_sequence_as_those_of_a_running_world_would(owl):
    """Each is the clip that the loop films behind the true past, and shown by the pieces that the loop shows; nothing else changes."""
    model, pieces = owl
    clips = small.films(2, 3)
    noise = np.random.default_rng(0).standard_normal((4, *small.FILM.video, 3)).astype(np.float32)
    told = small.batch(pieces, clips, Stage.WORLD)
    told = told.replace(joined=told.joined.at[1, 1].set(False), scores=jnp.asarray(np.random.default_rng(1).random((2, 3, 3), np.float32)))
    with mock.patch.object(history.jax.random, "normal", lambda key, shape: jnp.asarray(noise).reshape(shape)):
        other = jax.jit(lambda told: history.own(CONFIG, small.FILM, model, told, jax.random.key(0)))(told)
    tiles = np.array(told.inputs.tiles)
    sampling, shoot = SamplingConfig(CONFIG.own_steps), jax.jit(filmed, static_argnums=(0, 1))
    current, last = World(model, pieces, small.FILM, ContextConfig(4)), clips[:, 0, 0]
    current.begin(last, ["it rests"] * 2)
    for t in range(2):
        current.clip, joined = t, np.asarray(told.joined)[:, t]
        state = current.imagine()
        made = shoot(small.FILM, sampling, model.film, (model.context(state),) * 2, last, joined, noise[t::2], told.scores[:, t])
        for b in range(2):
            tiles[b, 1 + 2 * t : 3 + 2 * t] = pieces.observation(np.asarray(made)[b]).tiles
        current.observe(clips[:, t])
        current.hear([small.WORDS[t]] * 2)
        last = clips[:, t, -1]
    np.testing.assert_allclose(other.inputs.tiles, tiles, atol=0.02)
    assert np.abs(np.asarray(told.inputs.tiles) - tiles)[:, 1:5].mean() > 0.1
    without = lambda batch: batch.replace(inputs=batch.inputs.replace(tiles=None))
    jax.tree.map(np.testing.assert_array_equal, without(other), without(told))


def test_a_share_of_the_films_has_its_own_history(owl):
    told = small.batch(owl[1], small.films(8, 2), Stage.WORLD)
    own = jax.jit(lambda key: history.own(dataclasses.replace(CONFIG, own_history=0.5), small.FILM, owl[0], told, key).inputs.tiles)
    shares = [np.mean(np.abs(own(jax.random.key(i)) - told.inputs.tiles).max((1, 2, 3, 4)) > 0) for i in range(8)]
    assert 0.3 < np.mean(shares) < 0.7 and len({*shares} - {0, 1}) > 1, "film by film"


@pytest.mark.parametrize("change", ["own", "noisy"])
def test_the_loss_of_world_sees_the_changed_past_and_that_of_film_does_not(owl, change):
    told, config = small.batch(owl[1], small.films(1, 2), Stage.WORLD), dataclasses.replace(CONFIG, history_noise=0.1)
    loss = lambda stage: loss_fn(dataclasses.replace(config, stage=stage), small.FILM)(owl[0], told, jax.random.key(0))
    with mock.patch.object(history, "own", lambda config, film, owl, batch, key: batch), mock.patch.object(history, change, side_effect=InterruptedError):
        with pytest.raises(InterruptedError):
            loss(Stage.WORLD)
        with mock.patch.object(type(owl[0]), "read", side_effect=EOFError), pytest.raises(EOFError):
            loss(Stage.FILM)


@pytest.mark.parametrize("size, off", [((12, 12), 1e-6), ((30, 40), 0.04), ((9, 7), 0.04)])
def test_tiles_made_on_the_device_are_those_of_the_host(size, off):
    tower = dataclasses.replace(small.LMM.tower, mean=(0.4, 0.5, 0.6), std=(0.3, 0.25, 0.2))
    frames = np.random.default_rng(0).integers(64, 192, (2, *size, 3)).astype(np.uint8)
    want = packing.video(frames, tower).tiles
    np.testing.assert_allclose(history.tiles_of(jnp.asarray(frames)[None], tower)[0], want, atol=off)
