"""Pictures: what is written can be read back and shows what it should."""
import numpy as np
import pytest
from etils import epath
from PIL import Image

from core_jax.video import frames
from videodit_jax.media import contact_sheet, read_image, tile, write_gif, write_samples

VIDEOS = np.stack([np.full((6, 16, 24, 3), value, np.uint8) for value in (30, 120, 220)])


def test_tile_places_each_video_once():
    tiled = tile(VIDEOS)
    assert tiled.shape[0] == 6 and tiled.shape[1] >= 2 * 16 and tiled.shape[2] >= 2 * 24
    scale = tiled.shape[1] // (2 * 18)
    for value in (30, 120, 220):
        assert (tiled[0, :, :, 0] == value).sum() == 16 * 24 * scale**2


def test_contact_sheet_has_a_row_a_video_and_a_column_a_frame():
    video = np.stack([np.full((16, 24, 3), 40 * i, np.uint8) for i in range(6)])[None]
    sheet = np.asarray(contact_sheet(video, ["brightening"]))
    for i in range(6):
        assert (sheet == 40 * i).all(-1).any()
    assert np.asarray(contact_sheet(VIDEOS, ["a", "b", "c"])).shape[0] == 3 * np.asarray(contact_sheet(VIDEOS[:1], ["a"])).shape[0]


def test_samples_can_be_read_back(tmp_path):
    paths = write_samples(epath.Path(tmp_path) / "clips.v1", VIDEOS, ["a", "b", "c"], fps=8)
    assert sorted(p.name for p in epath.Path(tmp_path).iterdir()) == ["clips.v1.gif", "clips.v1.mp4", "clips.v1.png"]
    assert sorted(p.name for p in paths) == ["clips.v1.gif", "clips.v1.mp4", "clips.v1.png"]
    tiled = tile(VIDEOS)
    with Image.open(tmp_path / "clips.v1.gif") as gif:
        assert gif.n_frames >= 1 and gif.size == (tiled.shape[2], tiled.shape[1])
    decoded = [frame for _, _, frame in frames(str(tmp_path / "clips.v1.mp4"))]
    assert len(decoded) == 6
    error = np.abs(decoded[0][: tiled.shape[1], : tiled.shape[2]].astype(int) - tiled[0]).mean()
    assert error < 12, error


def test_an_image_stands_as_its_camera_was_held_and_none_is_one_sentence(tmp_path, monkeypatch):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown a quarter turn to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    assert (read_image(tmp_path / "turned.png") == np.rot90(pixels, -1)).all()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ValueError, match="turned.png cannot be read as an image: .*decompression bomb"):
        read_image(tmp_path / "turned.png")


@pytest.mark.parametrize("fps, milliseconds", [(8, 120), (15, 70), (24, 40), (60, 20), (1000, 20)])
def test_a_gif_shows_a_frame_for_as_near_its_time_as_it_can(fps, milliseconds, tmp_path):
    write_gif(tmp_path / "x.gif", (np.full((8, 8, 3), 40 * i, np.uint8) for i in range(2)), fps)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.info["duration"] == milliseconds


def test_a_gif_of_frames_one_after_the_other(tmp_path):
    write_gif(tmp_path / "x.gif", (np.full((8, 8, 3), 40 * i, np.uint8) for i in range(5)), 8)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == 5 and gif.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
        gif.seek(4)
        assert gif.convert("RGB").getpixel((0, 0)) == (160, 160, 160)


def test_a_still_gif_keeps_its_frames_apart(tmp_path):
    moving = np.stack([np.full((1, 8, 8, 3), 40 * i, np.uint8) for i in range(5)], 1)
    write_samples(epath.Path(tmp_path) / "x", moving, ["x"], fps=8)
    with Image.open(tmp_path / "x.gif") as gif:
        assert gif.n_frames == 5
