"""The clips of `shapes` are what they say, and the checker reads them."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videodit_jax.data.check_shapes import accuracy, check, spearman
from videodit_jax.data.shapes import DIRECTIONS, Scene, Shapes, Split, coverage

CLIPS = 200


@pytest.fixture(scope="module")
def true_clips():
    clips = [Shapes()[i] for i in range(CLIPS)]
    return np.stack([clip["video"] for clip in clips]), [clip["caption"] for clip in clips], [clip["scores"] for clip in clips]


def test_the_checker_reads_true_clips(true_clips):
    videos, captions, scores = true_clips
    right = accuracy(videos, captions)
    assert right["colour"] >= 0.97 and right["direction"] >= 0.97 and right["size"] >= 0.97
    assert right["shape"] >= 0.93
    assert spearman([score["motion"] for score in scores], [check(video).motion for video in videos]) >= 0.98


def test_wrong_captions_and_noise_are_read_at_chance(true_clips):
    videos, captions, scores = true_clips
    noise = np.random.default_rng(0).integers(0, 256, videos.shape, dtype=np.uint8)
    for right in (accuracy(videos, captions[1:] + captions[:1]), accuracy(noise, captions)):
        assert right["colour"] < 0.3 and right["shape"] < 0.4 and right["direction"] < 0.4 and right["size"] < 0.65
        assert right["all"] < 0.05
    assert abs(spearman([score["motion"] for score in scores], [check(video).motion for video in noise])) < 0.2


def test_the_held_out_captions_are_never_trained():
    train, held_out = Shapes(), Shapes(split=Split.HELD_OUT)
    assert len(set(train.captions)) == 128 and len(set(held_out.captions)) == 64
    assert not set(train.captions) & set(held_out.captions)
    for word in range(4):
        assert {words[word] for words in train.captions} == {words[word] for words in held_out.captions}
    drawn = {train[i]["caption"].split(",")[0] for i in range(300)}
    assert not drawn & {Scene(*words, speed=0).caption for words in held_out.captions}


def test_an_example_depends_on_seed_split_and_index_alone():
    source, again = Shapes(), Shapes()
    later = source[7]
    assert np.array_equal(later["video"], again[7]["video"]) and later["scores"] == again[7]["scores"]
    for other in (source[8], Shapes(seed=1)[7], Shapes(split=Split.HELD_OUT)[7]):
        assert not np.array_equal(later["video"], other["video"]) and later["scores"]["motion"] != other["scores"]["motion"]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(12, 40), st.integers(12, 40), st.integers(0, 10_000))
def test_clips_of_any_size_keep_their_shape_inside(frames, height, width, index):
    source = Shapes(frames, height, width)
    clip = source[index]
    assert clip["video"].shape == (frames, height, width, 3) and clip["video"].dtype == np.uint8
    slowest, fastest = source.speeds
    assert slowest <= clip["scores"]["motion"] <= fastest
    assert 0 <= clip["scores"]["clarity"] <= 1 and 2.5 <= clip["scores"]["aesthetic"] <= 10


def test_blur_and_contrast_change_the_picture_as_the_scores_say():
    source = Shapes()
    draw = lambda **change: source.draw(Scene("large", "red", "bar", "left", 1.0, **change), np.random.default_rng(0)).astype(int)
    edges = lambda video: np.abs(np.diff(video[..., 0], axis=2)).max()
    assert edges(draw(blur=0.96)) < 0.8 * edges(draw())
    assert np.ptp(draw(contrast=0.5)[..., 0]) < 0.8 * np.ptp(draw()[..., 0])
    assert Scene("large", "red", "bar", "left", 1.0, hue=np.pi).aesthetic > Scene("large", "red", "bar", "left", 1.0).aesthetic


def test_a_shape_covers_its_area_wherever_it_stands():
    centres = np.array([[0.0, 0.0], [0.3, -0.4], [5.0, 5.0]], np.float32)
    assert np.allclose(coverage("circle", 4.0, centres, 24, 24).sum((1, 2)), np.pi * 16, rtol=0.03)


def test_a_shape_is_drawn_where_its_centres_are():
    source, scene = Shapes(height=20), Scene("large", "red", "circle", "up", 0.8)
    centres, video = (of(scene, np.random.default_rng(3)) for of in (source.centres, source.draw))
    red = video[..., 0] - video[..., 1].astype(int) > 100
    for inside, (x, y) in zip(red, centres):
        assert np.argwhere(inside).mean(0) == pytest.approx([y + 9.5, x + 11.5], abs=0.3)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_checker_sees_each_direction(direction):
    source = Shapes(height=16, width=20)
    reading = check(source.draw(Scene("small", "blue", "pillar", direction, 0.8), np.random.default_rng(1)))
    assert reading.direction == direction and abs(reading.motion - 0.8) < 0.05


def test_spearman_knows_order_and_ties():
    assert spearman([1, 2, 3], [10, 20, 90]) == pytest.approx(1) and spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9**0.5)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0


def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="8×24"):
        Shapes(height=8)
    with pytest.raises(ValueError, match="float32"):
        check(np.zeros((8, 24, 24, 3), np.float32))
    with pytest.raises(ValueError, match="names 0 words for its colour"):
        accuracy(Shapes()[0]["video"][None], ["a small circle moves left"])
