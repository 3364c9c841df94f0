"""The smallest run that is still a whole one: 0.1M parameters, 4 frames of 12×12 as 18 tokens, by AdamW, which is traced and compiled in less time."""
import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from core_jax import mesh
from core_jax.tensors import save_file
from videodit_jax import step, train
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import TrainConfig
from videodit_jax.run import WEIGHTS, Run, make_model

FLAGS = (
    "--model.width 32 --model.layers 2 --model.unroll 1 --model.heads 4 --model.mlp 64 --model.frequencies 16 --model.text.words 8 "
    "--model.text.width 16 --model.patch 2 4 4 --frames 4 --size 12x12 --batch 8 --eval-examples 8 --optimizer.method adamw --optimizer.learning-rate 0.002 "
    "--optimizer.schedule constant --optimizer.warmup 2 --sampling.steps 1 --sampling.guidance.text 1 --sampling.guidance.scores 1 "
    "--report.no-tensorboard"
).split()
CONFIG = dataclasses.replace(train.parse(["--preset", "tiny", *FLAGS]), steps=10)
MODEL = CONFIG.model
STATISTICS = ScoreStatistics.of({"motion": np.linspace(1, 4, 50), "aesthetic": np.array([]), "clarity": np.linspace(0, 1, 50)})


def config(out: Path, **changes) -> TrainConfig:
    return dataclasses.replace(CONFIG, out=str(out), **changes)


def shaken(model, size: float = 0.1):
    """Every parameter away from where it started, so that all of them count."""
    return jax.tree.map(lambda x: x + size * np.sin(np.arange(x.size, dtype=np.float32)).reshape(x.shape), model)


def exported(out: Path) -> Path:
    """Writes a run's weights, all away from zero, as `export` does."""
    Run(CONFIG, STATISTICS, "").write(out)
    save_file(out / WEIGHTS, shaken(jax.jit(lambda: make_model(CONFIG))(), 0.05))
    return out


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    """Of every step, each of which must stand once and in order."""
    rows = [row for row in log(out) if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def digest(out: Path) -> str:
    return log(out)[-1]["state_digest"]


def steps(out: Path) -> int:
    """Lines of the log so far."""
    return (out / "log.jsonl").read_bytes().count(b"\n") if (out / "log.jsonl").exists() else 0


def wait_for(condition: Callable[[], bool], *processes: subprocess.Popen) -> None:
    """Raises AssertionError if one of the processes ends before."""
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def use(devices: int, patch: pytest.MonkeyPatch) -> None:
    """Runs of this process have so many devices from now on."""
    patch.setattr(mesh, "build", functools.partial(mesh.build, devices=jax.devices()[:devices]))


def share_steps(patch: pytest.MonkeyPatch, **elsewhere) -> None:
    """From now on runs that differ in their folder, where they start and these settings, on which no step depends, share one step, which jax traces
    and compiles once."""
    make = step.make
    shared = functools.cache(lambda config, loss_fn: make(config))
    patch.setattr(step, "make", lambda config: shared(dataclasses.replace(config, out="", init=None, **elsewhere), step.loss_fn))


def start(module: str, *args: str, devices: int = 1, **environment: str) -> subprocess.Popen:
    """`python -m module args` in its own process with this many host devices."""
    flags = os.environ["TESTS_XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    env = os.environ | {"XLA_FLAGS": flags} | environment
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, "-m", module, *args], env=env, **pipes)
