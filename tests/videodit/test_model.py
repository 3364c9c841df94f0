"""The Video DiT: what it starts as, what it can see, and that scanning and rematerialising change nothing."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from core_jax import mesh
from core_jax.attention import Context
from core_jax.mesh import MeshConfig
from core_jax.remat import Remat
from tests.videodit import small
from videodit_jax.model import Flops, ModelConfig, VideoDiT, forward_flops
from videodit_jax.text import Reads, TextConfig

VIDEO = (4, 12, 12)


def inputs(batch: int = 2) -> tuple:
    rng = np.random.default_rng(0)
    tokens = jax.tree.map(lambda *rows: jnp.stack(rows), *[small.MODEL.text.tokenize(text) for text in ("a red circle", "")] * (batch // 2))
    scores = jnp.asarray(rng.random((batch, 3), np.float32)).at[0, 1].set(jnp.nan)
    return jnp.asarray(rng.standard_normal((batch, *VIDEO, 3), np.float32)), jnp.linspace(0.2, 0.8, batch), tokens, scores


def trained(config=small.MODEL) -> VideoDiT:
    """Every parameter away from zero."""
    return small.shaken(jax.jit(lambda: VideoDiT(config, rngs=nnx.Rngs(0)))())


MODEL = trained()


def value_and_grad(model: VideoDiT):
    return jax.jit(jax.value_and_grad(lambda model, *inputs: (model(*inputs) ** 2).mean()))(model, *inputs())


def assert_alike(got, right) -> None:
    np.testing.assert_allclose(got[0], right[0], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(right[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def plain():
    return value_and_grad(MODEL)


@pytest.mark.parametrize("how", [dict(remat=Remat.FULL), dict(remat=Remat.ATTENTION), dict(remat=Remat.PRODUCTS), dict(unroll=2)], ids=str)
def test_what_is_recomputed_or_unrolled_changes_no_gradient(how, plain):
    assert_alike(value_and_grad(trained(dataclasses.replace(small.MODEL, **how))), plain)


def test_scanned_layers_are_a_loop_over_the_layers(plain, monkeypatch):
    def loop(step, carry, layers, **_):
        for i in range(small.MODEL.layers):
            carry, _ = step(carry, jax.tree.map(lambda x: x[i], layers))
        return carry, None

    monkeypatch.setattr(jax.lax, "scan", loop)
    assert_alike(value_and_grad(MODEL), plain)


@pytest.mark.parametrize("context, sends, not_so", [(Context.RING, "ppermute", "all_to_all"), (Context.ALL_TO_ALL, "all_to_all", "ppermute")])
def test_tokens_that_a_mesh_cuts_meet_as_the_config_says(context, sends, not_so):
    """All ways give the same numbers."""
    config = dataclasses.replace(small.MODEL, context=context, patch=(1, 3, 3))
    model = jax.eval_shape(lambda: VideoDiT(config, rngs=nnx.Rngs(0)))
    with jax.set_mesh(mesh.build(MeshConfig(data=2, context=4))):
        program = str(jax.make_jaxpr(lambda model, *inputs: model(*inputs))(model, *inputs()))
    assert f" {sends}[" in program and f" {not_so}[" not in program


@pytest.mark.parametrize("wiener", [False, True])
def test_an_untrained_model_returns_zero_and_learns_from_there(wiener):
    config = dataclasses.replace(small.MODEL, wiener=wiener)
    model = jax.jit(lambda: VideoDiT(config, rngs=nnx.Rngs(0)))()
    grads = jax.jit(jax.grad(lambda model: ((model(*inputs()) - 1) ** 2).mean()))(model)
    assert not jax.jit(lambda model: model(*inputs()))(model).any()
    assert grads.out.w[...].any()
    assert not wiener or grads.wiener.gain.w[...].any()


def test_the_wiener_filter_with_gains_of_one_gives_the_video_back():
    """The last layer being zero, it is all there is; and half of the gains let half of the waves pass."""
    config = dataclasses.replace(small.MODEL, wiener=True)
    model = jax.jit(lambda: VideoDiT(config, rngs=nnx.Rngs(0)))()
    x, *rest = inputs()
    gains = {"all": jnp.ones(config.patch_numbers), "first": jnp.zeros(config.patch_numbers).at[0].set(1)}
    out = {}
    for name, gain in gains.items():
        model.wiener.gain.b = nnx.Param(gain, dims="P")
        out[name] = jax.jit(lambda model: model(x, *rest))(model)
    np.testing.assert_allclose(out["all"], x, atol=1e-5)
    t, h, w = config.patch
    np.testing.assert_allclose(out["first"][:, :t, :h, :w], jnp.broadcast_to(x[:, :t, :h, :w].mean((1, 2, 3, 4), keepdims=True), (2, t, h, w, 3)), atol=1e-5)


def test_every_input_counts_and_clips_do_not_see_each_other():
    predict = jax.jit(lambda *args: MODEL(*args))
    x, t, tokens, scores = inputs()
    base = predict(x, t, tokens, scores)
    changed = {
        "video": predict(x.at[0, 0, 0, 0, 0].add(1), t, tokens, scores),
        "time": predict(x, t.at[0].add(0.1), tokens, scores),
        "text": predict(x, t, {**tokens, "bytes": tokens["bytes"].at[0, 1, 0].add(1)}, scores),
        "scores": predict(x, t, tokens, scores.at[0, 0].set(0.9)),
    }
    for name, out in changed.items():
        moved = jnp.abs(out - base).max((1, 2, 3, 4))
        assert moved[0] > 1e-5 and moved[1] == 0, name
    assert jnp.abs(changed["video"] - base)[0, -2:, -4:, -4:].max() > 0, "attention reaches the far corner"
    beyond = {**tokens, "bytes": tokens["bytes"].at[0, 5:].set(99)}
    np.testing.assert_array_equal(predict(x, t, beyond, scores), base, "words past the length are not there")


def test_bf16_is_close_and_its_output_fp32():
    x, *rest = inputs()
    predict = jax.jit(lambda x: MODEL(x, *rest))
    exact, rough = predict(x), predict(x.astype(jnp.bfloat16))
    assert rough.dtype == jnp.float32
    assert jnp.abs(rough - exact).max() < 0.05 * jnp.abs(exact).max()


def test_a_video_that_patches_do_not_divide_is_refused():
    x, *rest = inputs()
    with pytest.raises(ValueError, match="4 frames, 12×10 cannot be cut into patches of 2 frames, 4×4"):
        MODEL(x[..., :10, :], *rest)


def test_flops_by_hand():
    """One layer of width 8, MLP 16, 2×2×2 tokens of 2×2×2 pixels, 4 words of width 6, frequencies 10."""
    config = ModelConfig(width=8, layers=1, heads=2, mlp=16, patch=(2, 2, 2), frequencies=10, text=TextConfig(words=4, width=6))
    flops = forward_flops(config, (4, 4, 4))
    S, N, E, F, P = 8, 4, 8, 16, 24
    assert flops.attention == 4 * S * S * E + 4 * S * N * E
    assert flops.blocks == 2 * (4 * S * E * E + 2 * S * E * E + 2 * N * E * E + 2 * S * E * F)
    text, conditions = N * (4 * 6 * 6 + 6 * E + E * E), (10 * E + 7 * E * E) + 3 * (10 * E + E * E)
    assert flops.ends == 2 * (2 * S * P * E + text + conditions)
    assert flops.train == 3 * (flops.attention + flops.blocks + flops.ends)
    filtered = forward_flops(dataclasses.replace(config, wiener=True), (4, 4, 4))
    assert filtered.ends - flops.ends == 2 * (2 * S * P * P + E * P)
    deeper = forward_flops(dataclasses.replace(config, layers=3), (4, 4, 4))
    assert (deeper.attention, deeper.blocks, deeper.ends) == (3 * flops.attention, 3 * flops.blocks, flops.ends)
    made = forward_flops(dataclasses.replace(config, text=dataclasses.replace(config.text, reads=Reads.FEATURES)), (4, 4, 4))
    assert flops.ends - made.ends == 2 * N * 4 * 6 * 6, "features come as they are"
    gray = forward_flops(dataclasses.replace(config, given=True, gray=True), (4, 4, 4))
    seen, I, D = forward_flops(dataclasses.replace(config, given=True, gray=True, picture=(5, 10)), (4, 4, 4)), 5, 10
    assert seen.attention - gray.attention == seen.few - gray.few == 4 * S * I * E
    assert (seen.blocks - gray.blocks, seen.ends - gray.ends) == (2 * 2 * I * E * E, 2 * I * (D * D + D * E))


def test_recomputation_adds_to_what_is_executed():
    flops = Flops(attention=10.0, few=2.0, blocks=4.0, ends=1.0)
    assert flops.train == 45
    assert [flops.executed(remat) for remat in (Remat.NONE, Remat.PRODUCTS, Remat.ATTENTION, Remat.FULL)] == [50, 50, 56, 64]
