"""The loop and its log: what is written and saved when, stopping on a signal, giving up on numbers that break."""
import json
import os
import signal
import time
from concurrent.futures import Future
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from core_jax import loop
from core_jax import report as report_module
from core_jax.report import Report, ReportConfig, truncate_log


class Saves(list):
    """Stands for Checkpoints: (step, position) of each save."""

    latest = None

    def save(self, step, state, position):
        assert step not in dict(self), "a step is saved once"
        self.append((step, position))

    def wait(self):
        self.waited = True


@jax.jit
def add(state, batch):
    """A step whose state is the sum of its batches; a batch that is not finite is skipped."""
    ok = jnp.isfinite(batch)
    total, row = state
    row = jnp.where(ok, 0, row + 1)
    total = total + jnp.where(ok, batch, 0)
    return (total, row), {"loss": batch, "grad_norm": batch, "skipped": row, "skipped_in_row": row}


def batches(*values: float):
    return iter(jax.device_put(list(np.asarray(values, np.float32))))


START = (jnp.zeros(()), jnp.zeros((), jnp.int32))


@pytest.fixture
def run(tmp_path):
    """run(step, stream, …) → (state, done, saves, rows of the log)."""

    def call(step, stream, *, start=0, steps=6, checkpoint_every=2, **kwargs):
        saves = Saves()
        with Report(epath.Path(tmp_path), ReportConfig(tensorboard=False), start=start, steps=steps, batch=4, flops=lambda metrics: 1.0) as report:
            state, done = loop.run(
                step, jax.device_put(START), stream, start=start, steps=steps, batch=4, checkpoints=saves,
                checkpoint_every=checkpoint_every, report=report, **kwargs,
            )
        return state, done, saves, [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]

    return call


def test_every_step_is_logged_once_and_saves_come_with_their_position(run):
    state, done, saves, rows = run(add, batches(*range(1, 7)))
    assert state[0] == 21 and done == 6
    assert saves == [(2, 8), (4, 16), (6, 24)] and saves.waited
    assert [(row["step"], row["loss"]) for row in rows] == [(i, i) for i in range(1, 7)]


def test_a_step_is_timed_neither_with_a_save_nor_by_what_was_made_before_it_was_read(run):
    """A CPU makes a step as it is dispatched, so what is read right behind the one before takes no time at all."""

    def slow(state, batch):
        time.sleep(0.02)
        return add(state, batch)

    rows = run(slow, batches(*range(1, 11)), steps=10, checkpoint_every=5)[-1]
    assert [row["step"] for row in rows if "seconds" in row] == [2, 3, 4, 7, 8, 9]
    assert all(row["seconds"] > 0.015 for row in rows if "seconds" in row)


@pytest.mark.parametrize("left, waited", [(0, 3), (2, 1), (4, 0)])
def test_waiting_for_data_counts_from_where_the_devices_have_nothing_to_do(run, monkeypatch, capsys, left, waited):
    """A batch takes 3 s; when it is asked for, the step before has so many seconds `left`."""
    now, watched = [0.0], []
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(report_module, "time", clock)

    class Watcher:
        def __init__(self, threads):
            pass

        def submit(self, *job):
            watched.append(Future())
            return watched[-1]

        __enter__, __exit__ = lambda self: self, lambda *_: None

    def slow():
        for batch in batches(*range(1, 11)):
            ends, now[0] = now[0] + left, now[0] + 3
            if ends < now[0]:
                watched[-1].set_result(ends)
            yield batch
            now[0] += 1

    monkeypatch.setattr(loop, "ThreadPoolExecutor", Watcher)
    rows = run(add, slow(), steps=10, checkpoint_every=5)[-1]
    timed = [(row["waited"], row["seconds"]) for row in rows if "seconds" in row]
    assert timed == [(waited, 4)] * 6
    said = capsys.readouterr().out.count(f"training waited for data {waited * 25}% of the time: ")
    assert said == (2 if waited else 0), "at the first checkpoint and at the end"


def test_the_devices_are_watched_to_the_end_of_each_step(run, monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "_ended", lambda metrics: seen.append(float(metrics["loss"])) or 0.0)
    run(add, batches(*range(1, 7)))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_hooks_see_the_newest_state_but_not_the_last_step(run):
    seen = []
    hooks = (loop.Hook(3, lambda step, state: seen.append((step, float(state[0])))),)
    run(add, batches(*range(1, 7)), hooks=hooks)
    assert seen == [(3, 6.0)]


