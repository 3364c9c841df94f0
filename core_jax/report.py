"""What a trainer shows and keeps: a progress bar, `log.jsonl`, `held_out.jsonl`, TensorBoard, a profile on request.

An object store (gs://) cannot append: there the files grow in a temporary folder of this machine and are put up whole, before every
checkpoint, every UPLOAD_SECONDS, or less often where that would take more than UPLOAD_SHARE of the time, and at the end. A store that fails
meanwhile is said and asked again the next time; at the end it is an error.
"""
import dataclasses
import itertools
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from PIL import Image
from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core_jax.chips import PEAK_BF16
from core_jax.cli import SAY_SECONDS, console
from core_jax.files import nulled, remote, write_bytes
from core_jax.numbers import COUNT, refuse

_log = logging.getLogger(__name__)

LOG, HELD_OUT = "log.jsonl", "held_out.jsonl"
"""one JSON object a step, and one an evaluation on the held-out split"""
UPLOAD_SECONDS, UPLOAD_SHARE = 60, 0.01
WIDE = 1024
MUCH = 0.05
"""share of the time from which on it is said that the devices wait for data"""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What is logged and how often."""

    tensorboard: bool = True
    """write TensorBoard files to OUT/tensorboard"""
    tensorboard_every: int = 10
    """steps between TensorBoard points"""
    profile: tuple[int, int] | None = None
    """first and last step of a jax profile, written to OUT/profile"""

    def __post_init__(self):
        refuse(self, {COUNT: "tensorboard_every"}, "report")
        if self.profile and not 1 <= self.profile[0] < self.profile[1]:
            raise ValueError(f"--report.profile {self.profile[0]} {self.profile[1]}: a first step of at least 1 and a later last one are wanted")


def truncate_log(path: epath.Path, step: int) -> None:
    """Cuts a log back to the steps up to a checkpoint, so that after a resume every step stands once; what a crash has torn goes too."""
    if not path.exists():
        return
    with path.open("rb") as log:
        end = sum(map(len, itertools.takewhile(lambda line: _is_step(line, step), log)))
    os.truncate(path, end)


def _is_step(line: bytes, most: int) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n") and "loss" in row and row["step"] <= most


def ended(out: epath.Path, step: int) -> bool:
    """Whether a run's log ends with the row that its trainer writes last of all, after this step."""
    try:
        row = json.loads((out / LOG).read_bytes().splitlines()[-1])
    except (OSError, IndexError, ValueError):
        return False
    return row.get("step") == step and "state_digest" in row


