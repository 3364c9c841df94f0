"""What the tests of the decoder and of its workers share."""
import pytest

from core_jax.video_worker import DecodePool
from tests.core.video_files import make


@pytest.fixture(scope="module")
def pool():
    with DecodePool(2, seconds=20, bytes=2**29, pixels=2**20) as pool:
        yield pool


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make(tmp_path_factory.mktemp("video") / "clip.mp4")
