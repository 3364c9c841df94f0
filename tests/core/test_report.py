import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from core_jax import report as report_module
from core_jax.report import HELD_OUT, Report, ReportConfig, ended

METRICS = {"loss": 1.0, "skipped": 0.0}


@pytest.mark.parametrize("last", [2, 9])
def test_a_profile_is_written_at_its_last_step_or_where_the_run_ends(tmp_path, last, capsys):
    with Report(epath.Path(tmp_path), ReportConfig(tensorboard=False, profile=(1, last)), start=0, steps=3, batch=1, flops=lambda metrics: 1.0) as report:
        for number in range(1, 4):
            jnp.ones(number).block_until_ready()
            report.step(number, METRICS)
            assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (number >= last)
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert "wrote a profile" in capsys.readouterr().out


def test_a_path_with_brackets_is_shown_as_it_is(tmp_path, capsys):
    with Report(epath.Path(tmp_path), ReportConfig(tensorboard=False), start=0, steps=1, batch=1, flops=lambda metrics: 1.0) as report:
        report.say(f"wrote {'a' * 90}/runs[1]/[red]:smile:")
    assert f"wrote {'a' * 90}/runs[1]/[red]:smile:\n" in capsys.readouterr().out


@pytest.mark.parametrize("steps", [(0, 2), (3, 3), (5, 4)])
def test_a_profile_that_cannot_be_is_refused(steps):
    with pytest.raises(ValueError, match=f"--report.profile {steps[0]} {steps[1]}"):
        ReportConfig(profile=steps)


def test_what_else_takes_time_stands_in_the_bar_until_the_next_step(tmp_path, monkeypatch):
    make = lambda: Report(epath.Path(tmp_path), ReportConfig(tensorboard=False), start=0, steps=3, batch=1, flops=lambda metrics: 1.0)
    with make() as report:
        note = lambda: report.bar.tasks[0].fields["note"]
        report.step(1, METRICS)
        report.doing("held-out loss")
        assert note() == "held-out loss"
        report.step(2, METRICS)
        assert note().startswith("loss 1.0000")
    monkeypatch.setattr(report_module.jax, "process_index", lambda: 1)
    make().doing("sampling")  # of another host, which shows nothing


