"""VBench's formulas: against plain loops, and on videos whose motion and sameness are known."""
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from core_jax import mesh
from core_jax.video_worker import DecodePool
from tests.core.video_files import imported, make
from videodit_jax.evaluate import clips, consistency, quality
from videodit_jax.evaluate.embeddings import CENTRE, INNER, SQUARE, WHOLE, batch_of, pixels
from videodit_jax.evaluate.measure import Judges, covering, measure
from videodit_jax.evaluate.totals import Dimension as D


def unit(seed: int, frames: int, numbers: int = 5) -> np.ndarray:
    e = np.random.default_rng(seed).standard_normal((frames, numbers))
    return e / np.linalg.norm(e, axis=-1, keepdims=True)


def sliding(pixels_a_frame: float, frames: int = 16, size=(64, 96), colour=(230, 220, 60), back=(90, 90, 90)) -> np.ndarray:
    """A disc that moves to the right, drawn at 8 times the size."""
    video = []
    for t in range(frames):
        image = np.full((size[0] * 8, size[1] * 8, 3), back, np.uint8)
        cv2.circle(image, (round((16 + pixels_a_frame * t) * 8), size[0] * 4), 10 * 8, colour, -1)
        video.append(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))
    return np.stack(video)


@given(st.integers(0, 99), st.integers(2, 9))
def test_consistency_and_conformity_equal_plain_loops(seed, frames):
    e, image = unit(seed, frames), unit(seed + 1000, 1)[0]
    total, steps, near = 0.0, [], [max(0.0, e[0] @ image)]
    for i in range(1, frames):
        total += (max(0.0, e[i] @ e[i - 1]) + max(0.0, e[i] @ e[0])) / 2
        steps.append(max(0.0, e[i] @ e[i - 1]))
        near.append(max(0.0, e[i] @ image))
    assert consistency.consistency(e) == pytest.approx(total / (frames - 1))
    assert consistency.conformity(image, e) == pytest.approx(0.4 * max(near) + 0.3 * np.mean(steps) + 0.3 * min(steps))


def test_slow_fast_takes_both_parts_and_the_slow_one_alone_of_one_clip():
    firsts = unit(0, 4)
    fast = consistency.consistency(firsts)
    assert consistency.slow_fast([0.8, 0.9, 1.0, 0.9], firsts) == pytest.approx((0.9 + fast) / 2)
    assert consistency.slow_fast([0.7], firsts[:1]) == 0.7
    with pytest.raises(ValueError, match="at least 2 are needed, not 1"):
        consistency.consistency(firsts[:1])


@given(st.integers(1, 400), st.sampled_from([1, 8, 23.976, 25, 30]))
def test_clips_cover_a_video_and_the_last_is_extended_backwards(frames, fps):
    found = clips.cut(frames, fps)
    assert {i for clip in found for i in clip} == set(range(frames))
    if frames <= round(3 * fps) or fps == 1:
        assert found == [range(frames)]
    else:
        assert {len(clip) for clip in found} == {round(2 * fps)}
        assert all(a.stop == b.start for a, b in zip(found[:-1], found[1:-1])) and found[-1].start > found[-2].start


def test_the_cut_by_hand():
    assert clips.cut(24, 8) == [range(24)], "3 s are one clip"
    assert clips.cut(90, 89 / 2.967) == [range(90)], "and so they are where Matroska rounds their stamps to milliseconds"
    assert clips.cut(40, 8) == [range(0, 16), range(16, 32), range(24, 40)]
    assert clips.cut(32, 8) == [range(0, 16), range(16, 32)]


def test_frames_are_streamed_into_the_clips_that_were_cut():
    video = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    seen = [clip.views[SQUARE][:, 0, 0, 0].tolist() for clip in clips.look(video, 40, 8, (SQUARE,))]
    assert seen == [list(range(0, 16)), list(range(16, 32)), list(range(24, 40))]
    with pytest.raises(ValueError, match="breaks off: 30 of its 40 frames decode"):
        list(clips.look(video[:30], 40, 8, ()))
    with pytest.raises(ValueError, match="has 2 frames, and at least 3 are needed"):
        list(clips.look(video[:2], 2, 8, ()))


def test_flickering_is_the_mean_difference():
    video = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3)).astype(np.uint8)
    assert quality.temporal_flickering(video) == pytest.approx(1 - np.abs(np.diff(video.astype(float), axis=0)).mean() / 255)
    assert quality.temporal_flickering(np.repeat(video[:1], 3, 0)) == 1


@pytest.mark.parametrize("colour", [(230, 220, 60), (220, 40, 42)], ids=["brighter", "as bright as what is behind"])
def test_dynamic_degree_turns_at_the_threshold(colour):
    threshold = 6 * 64 / 256
    for times, moves in ((0, False), (0.7, False), (1.3, True), (2.5, True)):
        assert quality.dynamic_degree(sliding(times * threshold, colour=colour), 8) == moves, times
    # at 24 frames a second every third is taken, so that a third of the speed is enough
    assert quality.dynamic_degree(sliding(0.5 * threshold, 24, colour=colour), 24)
    assert not quality.dynamic_degree(sliding(0.5 * threshold, 24, colour=colour), 8)


def test_dynamic_degree_needs_a_quarter_of_the_frames():
    still, moving = sliding(0), sliding(4, 5)
    for pairs, moves in ((3, False), (4, True)):
        assert quality.dynamic_degree(np.concatenate([still[: 15 - pairs], moving[: pairs + 1]]), 8) == moves


