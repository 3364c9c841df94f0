"""The mesh: sizes that fit or say why not, nearest devices for the last axis, slices along data, joining other hosts."""
import ctypes
import dataclasses
import importlib.util
import math
import os
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType

from core_jax import mesh
from core_jax.cores import cores
from core_jax.mesh import AXES, MeshConfig
from core_jax.pod.topology import parse
from tests.hosts import environments

SIZES = st.sampled_from([-1, 0, 1, 2, 3, 4, 8])


@given(st.builds(MeshConfig, SIZES, SIZES, SIZES, SIZES), st.sampled_from([1, 2, 6, 8, 64]))
def test_a_shape_fills_all_devices_or_names_both_numbers(config, devices):
    sizes = dataclasses.astuple(config)
    try:
        shape = config.shape(devices)
    except ValueError as error:
        if 0 in sizes or sizes.count(-1) > 1:
            assert "at least 1" in str(error)
        else:
            fixed = math.prod(size for size in sizes if size > 0)
            assert str(fixed) in str(error) and str(devices) in str(error)
            assert devices % fixed or -1 not in sizes and fixed != devices
    else:
        assert math.prod(shape) == devices
        assert all(got == asked for got, asked in zip(shape, sizes) if asked != -1)


def test_axes_in_order_and_all_auto():
    on = mesh.build(MeshConfig(data=2, fsdp=-1, tensor=2))
    assert on.axis_names == AXES and on.devices.shape == (2, 2, 1, 2)
    assert set(on.axis_types) == {AxisType.Auto}
    assert [device.id for device in on.devices[0, 0, 0]] == [0, 1], "the last axis takes neighbours"


def test_a_job_may_keep_as_many_files_open_as_the_system_allows():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        mesh.start(None)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


