"""The storyboard stays small, whatever the size of the clips."""
import base64
import io
import re

import numpy as np
import pytest
from etils import epath
from PIL import Image, ImageDraw

from owl_jax import storyboard


@pytest.mark.parametrize("size, strip", [((16, 16), (64, 192)), ((480, 832), (80, 416))])
def test_a_page_has_small_pictures_of_all_clips(tmp_path, size, strip):
    clip = np.random.default_rng(0).integers(0, 256, (5, *size, 3)).astype(np.uint8)
    scenes = [(clip, "a <text>", False), (clip, "another", True)]
    png, page = storyboard.write(epath.Path(tmp_path) / "film", scenes, 2, 2.0)
    text = page.read_text()
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall("base64,([^\"]*)", text)]
    assert [picture.size[::-1] for picture in pictures] == [strip] * 2 and Image.open(png).height < 2 * strip[0]
    assert "0 s  a &lt;text&gt;" in text and "2 s  (new scene) another" in text and "<h1>film: 2 clips, 4 s</h1>" in text
    assert Image.open(png).width == 2 * (strip[1] + 6), "no columns that nothing stands in"


def test_a_text_has_the_lines_that_it_needs(tmp_path, monkeypatch):
    drawn, draw = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, at, text, **how: (drawn.append((at, text)), draw(self, at, text, **how)))
    clip, long = np.zeros((5, 16, 16, 3), np.uint8), " ".join(f"word{i}" for i in range(12))
    png, _ = storyboard.write(epath.Path(tmp_path) / "film", [(clip, long, False), (clip, "short", False)], 2, 2.0)
    assert " ".join(text for (x, _), text in drawn if not x).split()[2:] == long.split()
    assert drawn[-1][0][1] == drawn[-2][0][1], "the last line of each stands on its picture"
    shown = np.asarray(Image.open(png).convert("L"))
    assert shown[-70:-6, :192].max() == 0, "the picture is below them"
    storyboard.write(epath.Path(tmp_path) / "film", [(clip, 99 * long, False)], 1, 2.0)
    assert drawn[-1][1].endswith(" …")
