"""The storyboard stays small, whatever the size of the clips."""
import base64
import io
import re

import numpy as np
import pytest
from etils import epath
from PIL import Image

from owl_jax import storyboard


@pytest.mark.parametrize("size, strip", [((16, 16), (64, 192)), ((480, 832), (80, 416))])
def test_a_page_has_small_pictures_of_all_clips(tmp_path, size, strip):
    clip = np.random.default_rng(0).integers(0, 256, (5, *size, 3)).astype(np.uint8)
    scenes = [(clip, "a <text>", False), (clip, "another", True)]
    png, page = storyboard.write(epath.Path(tmp_path) / "film", scenes, 2, 2.0)
    text = page.read_text()
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall("base64,([^\"]*)", text)]
    assert [picture.size[::-1] for picture in pictures] == [strip] * 2 and Image.open(png).height < 2 * strip[0]
    assert "0 s  a &lt;text&gt;" in text and "2 s  (new scene) another" in text
