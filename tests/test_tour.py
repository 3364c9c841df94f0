"""The tour, without its chain: its commands are commands, a failing one names its log, the last page links what is there."""
import importlib
import json
import shlex
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from core_jax import cli
from koala_jax.captions import known
from koala_jax.captions.backend import Request
from koala_jax.captions.clips import Clip
from koala_jax.captions.schema import Part
from tests.tour import __main__ as tour
from tests.tour import page
from tests.tour.steps import STEPS, Step

CONFIGS = {
    "split": "SplitConfig", "score": "ScoreConfig", "look": "ReportConfig", "filter": "FilterConfig", "caption": "CaptionConfig",
    "sweep": "SweepConfig", "fit": "FitConfig", "plot": "PlotConfig", "predict": "PredictConfig", "sample": "SampleConfig", "generate": "GenerateConfig",
}  # fmt: skip


def modules() -> list[tuple[Step, str, list[str]]]:
    """(step, module, arguments) of every step that is a command of ours."""
    words = [(step, step.words("runs/tour", "videos")) for step in STEPS]
    return [(step, given[2], given[3:]) for step, given in words if given[0] == "python"]


@pytest.mark.parametrize("step, module, args", modules(), ids=lambda x: getattr(x, "name", ""))
def test_the_command_that_a_step_names_takes_its_flags(step, module, args):
    command = importlib.import_module(module)
    if hasattr(command, "parse"):
        command.parse(args)
    else:
        cli.parse(getattr(command, CONFIGS[step.name]), args, module)


def test_only_the_recommended_run_is_no_command_of_ours():
    assert [step.name for step in STEPS if step not in [ours for ours, _, _ in modules()]] == ["run"]
    assert len({step.name for step in STEPS}) == len(STEPS)


def test_the_training_reads_all_of_the_captions_that_the_tour_makes():
    ((module, args),) = [(module, args) for step, module, args in modules() if step.name == "train"]
    text = importlib.import_module(module).parse(args).model.text
    caption = known.template([Request(Clip("a.mp4", "a.mp4", row={"motion": 12.34, "clarity": 0.56}), None, part) for part in Part])
    assert len(text.pieces(" ".join(caption))) <= text.words


def test_every_file_that_a_step_reads_is_one_that_an_earlier_step_makes():
    made, named = set(), 0
    for step in STEPS:
        for word in step.words("OUT", "VIDEOS"):
            if word.startswith("OUT/"):
                path, own = Path(word).relative_to("OUT"), {Path(file) for file in step.makes}
                near = lambda files: any(path in (file, *file.parents) for file in files)
                assert near(made | own), f"{step.name} names {word}"
                named += 1
        made |= {Path(file) for file in step.makes}
    assert named > 20


def step_of(code: str, **makes: str) -> Step:
    return Step("one", f"python -c {shlex.quote(code)}", makes or {"file": "a file"})


def take(step: Step, out: Path):
    (out / "logs").mkdir(exist_ok=True)
    return tour.take(step, out, out / "videos", Console(quiet=True))


MAKE = "import pathlib, sys; pathlib.Path('{out}/file').write_text('x'); sys.stdout.write('made it\\n')"


def test_a_tour_stopped_while_its_videos_are_drawn_goes_on(tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tour, "write_video", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tour.main(["--out", str(tmp_path / "tour")])


def test_a_step_is_taken_once(tmp_path):
    step, command, seconds = take(step_of(MAKE), tmp_path)
    assert "OUT/file" in command and seconds > 0
    (tmp_path / "file").write_text("kept")
    assert take(step_of(MAKE), tmp_path)[2] == seconds and (tmp_path / "file").read_text() == "kept"
    assert tour.last_line(tmp_path / "logs" / "one.log") == "made it"


def test_a_failing_step_names_its_log_and_what_it_said_last(tmp_path):
    with pytest.raises(RuntimeError, match=r"step one failed \(error: no such thing\).*logs/one.log"):
        take(step_of("import sys; sys.exit('error: no such thing')"), tmp_path)
    assert not json.loads((tmp_path / "logs" / "one.json").read_text())["done"]


def test_a_step_that_ends_without_what_it_makes_has_failed(tmp_path):
    with pytest.raises(RuntimeError, match="ended without file"):
        take(step_of("0"), tmp_path)


def test_one_folder_holds_one_tour(tmp_path):
    take(step_of(MAKE), tmp_path)
    with pytest.raises(ValueError, match="take another --out"):
        take(step_of(MAKE + "; 0"), tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_tour_lets_the_command_save_and_goes_on(number, tmp_path):
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("other systems tell nobody that a parent was killed")
    waits = (
        "import pathlib, time\ntry:\n  pathlib.Path('{out}/begun').touch()\n  time.sleep(60)\n"
        "except KeyboardInterrupt: pathlib.Path('{out}/saved').touch()"
    )
    (tmp_path / "logs").mkdir()
    code = (
        "import signal, sys; from pathlib import Path; from core_jax import stop; from tests.test_tour import take, step_of; "
        "[signal.signal(number, stop.interrupt) for number in (signal.SIGINT, signal.SIGTERM)]; "  # as main does
        f"take(step_of({waits!r}), Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60)
    if number == signal.SIGTERM:
        record = json.loads((tmp_path / "logs" / "one.json").read_text())
        assert (tmp_path / "saved").exists() and not record["done"] and record["seconds"] > 0
    end = time.monotonic() + 30
    while not (tmp_path / "saved").exists():  # nobody waits for it where the tour was killed
        assert time.monotonic() < end
        time.sleep(0.05)


class Links(HTMLParser):
    """What a page links, in order."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("href", "src")]


def test_the_last_page_links_every_hand_over_and_shows_the_pictures(tmp_path):
    for file in [*(file for step in STEPS for file in step.makes), *(f"logs/{step.name}.log" for step in STEPS)]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch() if not (tmp_path / file).is_dir() else None
    text = page.write(tmp_path, [(step, "python -m <x>", 12.0) for step in STEPS]).read_text()
    links = Links(text).found
    assert {file for step in STEPS for file in step.makes} <= set(links)
    for link in links:
        assert f'id="{link[1:]}"' in text if link.startswith("#") else (tmp_path / link).exists(), link
    assert text.count("<img") == text.count('<img alt="') == sum(file.endswith(page.PICTURES) for step in STEPS for file in step.makes) > 4
    assert "&lt;x&gt;" in text and str(12 * len(STEPS)) in text


def test_without_a_folder_videos_are_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tour, "write_video", lambda path, frames, fps: path.write_bytes(bytes(frames.shape)[:3]))
    folder = tour.raw_videos(tour.TourConfig(out=tmp_path))
    assert len(list(folder.iterdir())) == 8 and folder.parent == tmp_path
    (mine := tmp_path / "mine").mkdir()
    assert tour.raw_videos(tour.TourConfig(out=tmp_path, data=mine)) == mine


def test_what_is_no_tour_is_left_alone(tmp_path, fails):
    """Neither is anything written there, nor where the videos are missing."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert "is not empty and holds no tour" in fails(tour.main, ["--out", str(tmp_path / "mine")])
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    assert "is no folder of videos" in fails(tour.main, ["--out", str(tmp_path / "new"), "--data", str(tmp_path / "none")])
    assert not (tmp_path / "new").exists()
