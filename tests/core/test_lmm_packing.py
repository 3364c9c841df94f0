"""How pictures, videos and texts become sequences: resolutions, tiles, buckets, placeholders."""
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_jax.lmm.config import CodesConfig, LMMConfig
from core_jax.lmm.packing import NEWLINE, best_resolution, one_of_images, single_image, video
from core_jax.lmm.sequence import bucket, lay_out, length_bucket
from tests.core.lmm_models import CONFIG, DECODER, IMAGE, PACKING, TOWER, VIDEO


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_the_best_resolution_keeps_as_many_pixels_as_any(height, width):
    best = best_resolution((height, width), PACKING.resolutions)
    kept = lambda r: min(int(height * (s := min(r[0] / height, r[1] / width))) * int(width * s), height * width)
    assert kept(best) == max(map(kept, PACKING.resolutions))


@given(st.integers(1, 90), st.integers(1, 90))
def test_an_image_of_any_shape_becomes_tokens_that_lie_in_its_tiles(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    for visual in (single_image(image, TOWER, PACKING), one_of_images(image, TOWER)):
        assert visual.tiles.shape[1:] == (20, 20, 3)
        assert visual.sources.shape == visual.weights.shape and visual.sources.max() < len(visual.tiles) * TOWER.grid**2
        np.testing.assert_allclose(visual.weights.sum(-1), 1, atol=1e-6)
        assert (visual.sources[-1] == NEWLINE).all()


@given(st.integers(1, 5))
def test_a_video_has_a_quarter_of_its_patches_and_one_newline(frames):
    visual = video(np.zeros((frames, 30, 20, 3), np.uint8), TOWER)
    assert len(visual.sources) == frames * math.ceil(TOWER.grid / 2) ** 2 + 1
    assert (visual.sources == NEWLINE).any(-1).sum() == 1


@given(st.integers(1, 10_000))
def test_a_bucket_is_the_next_power_of_two(size):
    assert size <= bucket(size) < 2 * size and bucket(size).bit_count() == 1 and bucket(size, 32) >= 32


@given(st.integers(1, 10_000))
def test_a_length_is_padded_by_less_than_a_quarter_in_few_steps(length):
    assert length <= length_bucket(length) < max(33, 1.25 * length + 32 * (length < 128))
    assert len({length_bucket(n) for n in range(length, 2 * length + 1)}) <= 6


def test_placeholders_and_visuals_go_together():
    with pytest.raises(ValueError, match="2 placeholders came with 0"):
        lay_out(CONFIG, [1, IMAGE, VIDEO], [])


def test_frames_enter_one_way():
    with pytest.raises(ValueError, match="one way"):
        LMMConfig(DECODER, TOWER, PACKING, CodesConfig())