def test_of_several_hosts_the_one_that_waits_longest_for_data_is_named_and_the_bar_has_the_own(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(report_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(report_module.jax, "process_count", lambda: 3)
    others = np.array([[0.2, 10], [6, 10]])
    monkeypatch.setattr(report_module.multihost_utils, "process_allgather", lambda own: np.stack([own, *others]))
    with Report(epath.Path(tmp_path), ReportConfig(tensorboard=False), start=0, steps=9, batch=1, flops=lambda metrics: 1.0) as report:
        for number, waited in enumerate([0, 0.5, 0.4], 1):
            report.step(number, METRICS, waited=waited)
            now[0] += 10
        note = lambda: report.bar.tasks[0].fields["note"]
        assert "waiting" not in note()
        report.step(4, METRICS, waited=0.6)
        assert note().endswith("· 6% waiting for data")
        report.say_waits()
        report.say_waits()
    assert capsys.readouterr().out.count("host 2, and with it all others, waited for data 60% of the time: ") == 1


@pytest.mark.parametrize("peak, share", [({jax.devices()[0].device_kind: 1e12}, " · MFU 50.0% of 1 bf16 TFLOP/s × 8"), ({}, "")])
def test_a_step_tells_its_speed_and_which_peak_its_share_is_of(peak, share, tmp_path, monkeypatch, capsys):
    """In the bar, in the log, and, where there is no bar, in a line now and then. Two steps 40 s apart, 8 clips each of 20 TFLOP on 8 devices."""
    now = [0.0]
    monkeypatch.setattr(report_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(report_module, "PEAK_BF16", peak)
    with Report(epath.Path(tmp_path), ReportConfig(tensorboard=False), start=0, steps=3, batch=8, flops=lambda metrics: 20e12) as report:
        for number in (1, 2):
            report.step(number, METRICS | {"skipped": number - 1.0})
            now[0] += 40
        note = report.bar.tasks[0].fields["note"]
    assert note == f"loss 1.0000 · 40000 ms/step · 0.2 examples/s · 4 TFLOP/s{share} · 1 skipped"
    assert capsys.readouterr().out == f"step 2: {note}\n"
    first, second = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert first == {"step": 1, **METRICS}
    speed = {"seconds": 40.0, "waited": 0.0, "examples_per_second": 0.2, "model_tflops": 4.0} | ({"mfu": 0.5} if peak else {})
    assert second == {"step": 2, **METRICS, "skipped": 1.0} | speed


def test_a_run_has_ended_where_its_log_ends_with_the_digest_of_that_step(tmp_path):
    out = epath.Path(tmp_path)
    assert not ended(out, 1)
    step, last = '{"step": 1, "loss": 1}\n', '{"step": 1, "state_digest": "x"}\n'
    for text, number, answer in (("", 1, False), (step + last, 1, True), (last, 2, False), (step, 1, False), (last[:12], 1, False)):
        (tmp_path / "log.jsonl").write_text(text)
        assert ended(out, number) is answer


def test_in_a_store_the_log_is_put_up_whole_and_goes_on_after_a_resume(bucket, monkeypatch):
    steps = lambda: [json.loads(line)["step"] for line in (bucket / "log.jsonl").read_text().splitlines()]
    make = lambda start: Report(bucket, ReportConfig(tensorboard_every=1), start=start, steps=9, batch=1, flops=lambda metrics: 1.0)
    first = make(0)
    first.step(1, METRICS)
    first.pause()
    first.step(2, METRICS)
    assert steps() == [1]
    monkeypatch.setattr(report_module, "UPLOAD_SECONDS", 0)
    monkeypatch.setattr(report_module, "UPLOAD_SHARE", float("inf"))
    first.step(3, METRICS)
    assert steps() == [1, 2, 3]
    with make(2) as second:  # the first was killed; the checkpoint is of step 2
        second.step(3, METRICS)
        second.write({"step": 3, "state_digest": "x"})
    assert steps() == [1, 2, 3, 3]
    events = [path.read_bytes() for path in (bucket / "tensorboard").iterdir()]
    assert events and all(b"train/loss" in event for event in events)


def test_what_an_evaluation_found_stands_once_a_step(tmp_path):
    found = lambda: [json.loads(line) for line in (tmp_path / HELD_OUT).read_text().splitlines()]
    make = lambda start: Report(epath.Path(tmp_path), ReportConfig(tensorboard=False), start=start, steps=9, batch=1, flops=lambda metrics: 1.0)
    with make(0) as first:
        for step, value in ((2, 0.5), (4, np.float32(0.25)), (6, np.nan)):
            first.evaluation(step, {"loss": value, "loss at t=0.1": value})
    assert found()[1:] == [{"step": 4, "loss": 0.25, "loss at t=0.1": 0.25}, {"step": 6, "loss": None, "loss at t=0.1": None}]
    with make(4) as second:  # the checkpoint is of step 4
        assert [row["step"] for row in found()] == [2, 4]
        second.evaluation(4, {"loss": 0.2})  # a run at its end is measured again
    assert found()[1:] == [{"step": 4, "loss": 0.2}]


def test_in_a_store_what_takes_long_to_put_up_is_put_up_less_often(bucket, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(report_module.time, "monotonic", lambda: now[0])
    write, put_up = type(bucket).write_bytes, []

    def slow(path, data):
        now[0] += 6
        put_up.append(now[0])
        return write(path, data)

    monkeypatch.setattr(type(bucket), "write_bytes", slow)
    with Report(bucket, ReportConfig(tensorboard=False), start=0, steps=9, batch=1, flops=lambda metrics: 1.0) as report:
        for number in range(1, 10):
            now[0] += 100
            report.step(number, METRICS)
        assert put_up == [106, 812], "a hundredth of the time"


def test_after_a_resume_tensorboard_hides_later_steps_alone(tmp_path):
    """Of what stands there it takes away from the step on that a session's start names; the checkpoint's own step is made only once."""
    with Report(epath.Path(tmp_path), ReportConfig(), start=5, steps=9, batch=1, flops=lambda metrics: 1.0):
        pass
    assert [event.step for event in events(tmp_path) if event.HasField("session_log")] == [6]


def events(out):
    """What lies in TensorBoard's one file."""
    (data,) = [path.read_bytes() for path in (out / "tensorboard").iterdir()]
    while data:  # TFRecord: length, its checksum, an event, its checksum
        length = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_a_picture_is_shown_in_tensorboard_and_a_large_one_small(tmp_path):
    with Report(epath.Path(tmp_path), ReportConfig(), start=0, steps=9, batch=1, flops=1.0) as report:
        for step, size in ((3, (20, 10)), (4, (3000, 2000))):
            report.picture(step, "samples", Image.new("RGB", size, "red"))
    with Report(epath.Path(tmp_path), ReportConfig(tensorboard=False), start=0, steps=9, batch=1, flops=1.0) as report:
        report.picture(1, "samples", Image.new("RGB", (20, 10)))
    shown = [(event.step, event.summary.value[0]) for event in events(tmp_path) if event.HasField("summary")]
    assert [(step, value.tag, value.image.width, value.image.height) for step, value in shown] == [(3, "samples", 20, 10), (4, "samples", 1024, 683)]
    assert Image.open(io.BytesIO(shown[1][1].image.encoded_image_string)).getpixel((500, 500)) == (255, 0, 0)


def test_in_a_store_a_profile_is_put_up(bucket):
    with Report(bucket, ReportConfig(tensorboard=False, profile=(1, 2)), start=0, steps=3, batch=1, flops=lambda metrics: 1.0) as report:
        for number in (1, 2):
            jnp.ones(number).block_until_ready()
            report.step(number, METRICS)
        assert list((bucket / "profile" / "plugins" / "profile").glob("*/*.xplane.pb"))


def test_a_store_that_fails_for_a_while_is_asked_again_and_at_the_end_it_is_an_error(bucket, monkeypatch, caplog):
    write, fails = type(bucket).write_bytes, []

    def shaky(path, data):
        if fails:
            raise fails[0]
        write(path, data)

    monkeypatch.setattr(type(bucket), "write_bytes", shaky)
    steps = lambda: [json.loads(line)["step"] for line in (bucket / "log.jsonl").read_text().splitlines()]
    make = lambda: Report(bucket, ReportConfig(tensorboard=False), start=0, steps=9, batch=1, flops=lambda metrics: 1.0)
    with make() as report:
        report.step(1, METRICS)
        report.pause()
        fails.append(RuntimeError("503, try again"))
        report.step(2, METRICS)
        report.pause()
        assert "log.jsonl cannot be put up now: 503, try again" in caplog.text and steps() == [1]
        fails.clear()
        report.pause()
        assert steps() == [1, 2], "though nothing was new"
    with pytest.raises(RuntimeError, match="503"), make() as report:
        report.step(1, METRICS)
        fails.append(RuntimeError("503, try again"))
    fails.clear()
    with pytest.raises(ValueError, match="what it reports"), make() as report:
        report.step(1, METRICS)
        fails.append(RuntimeError("503, try again"))
        raise ValueError("what it reports")
    assert report.log.closed
