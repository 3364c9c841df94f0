"""Sub-metrics on clips whose answer is known."""
import os
import pathlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from etils import epath

from core_jax import video
from core_jax.video_worker import DecodePool
from koala_jax.metrics import Metric
from koala_jax.metrics.frame import LONG_SIDE, small_size
from koala_jax.metrics.measure import Plan, measure, measure_pixels
from koala_jax.tsa.fragments import FragmentConfig
from tests.core.video_files import imported, make
from tests.koala.shots import stream

H, W, T = 96, 144, 20


def texture(height: int = 2 * H, width: int = 3 * W, seed: int = 0) -> np.ndarray:
    """Smooth random colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 30, 220, cv2.NORM_MINMAX)


BASE = texture()
STILL = np.repeat(BASE[None, :H, :W], T, 0)
PAN = np.stack([BASE[:H, 3 * t : 3 * t + W] for t in range(T)])


def columns(clip: np.ndarray, metric: Metric) -> dict:
    return measure_pixels(clip, Plan((metric,), None)).columns


@pytest.mark.parametrize("side", [95, 96])
def test_what_is_counted_is_what_the_definitions_say(side):
    """One frame, in floating point, as the files' docstrings have it; an odd and an even number of pixels, some as noisy as can be."""
    rgb = np.random.default_rng(side).integers(0, 256, (side, 95, 3)).astype(np.uint8)
    rgb[:60] = BASE[:60, :95]
    got = measure_pixels(rgb[None], Plan((Metric.NOISE, Metric.CLARITY, Metric.EXPOSURE, Metric.COLOUR), None)).columns
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    kernel = np.outer([1, -2, 1], [1, -2, 1]).astype(float)
    assert got["noise"] == pytest.approx(np.median(np.abs(cv2.filter2D(grey, cv2.CV_64F, kernel))) / (6 * 0.6745))
    edges, variance = np.abs(cv2.Laplacian(grey, cv2.CV_64F)), cv2.Laplacian(grey, cv2.CV_64F).var()
    half = cv2.pyrDown(grey.astype(float))
    fine, middle = (np.maximum(x - 2, 0).mean() for x in (edges, np.abs(cv2.Laplacian(half, cv2.CV_64F))))
    assert got["clarity"] == pytest.approx(variance / (variance + 100)) and got["smooth_area"] == pytest.approx((edges <= 1).mean())
    assert got["fine_detail"] == pytest.approx(fine / (fine + middle + 1))
    assert got["brightness"] == pytest.approx(grey.mean() / 255) and got["contrast"] == pytest.approx(grey.std() / 255)
    assert got["dark_area"] == pytest.approx((grey <= 16).mean()) and got["bright_area"] == pytest.approx((grey >= 239).mean())
    r, g, b = np.moveaxis(rgb[::2, ::2].astype(float), -1, 0)
    rg, yb = r - g, (r + g) / 2 - b
    assert got["colourfulness"] == pytest.approx(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def test_a_pan_is_the_cameras_and_a_moving_patch_the_subjects():
    pan = columns(PAN, Metric.MOTION)
    assert pan["motion"] == pytest.approx(3, abs=0.4) and pan["camera_motion"] == pytest.approx(3, abs=0.4)
    assert pan["moving_area"] < 0.15 and pan["shake"] < 0.2
    subject = STILL.copy()
    for t in range(T):
        subject[t, 30:66, 20 + 4 * t : 56 + 4 * t] = texture(36, 36, seed=1)
    moved = columns(subject, Metric.MOTION)
    assert 0.05 < moved["moving_area"] < 0.3 and moved["camera_motion"] < 0.1 and moved["subject_motion"] > 1.5
    assert columns(STILL, Metric.MOTION)["motion"] < 0.01


@pytest.mark.parametrize("rotate", [None, (90, False)])
def test_motion_is_that_of_the_picture_as_it_is_shown(rotate, tmp_path):
    """Pixels twice as wide as high: stored columns are half of those shown, and rows of a file that is turned."""
    squeezed = [np.ascontiguousarray(frame) for frame in PAN[:, :, ::2]]
    wide = measure(make(tmp_path / "wide.mp4", squeezed, pixel=(2, 1), rotate=rotate), Plan((Metric.MOTION,), None)).columns
    assert wide["motion"] == pytest.approx(3, abs=0.5) and wide["camera_motion"] == pytest.approx(3, abs=0.5)
    assert sorted((wide["height"], wide["width"])) == sorted((H, W // 2)), "which count stored pixels"
    for pixel in ((1, 200), (200, 1)):
        assert measure(make(tmp_path / "line.mp4", 5, pixel=pixel, rotate=rotate), Plan((Metric.MOTION,), None, pictures=1)).columns["frames"] == 5


def test_shake_is_what_a_steady_pan_has_not():
    shifts = np.random.default_rng(0).integers(0, 8, (T, 2))
    shaken = np.stack([BASE[y : y + H, x : x + W] for y, x in shifts])
    assert columns(shaken, Metric.MOTION)["shake"] > 2


def test_a_steady_motion_goes_on_and_one_of_held_frames_starts_and_stops():
    steady, held = (columns(clip, Metric.MOTION)["unsteadiness"] for clip in (PAN, PAN[np.arange(T) // 2 * 2]))
    assert steady < 0.2 < 0.9 < held <= 1


def test_what_no_motion_explains_is_left_after_the_warp():
    grain = np.random.default_rng(0).integers(-9, 10, PAN.shape)
    shown, noisy = (columns(clip, Metric.MOTION)["warp_error"] for clip in (PAN, np.uint8(PAN + grain)))
    assert shown < columns(PAN, Metric.STILL)["change"] / 20 and noisy > shown + 2


def test_blockiness_sees_a_grid_wherever_it_begins_and_none_in_a_texture():
    blocks = cv2.resize(texture(H // 8, W // 8), (W, H), interpolation=cv2.INTER_NEAREST)
    faint = (0.7 * BASE[:H, :W] + 0.3 * blocks).astype(np.uint8)
    none, some, moved, full = (
        columns(image[None], Metric.BLOCKINESS)["blockiness"] for image in (BASE[:H, :W], faint, faint[3:, 5:], blocks)
    )
    assert none + 0.05 < some < full <= 1 and moved == pytest.approx(some, abs=0.05)


def test_clarity_and_detail_fall_and_smooth_area_grows_with_every_blur():
    blurred = [np.stack([cv2.GaussianBlur(image, (0, 0), s) for image in STILL[:4]]) for s in (0.5, 1, 2, 4)]
    found = {name: [columns(clip, Metric.CLARITY)[name] for clip in (STILL, *blurred)] for name in Metric.CLARITY.columns}
    for name, values in found.items():
        assert values == sorted(values, reverse=name != "smooth_area") and 0 <= min(values) < max(values) <= 1, name


def test_detail_tells_blur_in_a_picture_of_few_edges_and_in_one_that_was_scaled_up():
    few = np.full((1, H, W, 3), 60, np.uint8)
    few[:, H // 3 : H // 2, W // 3 : W // 2] = 200
    large = cv2.resize(STILL[0], (3 * W, 3 * H), interpolation=cv2.INTER_CUBIC)[None]
    for clip, name in ((few, "fine_detail"), (few, "middle_detail"), (large, "middle_detail")):
        blurred = [columns(np.stack([cv2.GaussianBlur(x, (0, 0), s) for x in clip]), Metric.CLARITY)[name] for s in (0.8, 1.4, 2.2, 3.5)]
        assert blurred == sorted(blurred, reverse=True) and blurred[0] < columns(clip, Metric.CLARITY)[name]
    assert columns(large, Metric.CLARITY)["fine_detail"] < columns(STILL, Metric.CLARITY)["fine_detail"] / 1.5


def test_exposure_and_colour_by_hand():
    half = np.zeros((3, H, W, 3), np.uint8)
    half[:, :, W // 2 :] = 255
    got = columns(half, Metric.EXPOSURE)
    assert got == pytest.approx({"brightness": 0.5, "contrast": 0.5, "dark_area": 0.5, "bright_area": 0.5})
    assert columns(half, Metric.COLOUR) == {"saturation": pytest.approx(0.5 * 0), "colourfulness": 0}
    red_blue = np.zeros((3, H, W, 3), np.uint8)
    red_blue[..., : W // 2, 0], red_blue[..., W // 2 :, 2] = 200, 200
    # rg is 200 and 0, yb is 100 and −200: σ 100 and 150, μ 100 and −50
    assert columns(red_blue, Metric.COLOUR) == pytest.approx({"saturation": 1, "colourfulness": np.hypot(100, 150) + 0.3 * np.hypot(100, 50)})


def test_frames_that_show_nothing_new():
    assert columns(STILL, Metric.STILL) == dict(zip(Metric.STILL.columns, (1, 1, 1, 1, 1, 1, 0, 0)))
    pan = columns(PAN, Metric.STILL)
    assert [pan[name] for name in ("duplicate_frames", "still_frames", "longest_still")] == [0, 0, 0] and pan["repeated_area"] < 0.2
    assert pan["jump"] == pytest.approx(pan["change"], rel=0.01)
    flat = np.repeat(np.uint8([0, 0, 9, 9, 18, 18, 27])[:, None, None, None], 3, -1) * np.ones((1, H, W, 1), np.uint8)  # by 9 every other frame
    assert [columns(flat, Metric.STILL)[name] for name in ("change", "jump")] == [4.5, 9]
    held = columns(PAN[np.arange(T) // 2 * 2], Metric.STILL)
    assert held["duplicate_frames"] == pytest.approx(10 / 19) and held["longest_still"] == pytest.approx(1 / 19)
    brighter = STILL + np.arange(0, 4 * T, 4, dtype=np.uint8)[:, None, None, None] // 2
    brighter[:, : H // 4] = STILL[:, : H // 4]
    assert columns(brighter, Metric.STILL)["repeated_area"] == 0.25 and columns(brighter, Metric.STILL)["change"] == pytest.approx(1.5)


def test_a_calm_clip_holds_no_frame_and_a_frozen_one_does_however_calm():
    calm = STILL + (np.random.default_rng(0).random(STILL.shape) < 0.2)  # a level here and there, as grain does
    frozen, dropped = calm[np.r_[:5, [5] * 10, 15:T]], calm[np.arange(T) // 3 * 3]
    found = [columns(clip, Metric.STILL) for clip in (calm, frozen, dropped)]
    assert [one["still_frames"] for one in found] == [1, 1, 1], "which tells nothing"
    assert [round((T - 1) * one["held_frames"]) for one in found] == [0, 9, 13]
    assert [round((T - 1) * one["longest_held"]) for one in found] == [0, 9, 2]


def test_flicker_is_not_a_fade():
    fade = np.clip(STILL * np.linspace(0.5, 1, T)[:, None, None, None], 0, 255).astype(np.uint8)
    flash = np.clip(STILL * np.where(np.arange(T) % 2, 1.0, 0.9)[:, None, None, None], 0, 255).astype(np.uint8)
    assert columns(fade, Metric.FLICKER)["flicker"] < 0.3 < 5 < columns(flash, Metric.FLICKER)["flicker"]


@pytest.mark.parametrize("bars, share", [((12, 0), 0.25), ((0, 18), 0.25), ((12, 18), 1 - 0.75**2), ((0, 0), 0)])
def test_letterbox_is_the_area_of_the_bars(bars, share):
    clip = PAN.copy()
    y, x = bars
    for side in (slice(0, y), slice(H - y, H)):
        clip[:, side] = 2
    for side in (slice(0, x), slice(W - x, W)):
        clip[:, :, side] = 2
    assert columns(clip, Metric.LETTERBOX)["letterbox"] == pytest.approx(share, abs=0.01)
    assert columns(np.zeros_like(clip), Metric.LETTERBOX)["letterbox"] == 0


def test_an_overlay_is_what_stays_while_the_rest_moves():
    logo = PAN.copy()
    for image in logo:
        cv2.putText(image, "LOGO", (80, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
    assert columns(logo, Metric.OVERLAY)["overlay"] > 0.004 > columns(PAN, Metric.OVERLAY)["overlay"]
    assert columns(STILL, Metric.OVERLAY)["overlay"] == 0


def test_lettering_is_seen_through_and_over_a_still_picture_and_not_what_moves():
    def written(clip, opacity, at=(20, 60)):
        over = clip.copy()
        for image in over:
            cv2.putText(image, "WORDS", at, cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
        return np.stack([cv2.addWeighted(b, opacity, a, 1 - opacity, 0) for a, b in zip(clip, over)])

    for clip in (PAN, STILL):
        none, faint, full = (columns(written(clip, opacity), Metric.LETTERING)["lettering"] for opacity in (0, 0.6, 1))
        assert none + 0.001 < faint < full
        none, faint = (columns(written(clip, opacity), Metric.LETTERING)["faint_lettering"] for opacity in (0, 0.25))
        assert none + 0.001 < faint
    moving = np.stack([written(PAN[t : t + 1], 1, (5 + 4 * t, 60))[0] for t in range(T)])
    assert columns(moving, Metric.LETTERING)["lettering"] < columns(PAN, Metric.LETTERING)["lettering"] + 0.001 < 0.003


@pytest.mark.parametrize("sigma", [3, 10])
def test_noise_is_its_standard_deviation_on_flat_ground_and_on_a_slope_with_edges(sigma):
    slope = np.broadcast_to(np.linspace(60, 180, W)[None, None, :, None], (4, H, W, 3)).copy()
    slope[:, 20:60, 40:90] += 50
    grain = sigma * np.random.default_rng(0).standard_normal((4, H, W, 1))
    for ground in (slope, np.full_like(slope, 128)):
        assert columns((ground + grain).round().astype(np.uint8), Metric.NOISE)["noise"] == pytest.approx(sigma, rel=0.1)
    assert columns(slope.astype(np.uint8), Metric.NOISE)["noise"] < 0.3


@pytest.mark.parametrize("size", [(90, 160), (89, 159)])
def test_a_transition_that_was_left_in_is_seen_and_in_one_shot_there_is_none(size):
    before, mixed, after = ("pan", 1, 30), ("dissolve", 1, 12), ("pan", 2, 30)
    for parts, (least, most) in (([before], (0, 0.1)), ([("still", 1, 30)], (0, 0.1)), ([before, after], (0.95, 1)), ([before, mixed, after], (0.95, 1))):
        assert least <= columns(np.stack(stream(parts, size)), Metric.TRANSITION)["transition"] <= most, parts


def test_one_frame_is_unknown_where_two_are_needed():
    got = measure_pixels(STILL[:1], Plan(tuple(Metric), None)).columns
    assert got["motion"] is None and got["flicker"] is None and got["transition"] is None and got["clarity"] > 0
    tiny = measure_pixels(np.zeros((5, 1, 1, 3), np.uint8), Plan(tuple(Metric), FragmentConfig()))
    assert "5 frames" in tiny.unscored and tiny.columns["brightness"] == 0


def test_small_frames_keep_their_shape():
    assert small_size(720, 1280) == (144, LONG_SIDE) and small_size(1280, 720) == (LONG_SIDE, 144)
    assert small_size(48, 64) == (48, 64) and small_size(1, 9999) == (1, LONG_SIDE)


def test_a_file_measures_like_its_pixels_in_a_worker_without_jax(tmp_path, monkeypatch):
    path = make(tmp_path / "clip.mp4", list(PAN), crf=4)
    plan = Plan(tuple(Metric), FragmentConfig(4, 2, 2, 2, 16))
    with DecodePool(1) as pool:
        got = pool.run(measure, str(path), plan)
        assert pool.run(imported, str(path)) == []
        (tmp_path / "half.mp4").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 0 < pool.run(measure, str(tmp_path / "half.mp4"), plan).columns["frames"] < T, "what is there of a truncated file"
    with monkeypatch.context() as store:
        store.setattr(epath, "Path", lambda path: pathlib.Path(path.removeprefix("gs://")))
        assert measure(f"gs://{path}", plan).columns == got.columns
    want = measure_pixels(PAN, plan)
    assert got.columns["frames"] == T and got.columns["bits_per_pixel"] == 8 * path.stat().st_size / (T * H * W)
    assert got.columns["motion"] == pytest.approx(want.columns["motion"], rel=0.1)
    assert np.abs(got.clips.astype(int) - want.clips).mean() < 6


def test_a_video_that_changes_its_size_midway_is_seen_at_its_first(tmp_path):
    parts = [make(tmp_path / f"{h}.ts", 10, size=(h, 2 * h)).read_bytes() for h in (96, 48)]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    got = measure(tmp_path / "both.ts", Plan(tuple(Metric), FragmentConfig(4, 2, 2, 2, 16), pictures=2))
    assert got.columns["height"] == 96 and got.columns["frames"] in (19, 20) and got.clips[0, -1].any((1, 2, 3)).all()


def test_a_video_with_fewer_frames_than_it_says_is_refused(tmp_path, monkeypatch):
    path = make(tmp_path / "clip.mp4", 8)
    decode = video.decode
    monkeypatch.setattr(video, "decode", lambda source: list(decode(source))[:5])
    with pytest.raises(video.VideoError, match="breaks off: 5 of its 8 frames decode"):
        measure(str(path), Plan((Metric.EXPOSURE,), None))


def test_real_clips_are_what_people_wrote_of_them():
    folder = os.environ.get("VIDEOGEN_TEST_DATA")
    if not folder:
        pytest.skip("VIDEOGEN_TEST_DATA names no folder of real videos")
    got = {name: measure(Path(folder) / "videos" / name, Plan(tuple(Metric), None)).columns for name in ("cars.mp4", "crystal.mp4", "chaplin.mp4")}
    assert got["cars.mp4"]["camera_motion"] < 0.05 < 0.5 < got["crystal.mp4"]["camera_motion"], "overhead road against a hand-held orbit"
    assert got["chaplin.mp4"]["saturation"] < 0.02 < got["crystal.mp4"]["saturation"], "black and white"
