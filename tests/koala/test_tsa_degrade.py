"""Degradations whose rank is known."""
import itertools

import cv2
import numpy as np
import pytest

from koala_jax.metrics import Metric
from koala_jax.metrics.measure import Plan
from koala_jax.tsa import segments as segments_module
from koala_jax.tsa.degrade import FASTEST, LEVELS, Degradation
from koala_jax.tsa.fragments import FragmentConfig
from tests.koala.moving import moving_clip


@pytest.mark.parametrize("kind", Degradation)
def test_every_level_is_further_from_the_clip_and_drawn_again_the_same(kind):
    clip = moving_clip()
    frames = int(len(clip) / FASTEST)
    worse = [kind(clip, frames, level, np.random.default_rng(3)) for level in range(1, LEVELS + 1)]
    np.testing.assert_array_equal(worse[1], kind(clip, frames, 2, np.random.default_rng(3)))
    assert all(x.shape == (frames, *clip.shape[1:]) and x.dtype == np.uint8 for x in worse)
    distance = [np.abs(x.astype(float) - clip[:frames]).mean() for x in worse]
    assert distance[0] > 0
    if kind not in (Degradation.SPEED, Degradation.DROPS, Degradation.SLIDESHOW):  # once out of step, pixels of a texture say no more
        assert (np.diff(distance) > 0).all(), distance


@pytest.mark.parametrize("kind", [Degradation.WATERMARK, Degradation.SUBTITLE])
def test_bright_letters_have_a_dark_rim_at_every_level(kind):
    grey = np.full((1, 216, 384, 3), 128, np.uint8)
    covered = []
    for level in range(1, LEVELS + 1):
        luma = kind(grey, 1, level, np.random.default_rng(3))[0, ..., 0].astype(int)
        bright, dark = luma > 128 + 20, luma < 128 - 20
        near = cv2.dilate(dark.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert bright.any() and near[bright].all()
        covered.append(bright.sum() + dark.sum())
    assert covered == sorted(set(covered)), "more with each level"


@pytest.mark.parametrize("value, ways", [(60, {-1}), (128, {-1, 1}), (200, {1})])
def test_a_dark_clip_gets_darker_and_a_light_one_lighter(value, ways):
    clip = np.full((2, 8, 8, 3), value, np.uint8)
    found = {int(np.sign(Degradation.EXPOSURE(clip, 2, 1, np.random.default_rng(seed)).mean() - value)) for seed in range(8)}
    assert found == ways


def test_levels_share_fragments_and_draws_and_segments_do_not():
    plan = Plan((Metric.EXPOSURE,), FragmentConfig(8, 1, 1, 2, 16))
    frames = np.repeat(moving_clip(1, (72, 128))[:1], segments_module.lengths(plan)[1], 0)
    made = [segments_module.degradations(frames, (0, number), plan, (Degradation.EXPOSURE, Degradation.WATERMARK)) for number in range(6)]
    assert [(kind, level) for kind, level, _ in made[0]] == [(kind, level) for kind in ("exposure", "watermark") for level in range(LEVELS + 1)]
    brightness = np.array([[m.columns["brightness"] for _, _, m in each[: LEVELS + 1]] for each in made])
    assert set(np.sign(np.diff(brightness)).sum(1)) == {-LEVELS, LEVELS}, "up in some segments, down in others, one way in each"
    pristine = [each[0][2].clips for each in made]
    assert all((a != b).any() for a, b in itertools.combinations(pristine, 2)), "a still picture, yet other pieces of it"
    np.testing.assert_array_equal(pristine[0], made[0][LEVELS + 1][2].clips)
