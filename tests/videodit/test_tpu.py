"""The whole train step, compiled for TPU slices by the real TPU compiler, which needs no TPU."""
import functools

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from core_jax import state
from core_jax.mesh import MeshConfig, build
from core_jax.sharding import batch_sharding, shardings
from videodit_jax.config import Dtype, TrainConfig
from videodit_jax.model import ModelConfig, Remat
from videodit_jax.objective import loss_fn
from videodit_jax.run import make_model

pytest.importorskip("libtpu", reason="libtpu holds the TPU compiler")


def small(mesh: MeshConfig) -> TrainConfig:
    """Real proportions (head dim 128, bf16, saved attention), 512 tokens, two layers."""
    model = ModelConfig(width=512, layers=2, heads=4, mlp=2048, patch=(2, 8, 8), remat=Remat.ATTENTION)
    return TrainConfig(frames=16, size="64x64", batch=8, dtype=Dtype.BFLOAT16, model=model, mesh=mesh)


@functools.cache
def devices():
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices


@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=2, fsdp=2, context=2)], ids=["tensor", "context"]
)
def test_train_step_compiles_for_a_slice(mesh):
    config = small(mesh)
    on = build(mesh, devices())
    tx = config.optimizer.build(config.steps)
    with jax.set_mesh(on):
        abstract = jax.eval_shape(functools.partial(state.init, lambda: make_model(config), tx))
        place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
        placed = jax.tree.map(place, abstract, shardings(abstract, on))
        batch = {
            "video": np.zeros((8, *config.video, 3), np.uint8),
            "text": jax.tree.map(lambda x: np.stack([x] * 8), config.model.text.tokenize("x")),
            "scores": np.zeros((8, 3), np.float32),
        }
        batch = jax.tree.map(lambda x: place(x, batch_sharding(on)), batch)
        key = place(jax.eval_shape(lambda: jax.random.key(0)), NamedSharding(on, PartitionSpec()))

        def step(now, batch, key):
            return state.make_step(loss_fn(config), tx, key=key, ema_decay=0.999)(now, batch)

        compiled = jax.jit(step, donate_argnums=0).lower(placed, batch, key).compile()
    text = compiled.as_text()
    assert all(name in text for name in ("attention_forward", "attention_backward")), "the step does not run on our kernel"
    replicated = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract))
    assert compiled.memory_analysis().argument_size_in_bytes < 0.6 * replicated, "parameters are not cut over fsdp and tensor"
