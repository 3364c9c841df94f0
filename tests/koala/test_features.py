"""What the learned detector sees: known pictures give known values, and a part of a video the same as the whole."""
import av
import cv2
import numpy as np
import pytest

from koala_jax.transitions import features as f
from koala_jax.transitions.thumbnail import from_planes, thumbnail
from tests.koala import slow_features


def column(x, name):
    return x[:, f.NAMES.index(name)]


def scene(seed: int, size=(180, 320)) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def thumbs(frames) -> np.ndarray:
    return np.stack([from_planes(av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="yuv420p")) for frame in frames])


@pytest.fixture(scope="module")
def two_shots() -> np.ndarray:
    return thumbs([scene(1)] * 40 + [scene(2)] * 40)


def test_a_still_shot_is_like_itself_and_a_cut_is_not(two_shots):
    x = f.features(two_shots)
    assert x.shape == (79, len(f.NAMES))
    colour, structure, stray = (column(x, name) for name in ("colour @1", "structure @1", "stray 4 mean @1"))
    still = np.arange(79) != 39
    assert (colour[still] > 0.999).all() and (structure[still] > 0.999).all() and (stray[still] == 0).all()
    assert colour[39] < 0.99 and structure[39] < 0.6 and stray[39] > 2
    far = np.flatnonzero(column(x, "structure @7") < 0.9)  # frames t-3 and t+4 lie in two shots
    assert far.tolist() == list(range(36, 43))


def test_a_flash_comes_back(two_shots):
    flashed = two_shots[:40].copy()
    flashed[20, :64] = 250
    x = f.features(flashed)
    assert column(x, "structure @1")[[19, 20]].max() < 0.8
    assert column(x, "structure @7")[20] > 0.99


def test_a_jump_bursts_where_motion_does_not():
    """A square that goes on at 24 pixels a frame, and once leaps."""
    places = [10 + 24 * i for i in range(5)] + [200 + 24 * i for i in range(5)]
    frames = [scene(1).copy() for _ in places]
    for frame, x in zip(frames, places):
        frame[60:120, x : x + 60] = 250, 20, 20
    burst = column(f.features(thumbs(frames)), "burst 4 mean")
    assert burst.argmax() == 4 and burst[4] > 5 * np.delete(burst, 4).max()


def test_a_change_of_light_strays_from_the_closest_pixels_only():
    dim = scene(1) // 2
    frames = [dim] * 5 + [(1.5 * dim + 40).astype(np.uint8)] * 5
    x = f.features(thumbs(frames))
    assert column(x, "stray 1 mean @1")[4] > 2 and column(x, "stray 4 mean @1")[4] < 0.3


def test_a_moved_picture_is_found_again():
    wide = scene(3, (180, 400))
    x = f.features(thumbs([wide[:, 8 * i : 8 * i + 320] for i in range(8)]))
    shift = column(x, "aligned shift @1")
    np.testing.assert_allclose(shift, 8 / 320, atol=1 / 32)
    assert column(x, "aligned peak @1").min() > 1.5 * f.features(thumbs([scene(1), scene(2)]))[0, f.NAMES.index("aligned peak @1")]
    assert column(x, "stray 4 mean @1").max() < 0.3 < column(x, "stray 1 mean @1").min()


def test_a_camera_that_leaps_stands_out_from_one_that_moves():
    wide = scene(3, (180, 400))
    places = [0, 3, 6, 9, 12, 21, 24, 27, 30, 33]
    x = f.features(thumbs([wide[:, i : i + 320] for i in places]))
    for name in ("leap mean", "leap median"):
        assert column(x, name).argmax() == 4 and column(x, name)[4] > 0.5 > 0.2 > column(x, name)[[2, 3, 5, 6]].max()


@pytest.mark.parametrize("back", [False, True])
def test_a_zoomed_picture_is_found_again(back):
    picture = scene(1)
    closer = cv2.resize(picture[27:153, 48:272], (320, 180), interpolation=cv2.INTER_CUBIC)  # by 1.43
    frames = [closer] * 10 + [picture] * 10 if back else [picture] * 10 + [closer] * 10
    gain, none = (column(f.features(thumbs(frames)), f"zoom {part} @7") for part in ("gain", "none"))
    assert gain[9] > 0.3 and none[9] + gain[9] > 0.8 and gain[[2, 16]].max() == 0
    cut = f.features(thumbs([picture] * 10 + [scene(2)] * 10))[9]
    assert cut[f.NAMES.index("zoom none @7")] + cut[f.NAMES.index("zoom gain @7")] < 0.6


