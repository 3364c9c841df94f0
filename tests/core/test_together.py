"""Hosts of a job, each a process of its own, that are given unlike settings, of which one fails while the others wait for it, or that need no other."""
import os
import subprocess
import sys

import pytest

from tests.hosts import environments

PROGRAM = """
import dataclasses, os
import jax
from jax.experimental import multihost_utils
from core_jax import cli, mesh

@dataclasses.dataclass
class Config:
    steps: int
    workers: int

def main(args):
    mesh.start(Config(int(args[0]), int(os.environ["JAX_PROCESS_ID"])), saves=True)
    if args[1] == "breaks":  # as where the terminal has gone
        os.close(2)
    if args[1] in ("fails", "breaks"):
        raise ValueError("it has no such file")
    if args[1] == "waits":
        multihost_utils.sync_global_devices("all")

cli.run(main)
"""

SHARES = """
import sys
import jax, jax.numpy as jnp
from core_jax import mesh

mesh.use_cores(2)
number, hosts = mesh.hosts(None)
mesh.start(None, join=False)
sys.stdin.read()
devices = mesh.build(devices=jax.local_devices())
total = jax.jit(jnp.sum, in_shardings=jax.NamedSharding(devices, jax.P("data")))(jnp.ones(len(jax.local_devices())))
print(number, hosts, total / len(jax.devices()))
"""


@pytest.mark.parametrize(
    ("hosts", "status", "said"),
    [
        (["2 waits", "3 waits"], 1, ["host 1 ended with error: every host needs", "error: every host needs the same settings, and on host 1 steps is not 2 but 3"]),
        (["2 fails", "2 waits"], 1, ["error: it has no such file", "host 0 ended with error: it has no such file"]),
        (["2 waits", "2 breaks"], 1, ["host 1 ended with error: it has no such file", ""]),
        (["2 leaves", "2 leaves"], 0, ["", ""]),
    ],
)
def test_hosts_end_together(hosts, status, said):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    env = os.environ | {"XLA_FLAGS": os.environ["TESTS_XLA_FLAGS"].replace("device_count=8", "device_count=1")}
    job = [subprocess.Popen([sys.executable, "-c", PROGRAM, *words.split()], env=env | who, **pipes) for who, words in zip(environments(2), hosts)]
    try:
        ends = [host.communicate(timeout=90)[1] for host in job]  # jax alone takes five minutes
    finally:
        for host in job:
            host.kill()
    assert [host.returncode for host in job] == [status] * 2, ends
    for words, end in zip(said, ends):
        assert end.startswith(words), ends


def test_hosts_that_do_shares_end_when_they_like():
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    job = [subprocess.Popen([sys.executable, "-c", SHARES], env=os.environ | {"XLA_FLAGS": ""} | who, **pipes) for who in environments(2)]
    try:
        said = [host.communicate(timeout=90) for host in job]  # the second goes on when the first, who keeps what the hosts share, is gone
    finally:
        for host in job:
            host.kill()
    assert [out for out, _ in said] == ["0 2 1.0\n", "1 2 1.0\n"], said
