"""What a person looks at: the contact sheet of a video, and the index of all."""
import re

import numpy as np
import pytest
from etils import epath
from PIL import Image

from koala_jax import split
from koala_jax.shots import index, inputs, record, sheet
from tests.core.video_files import make
from tests.koala.shots import stream


def test_the_sheet_of_a_very_wide_video_shows_its_middle(tmp_path):
    """A JPEG has at most 65,500 columns."""
    jump = {"start_frame": 5, "end_frame": 5, "start_s": 0.2, "end_s": 0.2, "type": "cut", "score": 1.0}
    strip = [(k, k / 25) for k in range(1, 10)]
    one = record.Record("a.mp4", 1, 1, 2, 2000, 10, 0.4, [jump], [strip], [], [0.0, 1.0], None)
    sheet.write(epath.Path(tmp_path / "a.html"), one, lambda seconds, size: np.zeros((len(seconds), *size, 3), np.uint8))
    assert (tmp_path / "a.html").read_text().count("<img ") == 1


@pytest.mark.parametrize("doubt", [4, 5])
def test_a_sheet_shows_no_more_transitions_than_a_browser_opens_and_always_the_doubtful_one(doubt, tmp_path, monkeypatch):
    """Which is the last transition, or was not taken for one."""
    monkeypatch.setattr(sheet, "SHOWN", 2, raising=False)
    at = [{"start_frame": k, "end_frame": k, "start_s": k / 25, "end_s": k / 25, "type": "cut", "score": 1.0} for k in range(6)]
    strips = [[(k, k / 25)] for k in range(max(5, doubt + 1))]
    one = record.Record("a.mp4", 1, 1, 90, 160, 10, 0.4, at[:5], strips, [], [0.0, 1.0], None, at[doubt] | {"margin": 0.1})
    asked = []
    sheet.write(epath.Path(tmp_path / "a.html"), one, lambda seconds, size: asked.append(round(seconds[0] * 25)) or np.zeros((len(seconds), *size, 3), np.uint8))
    page = (tmp_path / "a.html").read_text()
    assert asked == [0, 1, doubt] and page.count("<img ") == 3 and "transitions: 5 (the first 2 are shown)" in page
    assert (tmp_path / "a.jpg").exists() and ("Not taken for a transition" in page) == (doubt == 5)


@pytest.mark.parametrize("frames, width, rows", [(14, 160, 2), (9, 160, 1), (9, 400, 3), (2, 16, 1)])
def test_a_strip_is_no_wider_than_its_numbers_can_be_read(frames, width, rows):
    """A page is 1,368 pixels wide, and shows a wider picture smaller, with the numbers in it."""
    pictures = np.stack([np.full((90, width, 3), 10 * k, np.uint8) for k in range(1, frames + 1)])
    at = {"start_frame": 0, "end_frame": 0}
    image = sheet.strip(pictures, list(range(frames)), at, sheet.MIXED, sheet.ROW)
    assert image.width <= sheet.ROW and image.height == rows * 108
    seen = np.asarray(image)[:, :, 0]
    assert [k for k in range(1, frames + 1) if (seen == 10 * k).sum() >= 90 * width] == list(range(1, frames + 1))
    assert sheet.strip(pictures, list(range(frames)), at, sheet.MIXED).size == (frames * (width + 2), 108), "one row, for the index"


def test_the_sheet_of_wide_pixels_shows_the_whole_picture(tmp_path, monkeypatch):
    """Which read_clip gives at its true aspect, cut about the centre to the size that it is asked for."""
    path = make(tmp_path / "a.mp4", stream([("pan", 3, 20), ("pan", 5, 20)], (48, 64)), pixel=(3, 2))
    asked = []
    monkeypatch.setattr(sheet, "strip", lambda pictures, *rest: asked.append(pictures.shape[1:3]) or Image.new("RGB", (8, 8)))
    split.main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert set(asked) == {(90, 180)}
    (row,) = (tmp_path / "out" / "sources.csv").read_text().splitlines()[1:]
    assert "48,64" in row, "which counts stored pixels"


