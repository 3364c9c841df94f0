"""LoRA: products beside linear maps, and a part of a model that trains."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from core_jax.layers import Linear
from core_jax.lmm.model import LMM
from core_jax.lmm.sequence import Sequence, stack
from core_jax.lora import LoRAConfig, add_lora, combine, is_lora, merge_lora, partition
from core_jax.rngs import Rngs
from core_jax.weights import count, named
from tests.core.lmm_models import CONFIG


@pytest.fixture(scope="module")
def model() -> LMM:
    waves = lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    return jax.jit(lambda: jax.tree.map(waves, LMM(CONFIG, rngs=Rngs(0))))()


def test_lora_starts_as_the_model_trains_alone_and_merges(model):
    adapted = add_lora(model, LoRAConfig(rank=2, where=r"decoder\.layers\.(attention\.(q|out)|mlp\.down)"), rngs=Rngs(1))
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
    with pytest.raises(ValueError, match="--lora.where 'decoder.layer': no linear map's name matches; there are .*decoder.layers.attention.q"):
        add_lora(model, LoRAConfig(where="decoder.layer"), rngs=Rngs(0))
    with pytest.raises(ValueError, match="rank 0: at least 1"):
        LoRAConfig(rank=0)
    with pytest.raises(ValueError, match="alpha 0: a positive number is wanted"):
        LoRAConfig(alpha=0.0)
    with pytest.raises(ValueError, match="--lora.where '[(]' is no regular expression"):
        LoRAConfig(where="(")


@pytest.mark.parametrize("layers", [0, 3])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_maps_in_one_array_have_a_product_each_as_they_have_apart(layers, platform, monkeypatch):
    monkeypatch.setattr("core_jax.layers.platform", lambda: platform)
    make = lambda key: Linear((12,), (3, 2, 4), "E n K D", rngs=Rngs(key))
    holder = nnx.Module()
    holder.qkv = jax.vmap(make)(jax.random.split(jax.random.key(0), layers)) if layers else make(0)
    adapted = add_lora(holder, LoRAConfig(rank=2, alpha=3.0, where="qkv"), rngs=Rngs(1))
    adapted = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), adapted).qkv
    stack = (layers, 3) if layers else (3,)
    assert adapted.a.w.shape == (*stack, 12, 2) and adapted.b.w.shape == (*stack, 2, 2, 4)
    x = jax.random.normal(jax.random.key(2), (5, 12))

    def checked(one: nnx.Module, merged: Linear) -> None:
        w, b, a, up = (np.asarray(p[...]) for p in (one.base.w, one.base.b, one.a.w, one.b.w))
        apart = [np.einsum("se,ekd->skd", x, w[:, i]) + b[i] + 1.5 * np.einsum("se,er,rkd->skd", x, a[i], up[i]) for i in range(3)]
        for ours, theirs in zip(one.parts(x), apart):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        np.testing.assert_allclose(one(x), np.stack(apart, 1), atol=1e-5)
        np.testing.assert_allclose(merged(x), np.stack(apart, 1), atol=1e-5)

    for i in range(layers or 1):
        checked(*(jax.tree.map(lambda p: p[i], m) if layers else m for m in (adapted, adapted.merged())))
