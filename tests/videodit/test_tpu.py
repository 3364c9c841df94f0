"""The whole train step, compiled for TPU slices by the real TPU compiler, which needs no TPU."""
import jax
import pytest

from core_jax.mesh import MeshConfig, build
from core_jax.pod.topology import parse
from core_jax.remat import Remat
from core_jax.state import compile_step
from videodit_jax import step
from videodit_jax.config import Dtype, TrainConfig
from videodit_jax.model import ModelConfig

pytest.importorskip("libtpu", reason="libtpu holds the TPU compiler")


def small(mesh: MeshConfig) -> TrainConfig:
    """Real proportions (head dim 128, bf16, saved attention), 512 tokens, two layers."""
    model = ModelConfig(width=512, layers=2, heads=4, mlp=2048, patch=(2, 8, 8), remat=Remat.ATTENTION)
    return TrainConfig(frames=16, size="64x64", batch=8, dtype=Dtype.BFLOAT16, model=model, mesh=mesh)


def test_train_step_compiles_for_a_slice():
    """Parameters, tokens and heads all cut; the batch over data alone is what the plan of a preset compiles."""
    config = small(MeshConfig(data=1, fsdp=2, context=2, tensor=2))
    on = build(config.mesh, parse("v5e:2x4").devices())
    with jax.set_mesh(on):
        state, batch = step.inputs(config, on)
        compiled = compile_step(step.make(config), state).lower(state, batch).compile()
    text = compiled.as_text()
    assert all(name in text for name in ("attention_forward", "attention_backward")), "the step does not run on our kernel"
    replicated = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert compiled.memory_analysis().argument_size_in_bytes < 0.4 * replicated, "parameters are not cut over fsdp and tensor"