def test_noise_on_a_still_picture_is_no_motion():
    texture = cv2.resize(np.random.default_rng(1).integers(0, 256, (8, 6, 3)).astype(np.uint8), (48, 64))
    still = np.concatenate([np.full((64, 48, 3), 120), texture], 1)
    noisy = np.clip(still + np.random.default_rng(0).normal(0, 3, (8, 64, 96, 3)), 0, 255).astype(np.uint8)
    assert not quality.dynamic_degree(noisy, 8)


def test_smoothness_sees_a_frame_out_of_place_and_not_even_motion():
    even = sliding(2.0, 9)
    blend = 1 - np.abs(even[:-2:2] / 2 + even[2::2] / 2 - even[1:-1:2]).mean() / 255
    smooth = quality.motion_smoothness(even)
    assert smooth > 0.998 and 1 - smooth < 0.3 * (1 - blend), "the flow does better than a mean of the neighbours"
    jerky = even.copy()
    jerky[3] = even[0]
    assert quality.motion_smoothness(jerky) < smooth - 0.003
    assert quality.motion_smoothness(even[:1].repeat(3, 0)) == 1
    with pytest.raises(ValueError, match="a video of 2 frames cannot be judged: at least 3"):
        quality.motion_smoothness(even[:2])


@pytest.mark.parametrize("shape", [(90, 160), (300, 230)])
@pytest.mark.parametrize("view", [WHOLE, CENTRE, INNER], ids=["whole", "centre", "inner"])
def test_views_are_torchs_resizing_without_antialiasing(view, shape):
    frame = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8), (0, 0), 2)
    side, (H, W) = view.resize, shape
    size = (side, int(side * W / H)) if H <= W else (int(side * H / W), side)
    mode = view.kernel.name.lower()
    tensor = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    torch_frame = torch.nn.functional.interpolate(tensor, size, mode=mode)[0].permute(1, 2, 0).numpy()
    if view.crop:
        top, left = (round((n - view.crop) / 2) for n in size)
        torch_frame = torch_frame[top : top + view.crop, left : left + view.crop]
    ours = view(frame[None])[0]
    assert ours.shape == torch_frame.shape and np.abs(ours - torch_frame.clip(0, 255)).max() <= 1


def test_pixel_embeddings_follow_what_changes():
    on = pixels(mesh.build())
    rng = np.random.default_rng(0)
    scene, other = (cv2.resize(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC) for _ in range(2))
    near = np.roll(scene, 2, 1)
    noisy = np.clip(scene + rng.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
    flat = np.full((2, 64, 64, 3), 100, np.uint8)
    flat[1, 0, 0] = 101
    e = on(np.stack([scene, noisy, near, other, *flat]))
    np.testing.assert_allclose(np.linalg.norm(e, axis=-1), 1, rtol=1e-5)
    same = e[0] @ e.T
    assert 1 > same[1] > 0.99 > same[2] > 0.9 > 0.7 > same[3]
    assert e[4] @ e[5] > 0.9999, "a flat picture has no direction that noise could turn"


def test_batches_change_nothing():
    on = pixels(mesh.build())
    frames = np.random.default_rng(0).integers(0, 256, (70, 64, 64, 3)).astype(np.uint8)
    np.testing.assert_allclose(on(frames), np.concatenate([on(frames[:9]), on(frames[9:])]), atol=1e-6)
    assert [batch_of(n, 8) for n in (1, 8, 9, 70)] == [8, 8, 16, 32] and batch_of(70, 5) == 35, "few sizes, each a multiple of the devices"


def test_a_video_in_memory_has_all_figures():
    judges = Judges.load()
    moving = np.concatenate([sliding(1.5, 20), sliding(1.5, 20)[::-1]])
    figures = measure(moving, 8, judges, image=cv2.resize(moving[0], (200, 300)))
    assert list(figures) == [
        D.I2V_SUBJECT, D.SUBJECT_CONSISTENCY, D.TEMPORAL_FLICKERING, D.MOTION_SMOOTHNESS, D.DYNAMIC_DEGREE, D.SUBJECT_SLOW, D.SUBJECT_FAST, D.CLARITY,
    ]  # fmt: skip
    assert figures[D.SUBJECT_CONSISTENCY] == pytest.approx((figures[D.SUBJECT_SLOW] + figures[D.SUBJECT_FAST]) / 2)
    e = judges.subject(SQUARE(moving))
    slow = [consistency.consistency(e[clip.start : clip.stop]) for clip in clips.cut(40, 8)]
    assert figures[D.SUBJECT_SLOW] == pytest.approx(np.mean(slow), abs=1e-5)
    assert figures[D.SUBJECT_FAST] == pytest.approx(consistency.consistency(e[[0, 16, 24]]), abs=1e-5)
    assert D.SUBJECT_SLOW not in measure(moving[:20], 8, judges)


def test_an_image_is_cut_to_the_shape_of_its_video():
    image = np.zeros((100, 100, 3), np.uint8)
    assert covering(image, (90, 160)).shape == (56, 100, 3) and covering(image, (160, 90)).shape == (100, 56, 3)
    assert covering(image, (32, 32)).shape == image.shape


def test_workers_do_without_jax(tmp_path):
    file = make(tmp_path / "a.mp4", 6)
    with DecodePool(1) as pool:
        pool.run(clips.read, str(file), (WHOLE,), report=lambda clip: None)
        assert pool.run(imported, "") == []