ARENAS = """
import importlib, ctypes, os, sys
importlib.import_module(sys.argv[1])
libc = ctypes.CDLL(None)
libc.fopen.restype, libc.fclose.argtypes, libc.malloc_info.argtypes = ctypes.c_void_p, [ctypes.c_void_p], [ctypes.c_int, ctypes.c_void_p]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print("threads", len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="glibc's malloc is wanted")
@pytest.mark.parametrize("module", ["videodit_jax.train", "koala_jax.score"])
def test_all_threads_of_a_command_share_the_arena_that_can_grow(module, tmp_path):
    said = subprocess.run([sys.executable, "-c", ARENAS, module, tmp_path / "info.xml"], capture_output=True, text=True, check=True).stdout
    assert int(said.split()[-1]) > 1, "a thread of pyarrow's is there"
    assert (tmp_path / "info.xml").read_text().count("<heap nr=") == 1


def test_a_mesh_over_given_devices_only():
    assert mesh.build(devices=jax.devices()[:1]).size == 1


def test_a_mesh_that_does_not_fit_says_both_numbers():
    with pytest.raises(ValueError, match=r"8 devices: its product is 3"):
        mesh.build(MeshConfig(data=3))
    with pytest.raises(ValueError, match=r"8 devices: the fixed axes take 3"):
        mesh.build(MeshConfig(fsdp=3))


@dataclasses.dataclass(frozen=True)
class SliceDevice:
    id: int
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    process_index: int = 0
    core_on_chip: int = 0

    @property
    def coords(self) -> tuple[int, int, int]:
        return self.id // 2 % 2, self.id % 2, 0


def test_slices_lie_along_data(monkeypatch):
    monkeypatch.setattr(mesh, "Mesh", lambda grid, *_, **__: grid)
    devices = [SliceDevice(i, i // 4) for i in range(8)]
    grid = mesh.build(MeshConfig(data=4, tensor=2), devices)
    slices = np.vectorize(lambda device: device.slice_index)(grid)
    assert grid.shape == (4, 1, 1, 2)
    assert slices[:, 0, 0].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(ValueError, match="1 places, which 2 slices do not divide"):
        mesh.build(MeshConfig(data=1, fsdp=8), devices)
    hosts = [SliceDevice(i, i // 4, platform="gpu") for i in range(8)]  # as XLA counts them on a GPU cluster
    grid = mesh.build(MeshConfig(data=1, fsdp=8), hosts)
    assert [device.id for device in grid.flat] == list(range(8))


def test_an_axis_may_take_a_part_of_a_torus_dim_in_several_slices_too():
    pytest.importorskip("libtpu", reason="libtpu knows where the chips of a slice lie")
    grid = mesh.build(MeshConfig(data=2, fsdp=4, context=2, tensor=2), parse("2*v5e:4x4").devices()).devices
    assert {tuple(device.slice_index for device in part.flat) for part in grid} == {(0,) * 16, (1,) * 16}


@pytest.fixture
def alone(monkeypatch):
    """The environment of a job without other hosts."""
    for name in ("JAX_COORDINATOR_ADDRESS", "TPU_WORKER_HOSTNAMES", "MEGASCALE_COORDINATOR_ADDRESS", "SLURM_NTASKS", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "TPU_ML_PLATFORM", "TPU_SKIP_MDS_QUERY"):
        monkeypatch.delenv(name, raising=False)


def test_one_host_joins_nobody(alone, monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("there is nobody to join"))
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "a")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    mesh.start(None)
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    monkeypatch.setenv("SLURM_NTASKS", "4")  # the script of a batch of four, not one of them
    mesh.start(None)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setenv("TPU_ML_PLATFORM", "JAX")  # a TPU VM that knows its one host
    mesh.start(None)
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # no chip
    mesh.start(None)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # a command beside the job of a slice
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a,b")
    monkeypatch.setenv("MEGASCALE_COORDINATOR_ADDRESS", "a")
    assert not mesh.several_hosts()


@pytest.mark.parametrize(
    "name, value",
    [
        ("JAX_COORDINATOR_ADDRESS", "localhost:1"),
        ("TPU_WORKER_HOSTNAMES", "a,b"),
        ("MEGASCALE_COORDINATOR_ADDRESS", "a"),
        ("SLURM_NTASKS", "2"),
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("TPU_ML_PLATFORM", "JAX"),
    ],
)
def test_failing_to_join_is_an_error(alone, monkeypatch, name, value):
    def refuse(**_):
        raise ConnectionError("nobody answers")

    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_STEP_NODELIST", "a,b")
    with pytest.raises(RuntimeError, match="could not join them: nobody answers"):
        mesh.start(None)


@pytest.mark.parametrize("saves", [False, True])
def test_sigterm_ends_a_command_that_nobody_asks_to_save(saves):
    """jax's preemption service keeps it to itself, even of a host that is alone, as on every TPU VM."""
    code = f"import os, signal, time; from core_jax import mesh; mesh.start(None, saves={saves}); os.kill(os.getpid(), signal.SIGTERM); time.sleep(1)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | environments(1)[0], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is not None, reason="jax has plugins here")
def test_a_platform_without_its_plugin_is_a_sentence():
    run = [sys.executable, "-c", "from core_jax import mesh; mesh.start(None)"]
    done = subprocess.run(run, env=os.environ | {"JAX_PLATFORMS": "cuda"}, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "RuntimeError: JAX_PLATFORMS=cuda: jax has no plugin for it here, which the extra `gpu` brings"


def test_the_mesh_of_the_job_is_said_and_one_that_a_plan_tries_is_not(caplog):
    caplog.set_level("INFO", "core_jax.mesh")
    mesh.build(devices=jax.devices())
    assert not caplog.messages
    mesh.build()
    assert caplog.messages == ["mesh: {'data': 8, 'fsdp': 1, 'context': 1, 'tensor': 1}"]


@pytest.mark.parametrize("flags, number, most, asked", [("", -1, 1, 1), ("", -1, 10**6, cores()), ("", 3, 1, None), ("--xla_force_host_platform_device_count=3", -1, 1, None)])
def test_cores_become_devices_unless_their_number_is_given(flags, number, most, asked, monkeypatch):
    update = {}
    monkeypatch.setattr(jax, "config", SimpleNamespace(jax_num_cpu_devices=number, update=update.__setitem__))
    monkeypatch.setenv("XLA_FLAGS", flags)
    mesh.use_cores(most)
    assert update.get("jax_num_cpu_devices") == asked
