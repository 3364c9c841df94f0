"""The page of a scored folder."""
import base64
import html.parser
import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from koala_jax.metrics import Metric
from koala_jax.score_report import UNITS, ReportConfig, histogram, main, page, section
from tests.core.video_files import make

VOID = {"img", "br", "meta", "rect", "line"}


class Tags(html.parser.HTMLParser):
    """Every tag that is opened is closed, and nothing runs or is fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.pictures, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe")
        assert not any(name.startswith("on") or (value or "").startswith("http") for name, value in attrs)
        self.pictures += [value.split()[1] for name, value in attrs if name == "class" and value.startswith("picture ")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def scored(tmp_path):
    """Six clips, one of which has gone since, under a name that would break a page."""
    files = [f"<b>{i}.mp4" for i in range(6)]
    for name in files[:5]:
        make(tmp_path / name, 6, size=(36, 64))
    columns = {"vtss": [1.0, 1.2, 3.0, 4.0, 4.2, None], "motion": [0.1, 5.0, 2.0, 0.1, 3.0, 1.0], "letterbox": [0.25, 0.25000000000000006] * 3, "aesthetic": pa.nulls(6, pa.float64())}
    table = pa.table({"file": files, **columns, "seconds": [6.0] * 6, "error": [None] * 5 + ["took too long & more"]})
    pyarrow.parquet.write_table(table, tmp_path / "scores.parquet")
    return tmp_path


def test_the_page_shows_scores_clips_rules_and_failures(scored):
    main([str(scored / "scores.parquet"), "--out", str(scored / "page.html"), "--keep", "vtss > 2.5", "motion > 1", "--workers", "1"])
    tags = Tags()
    tags.feed((scored / "page.html").read_text())
    assert tags.open == [] and len(tags.pictures) >= 10
    assert "6 clips, 0.6 minutes" in tags.text and "2 of 6 clips stay" in tags.text
    assert "part at 2.10" in tags.text and "0.25 for all 6 clips" in tags.text and "no clip has a value: koala_jax.score fills it" in tags.text
    assert "also by motion > 1" in tags.text and "by this rule alone" in tags.text
    assert "took too long & more" in tags.text and "<b>5.mp4" in tags.text
    text = (scored / "page.html").read_text()
    assert [text.count(f'<a href="#{name}">') == text.count(f'<h2 id="{name}">') == 1 for name in ("vtss", "motion", "letterbox", "aesthetic")] == [True] * 4
    held = dict(re.findall(r"\.(p\d)\{background-image:url\(data:image/webp;base64,([^)]+)\)\}", text))
    assert held.keys() == {*tags.pictures} and text.count("base64") == 5, "each clip's once"
    with Image.open(io.BytesIO(base64.b64decode(held["p0"]))) as picture:
        assert picture.n_frames > 3, "it moves"
    main([str(scored / "scores.parquet"), "--out", str(scored / "page.html"), "--columns", "motion", "--workers", "1"])
    assert re.findall('<h2 id="(.*?)">', (scored / "page.html").read_text()) == ["motion"]


def test_clips_named_by_numbers_and_by_nothing(tmp_path):
    (tmp_path / "scores.csv").write_text("file,letterbox,seconds,frames,error\n007,0,nan,9,\n12,1,6,9,7\n")
    main([str(tmp_path / "scores.csv"), "--out", str(tmp_path / "page.html"), "--workers", "1"])
    page = (tmp_path / "page.html").read_text()
    assert "007" in page and "2 clips, 0.1 minutes" in page and '<h2 id="letterbox">' in page and '<h2 id="frames">' not in page
    pyarrow.parquet.write_table(pa.table({"file": [None], "seconds": [6.0], "error": ["was lost"]}), tmp_path / "scores.parquet")
    main([str(tmp_path / "scores.parquet"), "--out", str(tmp_path / "page.html"), "--workers", "1"])
    assert "was lost" in (tmp_path / "page.html").read_text()


def test_of_what_a_rule_drops_is_shown_first_what_it_alone_drops_and_last_what_has_no_value():
    files = [f"{name}.mp4" for name in "abcdefghij"]
    table = pa.table({
        "file": files, "motion": [None] * 5 + [0.1, 0.2, 5.0, 0.3, 5.0], "clarity": [None] * 5 + [0.1, 0.9, 0.9, 0.9, 0.9],
        "seconds": [1.0] * 10, "error": ["lost"] * 5 + [None] * 5,
    })  # fmt: skip
    shown = page(table, ReportConfig("", keep=("motion > 1", "clarity > 0.5")), lambda file: f"[{file[0]}]").decode()
    dropped = shown.split("Dropped by motion")[1].split("<h2>")[0]
    assert re.findall(r"\[(.)\]", dropped) == ["g", "i", "f", "a", "b"]
    assert dropped.index("by this rule alone") < dropped.index("also by clarity &gt; 0.5") < dropped.index("no value")


def test_rules_are_held_to_their_last_digit_and_no_file_of_filter_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept.parquet").mkdir()  # where filter would write
    table = pa.table({"file": ["a.mp4", "b.mp4"], "frames": [1234568.0, 1234566.0], "seconds": [1.0, 1.0], "error": pa.nulls(2, pa.string())})
    shown = page(table, ReportConfig("", keep=("frames >= 1234567",)), lambda file: "").decode()
    assert "1 of 2 clips stay" in shown and "frames &gt;= 1234567<" in shown


def test_of_many_that_failed_the_first_are_on_the_page(monkeypatch):
    monkeypatch.setattr("koala_jax.score_report.FAILED", 3, raising=False)
    table = pa.table({"file": [f"{k}.mp4" for k in range(9)], "seconds": [1.0] * 9, "error": [None] + ["was lost"] * 8})
    shown = page(table, ReportConfig(""), lambda file: "").decode()
    assert shown.count("was lost") == 3 and "the first 3 of 8 clips" in shown


def test_every_score_says_its_unit_as_the_docs_do():
    rows = re.findall(r"^\| (`.*?) \| .* \| (.*?) \|$", (Path(__file__).parents[2] / "docs/score.md").read_text(), re.MULTILINE)
    told = {column: unit for columns, unit in rows for column in re.findall("`(.*?)`", columns)}
    assert {column for metric in Metric for column in metric.columns} <= UNITS.keys() and {"vtss", "quality", "aesthetic"} <= UNITS.keys()
    wrong = {column: told[column] for column, unit in UNITS.items() if told.get(column) and unit not in told[column]}
    assert not wrong and len(told) > 30
    shown = section("motion", pa.table({"motion": [1.0, 2.0]}), ["a", "b"], lambda file: "", [])
    assert "pixels a frame, at 256 pixels of the longer side" in shown


def test_bars_hold_every_value_and_lines_stand_where_they_belong():
    svg = histogram(np.array([0.0, 0, 1, 2]), {"half": 1.0, "outside": 9.0})
    assert svg.count("<rect") == 8 and 'x1="320.0"' in svg and "outside" not in svg
    assert "<title>0 to 0.25: 2 clips</title>" in svg and "highest bar: 2 clips" in svg


def test_the_names_of_lines_beside_each_other_are_not_on_each_other():
    svg = histogram(np.array([0.0, 0, 1, 2]), {"motion > 0.9": 0.9, "motion < 1": 1.0})
    heights = re.findall(r'<text x="[\d.]+" y="(\d+)" [^>]*>motion', svg)
    assert len(heights) == 2 and abs(int(heights[0]) - int(heights[1])) >= 12


def test_bad_tables_are_one_sentence(tmp_path, fails):
    pyarrow.parquet.write_table(pa.table({"a": [1.0]}), tmp_path / "t.parquet")
    assert "has no column error, file, seconds" in fails(main, [str(tmp_path / "t.parquet"), "--out", str(tmp_path / "p.html")])
    for cells, said in (
        ({"file": [7]}, "t.parquet gives row 1 the `file` 7, which is not text"), ({"error": [7]}, "t.parquet gives row 1 the `error` 7, which is not text"),
        ({"seconds": ["long"]}, "the column seconds holds text, and numbers are wanted"),
    ):  # fmt: skip
        pyarrow.parquet.write_table(pa.table({"file": ["a"], "seconds": [6.0], "error": ["lost"]} | cells), tmp_path / "t.parquet")
        assert fails(main, [str(tmp_path / "t.parquet"), "--out", str(tmp_path / "p.html")]).endswith(said)
    assert not (tmp_path / "p.html").exists()
