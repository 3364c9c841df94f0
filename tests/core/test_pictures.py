"""Pictures from files: upright, at a size, in a worker, and what is none."""
import io

import numpy as np
import pytest
from PIL import Image

from core_jax.pictures import read_covering, read_image, size_of
from core_jax.video_error import VideoError
from core_jax.video_worker import DecodePool


@pytest.fixture
def turned(tmp_path):
    """Its left half is white; to be shown a quarter turn to the right."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    return tmp_path / "turned.png", np.rot90(pixels, -1)


def test_an_image_stands_as_its_camera_was_held_and_none_is_one_sentence(turned, monkeypatch):
    path, upright = turned
    assert (read_image(path) == upright).all() and size_of(path) == (16, 8) == upright.shape[:2]
    assert (read_image(path.read_bytes()) == upright).all()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(VideoError, match="turned.png: cannot be read as an image: .*decompression bomb"):
        read_image(path)


def test_a_picture_covers_a_size_by_its_middle(turned):
    assert read_covering(turned[0], (4, 4)).shape == (4, 4, 3)
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    held = io.BytesIO()
    Image.fromarray(wide).save(held, "png")
    assert (read_covering(held.getvalue(), (8, 8)) == 255).all(), "the sides are cut off"


@pytest.mark.parametrize("kind", ["jpeg", "webp", "png"])
def test_a_worker_reads_pictures_and_a_torn_one_is_said(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)).save(path)
    with DecodePool(1) as pool:
        assert pool.run(size_of, str(path)) == (64, 96) and pool.run(read_covering, str(path), (32, 32)).shape == (32, 32, 3)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(VideoError, match=f"a.{kind}: cannot be read as an image: "):
            pool.run(read_covering, str(path), (32, 32))
        with pytest.raises(VideoError, match="gone.png: cannot be read: No such file"):
            pool.run(size_of, str(tmp_path / "gone.png"))


def test_a_picture_in_a_store(bucket, turned):
    (bucket / "a.png").write_bytes(turned[0].read_bytes())
    assert size_of(str(bucket / "a.png")) == (16, 8)