def test_the_index_begins_with_what_failed_and_what_is_least_sure(tmp_path, monkeypatch):
    at = {"start_frame": 9, "end_frame": 9, "start_s": 0.36, "end_s": 0.36, "type": "cut", "score": 0.7}
    made = [("sure.mp4", 0.9, None), ("<b>.mp4", 0.1, None), ("short.mp4", 0.95, "breaks after 1.0 s"), ("doubt.mp4", 0.02, None)]
    records = {
        name: record.Record(name, 1, 1, 90, 160, 50, 2.0, [at] * (name == "doubt.mp4"), [], [], [0.0], error, at | {"margin": margin}) for name, margin, error in made
    }
    rows = [{"source": name, "seconds": 2.0, "transitions": int(name == "doubt.mp4"), "clips": 1, "margin": margin, "error": error} for name, margin, error in made]
    rows.append({"source": "gone.mp4", "error": "cannot be read"})
    (tmp_path / "sheets").mkdir()
    (tmp_path / "sheets" / f"{inputs.Source('doubt.mp4', 1, 1).name}.jpg").touch()
    path = epath.Path(tmp_path / "index.html")
    index.write(path, rows, records)
    lines = path.read_text().split("<tr>")[2:]
    assert [re.search(r'data-v="([^"]*)"', line)[1] for line in lines] == ["short.mp4", "gone.mp4", "doubt.mp4", "&lt;b&gt;.mp4", "sure.mp4"]
    assert ["breaks after" in line for line in lines] == [True, False, False, False, False] and "cannot be read" in lines[1]
    assert ["<img" in line for line in lines] == [False, False, True, False, False]
    assert "not taken for a transition: cut, frame 9, 0.36 s" in lines[3] and "not taken" not in lines[2]
    index.write(path, [row | {"source": f"/films/a/{row['source']}"} for row in rows], {})
    assert "in /films/a</p>" in path.read_text() and ">sure.mp4<" in path.read_text() and 'data-v="/films/a/sure.mp4"' in path.read_text()
    index.write(path, [row | {"source": f"/{row['source']}/a.mp4"} for row in rows], {})
    assert ">/sure.mp4/a.mp4<" in path.read_text(), "of no folder in common the whole path is shown"
    monkeypatch.setattr("koala_jax.shots.index.SHOWN", 2)
    index.write(path, rows, records)
    assert path.read_text().count("<tr>") == 3 and "the first 2 are here" in path.read_text()
    assert "<h1>5 videos, 1 transition, 4 clips, 2 failed or broke off</h1>" in path.read_text()


@pytest.mark.parametrize("frames, numbers", [(1, []), (9, range(1, 9)), (720, range(100, 720, 100)), (3678, range(500, 3678, 500))])
def test_the_curve_has_the_numbers_of_frames_below_it(frames, numbers):
    one = record.Record("a.mp4", 1, 1, 90, 160, frames, frames / 25, [], [], [], [0.0], None)
    found = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([\d,]+)<', sheet.curve(one))
    assert [text for _, text in found] == [f"{k:,}" for k in numbers]
    assert [float(x) for x, _ in found] == pytest.approx([k / frames * sheet.CURVE_WIDTH for k in numbers], abs=0.1)


@pytest.mark.parametrize("frames", [7, 1200, 3677])
def test_a_peak_stands_in_the_curve_where_it_is_in_the_video(frames):
    for peak in range(0, frames, max(frames // 50, 1)):
        curve = record.thinned(np.where(np.arange(frames) == peak, 1.0, 0.25))
        assert len(curve) == min(frames, record.CURVE)
        assert max(curve) == 1.0 and abs((np.argmax(curve) + 0.5) / len(curve) - (peak + 0.5) / frames) < 1 / len(curve)
