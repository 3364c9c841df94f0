"""Training end to end: the same run on every mesh, stopped and resumed, killed, on many hosts, and with numbers that break."""
import dataclasses
import signal
import socket
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from core_jax import mesh
from core_jax.loop import Diverged
from core_jax.mesh import MeshConfig
from tests.videodit import small
from videodit_jax import control, train
from videodit_jax.config import OptimizerConfig, Schedule

MESHES = {
    "one device": (MeshConfig(), 1),
    "data 8": (MeshConfig(), 8),
    "fsdp 8": (MeshConfig(data=1, fsdp=8), 8),
    "fsdp 4 × tensor 2": (MeshConfig(data=1, fsdp=4, tensor=2), 8),
    "data 4 × context 2": (MeshConfig(data=4, context=2), 8),
}


@pytest.fixture
def run(monkeypatch):
    """run(config, devices): `train.train` on the first so many devices, without the measurement at the end of a run on shapes."""
    build = mesh.build

    def call(config, devices: int = 8):
        monkeypatch.setattr(mesh, "build", lambda shape: build(shape, jax.devices()[:devices]))
        return train.train(config)

    monkeypatch.setattr(control, "measure", lambda *_: (None, None))
    monkeypatch.setattr(control, "report", lambda *_: None)
    return call


@pytest.fixture(scope="module")
def one_device(tmp_path_factory) -> tuple[list[float], str]:
    """Losses and digest of 10 steps on one device."""
    with pytest.MonkeyPatch.context() as patch:
        out = tmp_path_factory.mktemp("one_device")
        run.__wrapped__(patch)(small.config(out), 1)
        return small.losses(out), small.digest(out)


@pytest.mark.parametrize("name", list(MESHES)[1:])
def test_every_mesh_gives_the_same_losses(name, run, one_device, tmp_path):
    shape, devices = MESHES[name]
    state = run(small.config(tmp_path, mesh=shape), devices)
    np.testing.assert_allclose(small.losses(tmp_path), one_device[0], rtol=1e-5)

    pieces = shape.shape(8)[1] * shape.shape(8)[3]
    weight = state.model.blocks.mlp.up.w[...]
    assert weight.addressable_shards[0].data.size * pieces == weight.size
    moment = jax.tree.leaves(state.opt_state, is_leaf=lambda x: getattr(x, "shape", None) == weight.shape)
    assert all(x.sharding == weight.sharding for x in moment if getattr(x, "shape", None) == weight.shape)
