"""LoRA: products beside linear maps, and a part of a model that trains."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from core_jax.lmm.model import LMM
from core_jax.lmm.sequence import Sequence, stack
from core_jax.lora import LoRAConfig, add_lora, combine, is_lora, merge_lora, partition
from core_jax.weights import count, named
from tests.core.lmm_models import CONFIG


@pytest.fixture(scope="module")
def model() -> LMM:
    waves = lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    return jax.jit(lambda: jax.tree.map(waves, LMM(CONFIG, rngs=nnx.Rngs(0))))()


def test_lora_starts_as_the_model_trains_alone_and_merges(model):
    adapted = add_lora(model, LoRAConfig(rank=2, where=r"decoder\.layers\.(attention\.(q|out)|mlp\.down)"), rngs=nnx.Rngs(1))
    factors, rest = partition(adapted, is_lora)
    assert count(rest) == count(model) and len(named(factors)) == 3 * 2
    inputs = stack(CONFIG, [Sequence(np.arange(9, 29, dtype=np.int32))])
    forward = jax.jit(lambda model: model(inputs))
    np.testing.assert_array_equal(forward(adapted), forward(model))
    gradient = jax.jit(jax.grad(lambda factors: (combine(factors, rest)(inputs) ** 2).mean()))(factors)
    trained = combine(jax.tree.map(lambda p, g: p - 0.1 * g / jnp.linalg.norm(g).clip(1e-6), factors, gradient), rest)
    trained = combine(jax.tree.map(lambda p: p + 0.05, partition(trained, is_lora)[0]), rest)
    merged = merge_lora(trained)
    assert jax.tree.structure(merged) == jax.tree.structure(model)
    assert np.abs(forward(trained) - forward(model)).max() > 0.01
    np.testing.assert_allclose(forward(merged), forward(trained), atol=1e-4)


def test_lora_on_nothing_is_refused(model):
    with pytest.raises(ValueError, match="no linear map's name matches 'decoder.layer'"):
        add_lora(model, LoRAConfig(where="decoder.layer"), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="rank 0: at least 1"):
        LoRAConfig(rank=0)
    with pytest.raises(ValueError, match="'[(]' is no regular expression"):
        LoRAConfig(where="(")