def test_a_caption_fills_a_rectangle_and_stays():
    """Where small things leap, they go on after it, and leave as much behind as they cover."""
    frames = [scene(1).copy() for _ in range(20)]
    for frame in frames[10:]:
        frame[126:162] = 20, 20, 140
    for i, frame in enumerate(frames):
        frame[20 + 2 * i : 34 + 2 * i, 40:60] = 250
    caption = f.features(thumbs(frames))[9]
    crowd = [scene(1).copy() for _ in range(20)]
    for j in range(8):
        for i, frame in enumerate(crowd):
            x = 12 + 36 * j + 3 * (i if i < 10 else i - 14)
            frame[10 + 18 * j : 28 + 18 * j, max(x, 0) : x + 12] = 250, 250, 20
    crowd = f.features(thumbs(crowd))[9]
    light = f.features(thumbs([scene(1) // 2] * 10 + [scene(1) // 2 + 60] * 10))[9]
    value = lambda row, part: row[f.NAMES.index(f"changed {part}")]  # noqa: E731
    assert value(caption, "columns 12") == 1 and value(caption, "rows 12") < 0.4 and 0.7 < value(caption, "filled 12") < 1.1
    assert value(caption, "after 3") < 0.1 < 0.3 < value(crowd, "after 3")
    assert value(crowd, "one way") < 0.2 < 0.8 < value(light, "one way")


def test_a_dissolve_is_a_blend():
    a, b = scene(1).astype(float), scene(2).astype(float)
    x = f.features(thumbs([(a + w * (b - a)).astype(np.uint8) for w in np.linspace(0, 1, 33)]))
    assert column(x, "blend explained @16")[8:24].min() > 0.9
    np.testing.assert_allclose(column(x, "blend weight @16")[10:22], 0.5, atol=0.1)
    assert column(x, "blend spread @16")[10:22].max() < 0.15


def test_a_part_is_as_in_the_whole(two_shots):
    whole = f.features(two_shots)
    np.testing.assert_allclose(f.features(two_shots, 30, 50), whole[30:50], atol=1e-5)
    assert f.features(two_shots[:2]).shape == (1, len(f.NAMES))


@pytest.mark.parametrize("form", ["yuv420p", "yuv444p", "yuv420p10le", "nv12", "gray", "rgb24"])
def test_every_pixel_format_gives_about_the_same(form):
    frame = av.VideoFrame.from_ndarray(scene(1, (720, 1280)), "rgb24")
    want = from_planes(frame.reformat(format="yuv420p"))
    got = from_planes(frame.reformat(format=form))
    assert np.abs(got[:64].astype(int) - want[:64]).mean() < 12


def test_a_thumbnail_of_some_rows_lies_where_the_whole_picture_does():
    down, right = (np.linspace(0, 255, n).round().astype(np.uint8) for n in (720, 1280))
    for plane in (np.repeat(down[:, None], 1280, 1), np.repeat(right[None], 720, 0)):
        got = thumbnail(plane, plane[::2, ::2].copy(), plane[::2, ::2].copy())[:64].astype(float)
        want = cv2.resize(plane, (64, 64), interpolation=cv2.INTER_AREA)
        assert np.abs(got - want).max() <= 1 and abs((got - want).mean()) < 0.35


def test_many_pairs_at_once_are_as_one_pair_written_plainly(two_shots):
    flashed = two_shots.copy()
    flashed[60, :64] = 250
    flashed[64:, :64] = cv2.resize(flashed[64, 5:58, 5:58], (64, 64))
    frames = np.random.default_rng(4).integers(-9, 10, (80, 96, 64)) + flashed * np.linspace(1, 0.2, 80)[:, None, None]
    frames = np.clip(frames, 0, 255).astype(np.uint8)
    x = f.features(frames)
    for t in (0, 1, 20, 38, 39, 40, 59, 60, 64, 77, 78):
        np.testing.assert_allclose(x[t], slow_features.features(frames, t), atol=1e-3, err_msg=f"pair {t}")
