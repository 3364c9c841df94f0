"""What a scorer sees of a video, and the scale of what it says."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koala_jax.tsa.fragments import FragmentConfig, Splicer, draw, enlarged, normalised
from koala_jax.tsa.scale import Scale, split_modes

KOALA = FragmentConfig()
SMALL = FragmentConfig(frames=4, interval=2, clips=2, grid=3, patch=8)


def frame(number: int, height: int, width: int) -> np.ndarray:
    """A picture whose pixels say which frame, row and column they are."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([np.full((height, width), number), rows, columns], -1).astype(np.uint8)


def test_the_published_ranges_at_720p():
    drawn = [draw(KOALA, 400, 720, 1280, seed=0, number=n) for n in range(200)]
    numbers, corners = np.stack([d.numbers for d in drawn]), np.stack([d.corners for d in drawn])
    assert (np.diff(numbers, axis=-1) == 2).all()
    spare = numbers[..., 0] - 100 * np.arange(4)
    assert spare.min() == 0 and spare.max() == 100 - 64 - 1
    origin = np.stack(np.meshgrid(102 * np.arange(7), 182 * np.arange(7), indexing="ij"), -1)
    offset = corners - origin
    assert offset.min() == 0 and offset[..., 0].max() == 69 and offset[..., 1].max() == 149


def test_short_segments_wrap_around_and_small_videos_keep_their_cells():
    d = draw(KOALA, 70, 144, 200, seed=0)
    assert d.numbers[3].tolist() == ((51 + 2 * np.arange(32)) % 70).tolist()
    np.testing.assert_array_equal(d.corners[0, :, 0, 0], [0, 20, 40, 60, 80, 100, 112])
    assert enlarged(frame(0, 144, 200), KOALA.size).shape == (224, 311, 3)


@given(frames=st.integers(8, 60), height=st.integers(8, 90), width=st.integers(8, 90), seed=st.integers(0, 2**31))
def test_every_piece_lies_within_the_frame_it_was_drawn_for(frames, height, width, seed):
    d = draw(SMALL, frames, height, width, seed)
    assert d.numbers.min() >= 0 and d.numbers.max() < frames
    assert d.corners.min() >= 0 and (d.corners.max((0, 1, 2)) + SMALL.patch <= (height, width)).all()
    again = draw(SMALL, frames, height, width, seed)
    np.testing.assert_array_equal(d.corners, again.corners)


def test_pieces_are_spliced_where_they_were_drawn():
    draws = [draw(SMALL, 40, 60, 80, seed=1, number=n) for n in range(2)]
    splicer = Splicer(SMALL, draws, 40)
    for number in reversed(range(40)):
        splicer.add(number, frame(number, 60, 80))
    assert splicer.clips.shape == (2, 2, 4, 24, 24, 3)
    for clips, d in zip(splicer.clips, draws):
        np.testing.assert_array_equal(clips[..., 0, 0, 0], d.numbers)
        np.testing.assert_array_equal(clips[:, 1, ::8, ::8, 1:], d.corners)
        np.testing.assert_array_equal(clips[:, 0, 7, 15, 1:], d.corners[:, 0, 1] + 7)
    assert (splicer.image[..., 0] == 20).all()


@pytest.mark.parametrize("size, why", [((63, 720, 1280), "has 63 frames, and a score needs 64"), ((100, 1, 1), "is 1×1 pixels")])
def test_what_is_too_short_or_too_small_is_refused(size, why):
    with pytest.raises(ValueError, match=why):
        draw(KOALA, *size, seed=0)


def test_normalised_pixels_by_hand():
    np.testing.assert_allclose(normalised(np.array([[124, 0, 255]], np.uint8)), [[0.00557, -2.03571, 2.64]], atol=1e-4)


def test_a_scale_gives_the_corpus_the_labels_mean_and_spread():
    raw = np.random.default_rng(0).normal(-0.03, 0.02, 1000)
    scale = Scale.of(raw)
    assert scale(raw.mean()) == pytest.approx(3.293) and scale(raw.mean() - raw.std()) == pytest.approx(3.293 - 1.086)
    assert scale(np.array([-9.0, 9.0, np.nan])).tolist()[:2] == [1, 5] and np.isnan(scale(np.nan))
    own = Scale.of(raw, np.array([2.0, 4.0]))
    assert own(raw.mean()) == pytest.approx(3) and own.label_std == 1
    with pytest.raises(ValueError, match="two scores or more that differ"):
        Scale.of(np.ones(5))


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=40).filter(lambda x: max(x) - min(x) > 1e-3))
def test_the_split_of_modes_is_the_best_of_all_splits(scores):
    x = np.array(scores)
    modes = split_modes(x)
    inside = lambda t: (x[x <= t].var() * (x <= t).sum() + x[x > t].var() * (x > t).sum()) / x.size  # noqa: E731
    best = min(inside(t) for t in np.unique(x)[:-1])
    assert inside(modes.threshold) == pytest.approx(best, abs=1e-9)
    assert 0 <= modes.between <= 1 + 1e-9


def test_two_far_bells_are_two_modes():
    rng = np.random.default_rng(0)
    two, one = np.concatenate([rng.normal(1.5, 0.2, 500), rng.normal(4, 0.4, 900)]), rng.normal(3, 1, 4000)
    assert 2 < split_modes(two).threshold < 3 and split_modes(two).between > 0.9
    assert split_modes(one).between == pytest.approx(0.64, abs=0.03)
