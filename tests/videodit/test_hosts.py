"""Several hosts, each a process of its own: they train as one, and stop, die and go on together."""
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core_jax import mesh
from core_jax.checkpoint import Checkpoints, newest
from core_jax.state import TrainState
from core_jax.weights import digest
from tests.hosts import environments
from tests.videodit import small
from videodit_jax import export, train
from videodit_jax.run import WEIGHTS, Run, abstract_state

STEPS, EVERY = 18, 6
DEVICES = 2
"""of each of two hosts: between processes of a CPU collectives are slow, and the slower the more devices"""


def args(out: Path) -> list[str]:
    """Without a motion score, so that no control is measured at the end, which nothing here looks at. Samples are of
    prompts, which hosts compare."""
    (prompts := out.parent / "prompts.txt").write_text("a red circle moves left\n")
    flags = ["--preset", "tiny", "--steps", str(STEPS), "--checkpoint-every", str(EVERY), "--keep", "3", "--out", str(out), "--sample-prompts", str(prompts)]
    return [*flags, "--model.scores", "clarity", *small.FLAGS]


def start(out: Path, *command: str, hosts: int, devices: int) -> list[subprocess.Popen]:
    """Hosts of one job that trains in `out`, or does what the command says, each with so many devices."""
    command = command or ("videodit_jax.train", *args(out))
    return [small.start(*command, devices=devices, **who) for who in environments(hosts)]


def end(job: list[subprocess.Popen]) -> list[str]:
    """What each host said; all must have ended well."""
    said = [host.communicate() for host in job]
    assert [host.returncode for host in job] == [0] * len(job), said
    return [out for out, _ in said]


@pytest.fixture(scope="module")
def never(tmp_path_factory) -> Path:
    """The run of two hosts that nothing stops."""
    out = tmp_path_factory.mktemp("hosts") / "never"
    said = end(start(out, hosts=2, devices=DEVICES))
    assert "wrote" in said[0] and "wrote" not in said[1], "the first host alone speaks"
    return out


def restored(out: Path, step: int, folder: Path) -> TrainState:
    """The state in a checkpoint, which this process reads alone, from a copy in a folder."""
    shutil.copytree(out / "checkpoints" / str(step), folder / str(step))
    return Checkpoints(folder).restore(abstract_state(Run.read(out).config), mesh.build())[0]


def test_two_hosts_train_as_one_of_all_their_devices(never, tmp_path, monkeypatch):
    """Not bit for bit: they sum the gradient in another order."""
    small.use(2 * DEVICES, monkeypatch)
    train.main(args(tmp_path / "one"))
    ours, theirs = small.losses(never), small.losses(tmp_path / "one")
    np.testing.assert_allclose(ours[:10], theirs[:10], rtol=1e-6)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)
    assert digest(restored(never, STEPS, tmp_path / "read")) == small.digest(never), "of what two hosts saved a single one says the same"


READS = """
import jax, numpy as np
from core_jax import mesh
from videodit_jax.data.loader import global_batches

class Numbers(list):
    def __getitem__(self, i):
        read.append(i)
        return {"id": np.int32(i)}

mesh.start(None)
read, stream = [], global_batches(Numbers(range(24)), dict, mesh.build(), seed=0, batch=8, start=0, threads=1)
held = [[int(part.data[0]) for part in next(stream)["id"].addressable_shards] for _ in range(3)]
print(read[:12], sum(held, []))
"""


def test_each_host_reads_its_own_share_of_an_epoch_alone():
    """Three batches of 8 from 24 examples, a device holding one of each; what is read ahead is another epoch's."""
    flags = os.environ["TESTS_XLA_FLAGS"].replace("device_count=8", "device_count=4")
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    job = [subprocess.Popen([sys.executable, "-c", READS], env=os.environ | {"XLA_FLAGS": flags} | who, **pipes) for who in environments(2)]
    shares = []
    for said in end(job):
        read, held = (list(map(int, numbers.split(","))) for numbers in re.findall(r"\[(.*?)\]", said))
        assert read == held
        shares += read
    assert sorted(shares) == list(range(24))


def test_four_hosts_export_what_one_does(never, tmp_path):
    """Of what two have saved."""
    said = end(start(never, "videodit_jax.export", "--run", str(never), "--out", str(tmp_path / "four"), hosts=4, devices=1))
    assert "wrote" in said[0] and "wrote" not in "".join(said[1:])
    export.main(["--run", str(never), "--out", str(tmp_path / "one")])
    assert (tmp_path / "four" / WEIGHTS).read_bytes() == (tmp_path / "one" / WEIGHTS).read_bytes()


def test_a_signal_to_one_host_stops_all_and_a_dead_host_costs_the_steps_since_the_last_checkpoint(never, tmp_path, monkeypatch):
    """From there one host goes on alone."""
    out = tmp_path / "stopped"
    job = start(out, hosts=2, devices=DEVICES)
    small.wait_for(lambda: small.steps(out) >= 3, *job)
    job[1].terminate()
    said = end(job)
    first = newest(out)
    assert 3 <= first == len(small.losses(out)) < STEPS and f"saved at step {first}" in said[0]

    job = start(out, hosts=2, devices=DEVICES)
    small.wait_for(lambda: newest(out) > first, *job)
    job[1].kill()
    job[0].kill()  # as whoever restarts a job does: alone it would wait for the other
    assert [host.wait() for host in job] == [-signal.SIGKILL] * 2
    saved, done = newest(out), small.steps(out)
    assert first < saved <= done < STEPS
    assert small.losses(out) == small.losses(never)[:done]
    assert digest(restored(out, saved, tmp_path / "ours")) == digest(restored(never, saved, tmp_path / "theirs"))

    small.use(DEVICES, monkeypatch)
    train.main(args(out))
    assert small.losses(out)[:saved] == small.losses(never)[:saved]
    np.testing.assert_allclose(small.losses(out), small.losses(never), rtol=1e-4)