class Report:
    """One run's report, a context that closes it; only the first host writes, so on the others every method does nothing, but for the profile of each."""

    def __init__(self, out: epath.Path, config: ReportConfig, *, start: int, steps: int, batch: int, flops: Callable[[dict], float]):
        """Args:
        start: steps already done.
        batch: examples a step.
        flops: model FLOPs of one example of a step with these metrics, forward and backward, for TFLOP/s and MFU.
        """
        self.on = jax.process_index() == 0
        self.config, self.out, self.batch, self.flops = config, out, batch, flops
        self.devices = jax.device_count()
        self.profiling = False
        self.peak = PEAK_BF16.get(jax.devices()[0].device_kind)
        self.last = None
        self.timed, self.waited, self.told = 0.0, 0.0, False
        self.temporary = tempfile.TemporaryDirectory() if remote(out) else None
        self.folder = epath.Path(self.temporary.name) if self.temporary else out
        self.uploaded, self.took, self.sizes = time.monotonic(), 0.0, {}
        if not self.on:
            return
        for name in (LOG, HELD_OUT):
            if self.temporary and (out / name).exists():
                (self.folder / name).write_bytes((out / name).read_bytes())
            truncate_log(self.folder / name, start)
        self.log = (self.folder / LOG).open("a")
        self.board = None
        if config.tensorboard:
            from tensorboardX import SummaryWriter  # here: it imports all of PyTorch where that is installed

            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=start + 1)  # from it on, what is there is hidden
        self.console = console()
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")]
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("train", total=steps, completed=start, note="compiling")
        self.bar.start()
        self.said = time.monotonic()

    def step(self, step: int, metrics: dict[str, float], timed: bool = True, waited: float = 0.0) -> None:
        """Records the metrics of one step, flushed at once. The time of a step, if it is `timed`, is that between two reports; of it this host's
        devices have `waited` so many seconds for data."""
        self._profile(step)
        now = time.monotonic()
        speed = {}
        if timed and self.last is not None:
            seconds = now - self.last
            self.timed, self.waited = self.timed + seconds, self.waited + waited
            speed = {"seconds": seconds, "waited": waited, "examples_per_second": self.batch / seconds}
            speed["model_tflops"] = self.flops(metrics) * self.batch / seconds / 1e12
            if self.peak:
                speed["mfu"] = speed["model_tflops"] * 1e12 / (self.peak * self.devices)
        self.last = now
        if not self.on:
            return
        row = {"step": step, **{k: v if math.isfinite(v) else None for k, v in metrics.items()}, **speed}
        self.write(row)
        if self.board and step % self.config.tensorboard_every == 0:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self.board.add_scalar(f"train/{name}", value, step)
        self.bar.update(self.task, completed=step, note=self._note(metrics, speed))
        if not self.console.is_terminal and now - self.said >= SAY_SECONDS:
            self.say(f"step {step}: {self._note(metrics, speed)}")
            self.said = now
        if now - self.uploaded > max(UPLOAD_SECONDS, self.took / UPLOAD_SHARE):
            self._upload()

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Records figures of the held-out split, `loss` among them, in place of those of the same step before a resume."""
        if self.on:
            kept = self.folder / HELD_OUT
            truncate_log(kept, step - 1)
            row = json.dumps(nulled({"step": step, **{name: float(value) for name, value in metrics.items()}}))
            write_bytes(kept, (kept.read_bytes() if kept.exists() else b"") + f"{row}\n".encode())
            if self.board:
                for name, value in metrics.items():
                    self.board.add_scalar(f"eval/{name}", value, step)
            self.say(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        self.last = None

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """Shows it in TensorBoard, at most WIDE pixels wide and high: on a store the file of all of them is put up again and again."""
        if self.on and self.board:
            image = image.convert("RGB")
            image.thumbnail((WIDE, WIDE))
            self.board.add_image(name, np.asarray(image), step, dataformats="HWC")

    def write(self, row: dict) -> None:
        """Appends one line to log.jsonl."""
        if self.on:
            self.log.write(json.dumps(row) + "\n")
            self.log.flush()

    def say(self, what: RenderableType) -> None:
        """Prints a line, or a table, above the bar."""
        if self.on:
            self.console.print(what)

    def say_waits(self, again: bool = False) -> None:
        """Says, once and `again`, how much of the timed steps was spent waiting for data, where that is much. Every host has to ask: while one waits
        for data the others wait for it, within the step, and do not see why."""
        if self.told and not again:
            return
        own = np.array([self.waited, self.timed], np.float32)
        hosts = multihost_utils.process_allgather(own) if jax.process_count() > 1 else own[None]
        shares = hosts[:, 0] / np.maximum(hosts[:, 1], 1e-9)
        if shares.max() <= MUCH:
            return
        self.told = True
        who = f"host {shares.argmax()}, and with it all others," if len(shares) > 1 else "training"
        helps = "give it more cores, or clips that take less to read (docs/tpu.md, Is the data fast enough?)"
        self.say(f"{who} waited for data {shares.max():.0%} of the time: {helps}")

    def doing(self, what: str) -> None:
        """Shows in the bar, until the next step, what else takes time."""
        if self.on:
            self.bar.update(self.task, note=what)

    def pause(self) -> None:
        """The next step's time is not a step's alone (a checkpoint or samples are made): it is left out."""
        self.last = None
        self._upload()

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, failed, *_) -> None:
        if self.on:
            self.bar.stop()
        self._profile(math.inf)
        if self.on:
            self.log.close()
            if self.board:
                self.board.close()
        self._upload(last=not failed)

    def _upload(self, last: bool = False) -> None:
        """Puts up every file that has grown, where OUT is an object store; raises what the store does where it is the last time."""
        if not self.temporary:
            return
        if self.on and self.board:
            self.board.flush()
        began = time.monotonic()
        for path in Path(self.temporary.name).rglob("*"):
            if path.is_file() and self.sizes.get(path) != path.stat().st_size:
                data, there = path.read_bytes(), self.out / path.relative_to(self.temporary.name)
                try:
                    there.write_bytes(data)
                except Exception as error:  # a store's client has errors of its own
                    if last:
                        raise
                    _log.warning("%s cannot be put up now: %s", there, error)
                else:
                    self.sizes[path] = len(data)
        self.uploaded = time.monotonic()
        self.took = self.uploaded - began

    def _note(self, metrics: dict[str, float], speed: dict[str, float]) -> str:
        note = f"loss {metrics['loss']:.4f}"
        if speed:
            note += f" · {speed['seconds'] * 1e3:.0f} ms/step · {speed['examples_per_second']:.1f} examples/s"
            note += f" · {speed['model_tflops']:.3g} TFLOP/s"
        if "mfu" in speed:
            note += f" · MFU {speed['mfu']:.1%} of {self.peak / 1e12:.0f} bf16 TFLOP/s × {self.devices}"
        if speed and speed["waited"] > MUCH * speed["seconds"]:
            note += f" · {speed['waited'] / speed['seconds']:.0%} waiting for data"
        if metrics["skipped"]:
            note += f" · {metrics['skipped']:.0f} skipped"
        return note

    def _profile(self, step: float) -> None:
        """Begins the profile at its first step; ends it at its last one, or where the run ends before."""
        if not self.config.profile:
            return
        first, last = self.config.profile
        if step == first:
            jax.profiler.start_trace(str(self.folder / "profile"))
            self.profiling = True
        elif self.profiling and step >= last:
            jax.profiler.stop_trace()
            self.profiling = False
            self._upload()
            self.say(f"wrote a profile to {self.out / 'profile'}; look at it with XProf: pip install xprof && xprof --logdir {self.out / 'profile'}")
