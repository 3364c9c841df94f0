"""What training minimises: the loss of the clips there are under noise of their own, their conditions dropped as often as asked, each by itself."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.videodit import small
from videodit_jax import step
from videodit_jax.config import TrainConfig
from videodit_jax.flow import FlowConfig, Times
from videodit_jax.model import ModelConfig
from videodit_jax.objective import drop_conditions, loss_fn, to_float, to_uint8


def test_the_loss_is_that_of_the_clip_at_the_time_that_is_said():
    """A model that knows the clips has none: from what it sees and the time it tells the noise."""
    config = TrainConfig(frames=2, size="8x8", model=ModelConfig(patch=(2, 4, 4)), flow=FlowConfig(times=Times.UNIFORM))
    video = np.random.default_rng(0).integers(0, 256, (64, 2, 8, 8, 3)).astype(np.uint8)
    batch = {"video": video, "text": {"length": np.full(64, 3, np.int32)}, "scores": np.full((64, 3), 0.5, np.float32)}
    x0, seen = config.model.cut(video.astype(np.float32) / 127.5 - 1), {}

    class Told:
        text = staticmethod(lambda tokens: tokens["length"])

        def denoise(self, x, grid, t, context, scores, given, picture=None):
            seen.update(t=t, eps=(x - (1 - t[:, None, None]) * x0) / t[:, None, None], grid=grid, given=given)
            return seen["eps"] - x0 + 2

    loss, more = loss_fn(config)(Told(), batch, jax.random.key(0))
    assert loss == pytest.approx(4, rel=1e-3) and more == {} and seen["grid"] == (1, 2, 2) and seen["given"] is None
    eps = np.asarray(seen["eps"]).reshape(64, -1)
    assert abs(eps.mean()) < 0.05 and abs(eps.std() - 1) < 0.02, "off by the rounding of x alone"
    assert np.abs(np.corrcoef(eps) - np.eye(64)).max() < 0.4, "each clip has its own"


def test_captions_and_scores_are_dropped_as_often_as_asked_and_half_of_the_captions_with_all_scores():
    n, config = 20_000, dataclasses.replace(small.CONFIG, caption_dropout=0.2, score_dropout=0.3)
    batch = {"text": {"length": np.full(n, 3, np.int32), "bytes": np.ones((n, 2))}, "scores": np.full((n, 3), 0.25, np.float32)}
    text, scores = drop_conditions(config, batch, jax.random.key(0))
    without, unknown = np.asarray(text["length"]) == 0, np.isnan(scores)
    assert (np.asarray(text["length"])[~without] == 3).all() and (scores[~unknown] == 0.25).all() and (text["bytes"] == 1).all()
    nothing = unknown.all(1)
    shares = without.mean(), unknown.mean(), nothing.mean(), nothing[without].mean()
    assert shares == pytest.approx([0.2, 1 - 0.7**2, 0.3 + 0.7 * 0.3**3, 0.5 + 0.5 * 0.3**3], abs=0.02)
    _, scores = drop_conditions(dataclasses.replace(config, caption_dropout=0.9, score_dropout=0.8), batch, jax.random.key(0))
    assert np.isnan(scores).all(1).mean() == pytest.approx(0.8 + 0.2 * 0.8**3, abs=0.02), "as often where the two do not fit beside each other"
    text, scores = drop_conditions(dataclasses.replace(config, caption_dropout=0.0, score_dropout=0.0), batch, jax.random.key(0))
    assert (text["length"] == 3).all() and (scores == 0.25).all()


def test_bytes_are_what_pixels_become_again():
    codes = np.arange(256, dtype=np.uint8)
    x = to_float(codes)
    assert (x[0], x[255]) == (-1, 1) and (to_uint8(x) == codes).all()
    np.testing.assert_array_equal(to_uint8(jnp.array([-9.0, -1.01, 1.01, 9.0])), [0, 0, 255, 255])


def test_a_step_has_the_seed_the_average_and_the_microbatches_of_its_run(monkeypatch):
    asked = {}
    monkeypatch.setattr(step, "make_step", lambda loss, tx, **how: asked.update(how))
    optimizer = dataclasses.replace(small.CONFIG.optimizer, ema=0.7, accumulate=4)
    step.make(dataclasses.replace(small.CONFIG, seed=5, optimizer=optimizer))
    assert asked == {"seed": 5, "ema_decay": 0.7, "accumulate": 4}
