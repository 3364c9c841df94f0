"""`python -m tests.tour`: the whole house in one command, from raw videos to a film, each hand-over a file and a command.

Every step (steps.py) is a command as a user would give it, in a process of its own. One that ended well says so in OUT/logs/STEP.json, and
a rerun skips it; one that was stopped goes on by the same command, as each of them does by itself.
"""
import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from core_jax import cli, stop
from core_jax.files import refuse_filled, write_json
from core_jax.video_out import write_video
from tests.tour import page
from tests.tour.steps import STEPS, Step
from videodit_jax.data.stories import Stories

PATIENCE = 120.0
"""seconds that a command has to save when the tour is stopped"""
TOLD = [sys.executable, "-c", "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 2); os.execvp(sys.argv[1], sys.argv[1:])"]
"""what begins a command that Linux tells by a Ctrl-C that its parent has died (PR_SET_PDEATHSIG, SIGINT); a preexec_fn would fork beside jax's threads"""


@dataclasses.dataclass(frozen=True)
class TourConfig:
    """Split, score, filter, caption, train, sweep, predict and film, one after the other. Rerun the same command to go on where it stopped."""

    out: Path = Path("runs/tour")
    """folder of all outputs; its index.html links them"""
    data: Path | None = None
    """folder of raw videos; without one they are drawn on the spot"""


def raw_videos(config: TourConfig) -> Path:
    """The folder to begin with, drawn if there is none: eight spliced films of three scenes, 16 s each.

    Raises:
      ValueError: there is no such folder.
    """
    if config.data:
        if not config.data.is_dir():
            raise ValueError(f"--data {config.data} is no folder of videos")
        return config.data
    folder = config.out / "raw"
    for made in (config.out / "logs", folder):  # logs says that a tour lies there
        made.mkdir(parents=True, exist_ok=True)
    for i in range(8):
        if not (path := folder / f"{i}.mp4").exists():
            write_video(path, Stories(9, 96, 128)[i].video, fps=6)
    return folder


def last_line(log: Path) -> str:
    """What a command said last."""
    lines = log.read_text(errors="replace")[-4000:].split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def call(words: list[str], log: Path, console: Console) -> int:
    """Runs a command and returns its exit status; its output is added to the log, and its last line shown.

    A signal that stops the tour reaches the command as Ctrl-C, once, and it has the time to save; so does, on Linux, one that kills the tour.
    """
    words = [*(TOLD if sys.platform == "linux" else []), *(sys.executable if word == "python" else word for word in words)]
    environment = os.environ | {"PYTHON": sys.executable, "COLUMNS": "200"}
    with log.open("ab") as file, console.status(log.stem) as status:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            while True:
                try:
                    return process.wait(0.5)
                except subprocess.TimeoutExpired:
                    status.update(Text(f"{log.stem}: {last_line(log)}"))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
                process.kill()


def take(step: Step, out: Path, videos: Path, console: Console) -> tuple[Step, str, float]:
    """Takes a step unless it was taken before; (step, its command, the seconds that it took in all).

    Raises:
      ValueError: the folder holds this step of another tour.
      RuntimeError: it failed.
    """
    record, log = out / "logs" / f"{step.name}.json", out / "logs" / f"{step.name}.log"
    command = shlex.join(step.words("OUT", str(videos.resolve())))
    before = json.loads(record.read_text()) if record.exists() else {"command": command, "seconds": 0.0, "done": False}
    if before["command"] != command:
        raise ValueError(f"{out} holds a tour whose step {step.name} was {before['command']}, not {command}: take another --out")
    if before["done"]:
        console.print(f"{step.name}: done before, {before['seconds']:.0f} s")
        return step, command, before["seconds"]
    begun, status = time.monotonic(), None
    try:
        status = call(step.words(str(out), str(videos)), log, console)
    finally:
        missing = [file for file in step.makes if not (out / file).exists()]
        seconds = before["seconds"] + time.monotonic() - begun
        write_json(record, {"command": command, "seconds": seconds, "done": status == 0 and not missing})
    if status or missing:
        how = f"failed ({last_line(log)})" if status else f"ended without {', '.join(missing)}"
        raise RuntimeError(f"step {step.name} {how}: {log} has all that it said, and the same command tries again from there")
    console.print(f"{step.name}: {seconds:.0f} s; {last_line(log)}")
    return step, command, seconds


def main(args: list[str]) -> None:
    config, console = cli.parse(TourConfig, args, "tests.tour"), cli.console()
    if not (config.out / "logs").is_dir():
        refuse_filled(config.out, "tour")
    videos = raw_videos(config)
    (config.out / "logs").mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background jobs ignore it, and so would the commands
        signal.signal(number, stop.interrupt)
    try:
        written = page.write(config.out, [take(step, config.out, videos, console) for step in STEPS])
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on from there")
    console.print(f"wrote {written}; next: open it in a browser")


if __name__ == "__main__":
    cli.run(main)