def test_a_resumed_loop_goes_on_counting(run):
    _, done, saves, rows = run(add, batches(5, 6), start=4)
    assert done == 6 and saves == [(6, 24)] and [row["step"] for row in rows] == [5, 6]


@pytest.mark.parametrize("at", [3, 4], ids=["between saves", "at a save"])
def test_sigterm_saves_and_leaves_and_says_so(run, at, capsys):
    def step(state, batch):
        if float(jax.device_get(batch)) == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return add(state, batch)

    before = signal.getsignal(signal.SIGTERM)
    state, done, saves, rows = run(step, batches(*range(1, 7)))
    assert done == at == len(rows)
    assert saves[-1] == (at, 4 * at) and state[0] == sum(range(1, at + 1))
    assert signal.getsignal(signal.SIGTERM) is before
    assert f"stopped and saved at step {at} of " in capsys.readouterr().out


def test_before_the_first_step_is_made_a_signal_means_what_it_always_does(run):
    """It takes long to compile, and nothing is lost."""
    before, seen = signal.getsignal(signal.SIGTERM), []

    def step(state, batch):
        seen.append(signal.getsignal(signal.SIGTERM) is before)
        return add(state, batch)

    run(step, batches(*range(1, 7)))
    assert seen == [True] + [False] * 5


def test_too_many_skipped_in_a_row_is_an_end(run, tmp_path):
    nan = float("nan")
    with pytest.raises(loop.Diverged, match="3 updates in a row up to step 4"):
        run(add, batches(1, nan, nan, nan, nan, nan), max_skipped=2)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [1, None, None, None]


def test_skipped_now_and_then_is_not(run):
    nan = float("nan")
    state, done, *_ = run(add, batches(nan, nan, 1, nan, nan, 2), max_skipped=2)
    assert done == 6 and state[0] == 3


def test_a_step_that_moves_data_to_the_device_by_accident_is_refused(run):
    with pytest.raises(jax.errors.JaxRuntimeError, match="[Dd]isallowed"):
        run(add, iter([np.float32(1)]))


def test_in_a_store_the_log_of_all_steps_lies_beside_their_last_checkpoint(bucket):
    """However the job ends while that is written, or before what comes behind it."""

    class Watched(Saves):
        def save(self, step, state, position):
            super().save(step, state, position)
            self.logged = [json.loads(line)["step"] for line in (bucket / "log.jsonl").read_text().splitlines()]

    saves = Watched()
    with Report(bucket, ReportConfig(tensorboard=False), start=0, steps=3, batch=4, flops=lambda metrics: 1.0) as report:
        loop.run(
            add, jax.device_put(START), batches(1, 2, 3), start=0, steps=3, batch=4, checkpoints=saves, checkpoint_every=2, report=report
        )
        assert saves[-1] == (3, 12) and saves.logged == [1, 2, 3]


def test_a_signal_does_not_cut_off_the_last_save(tmp_path):
    heard = []

    class Full(Saves):
        def wait(self):
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("no space left")

    make = lambda: Report(epath.Path(tmp_path), ReportConfig(tensorboard=False), start=0, steps=1, batch=4, flops=lambda metrics: 1.0)
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    try:
        with pytest.raises(ValueError, match="no space left"), make() as report:
            loop.run(
                add, jax.device_put(START), batches(1), start=0, steps=1, batch=4, checkpoints=Full(), checkpoint_every=2, report=report
            )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not heard


def test_a_log_is_cut_back_to_the_checkpoint(tmp_path):
    log = epath.Path(tmp_path) / "log.jsonl"
    truncate_log(log, 3)
    assert not log.exists()
    rows = [json.dumps({"step": i, "loss": 0.5}) for i in range(1, 6)]
    log.write_text("\n".join([*rows, json.dumps({"step": 5, "state_digest": "x"}), '{"step": 6, "lo']))
    truncate_log(log, 3)
    assert log.read_text().splitlines() == rows[:3]
    truncate_log(log, 9)
    assert log.read_text().splitlines() == rows[:3], "all of it may stay"
    log.write_text(rows[0] + "\n\0\0\0\n" + rows[1])
    truncate_log(log, 9)
    assert log.read_text().splitlines() == rows[:1], "what stands behind a torn line was written before the crash that tore it"
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_on_several_hosts_ctrl_c_is_told_to_the_preemption_service(monkeypatch):
    """It hears SIGTERM alone, and makes it every host's."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    try:
        with loop.StopSignal() as stop:
            stop.arm()
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard
