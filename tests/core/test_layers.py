"""Layers against what their docstrings say."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from core_jax import layers
from core_jax.layers import (
    LayerNorm, Linear, RMSNorm, cosine_waves, frequency_embedding, layer_norm, patchify, rotary_angles, rotate, unpatchify,
)
from core_jax.rngs import Rngs

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


@pytest.mark.parametrize("into, out, dims, einsum", [((6,), (2, 3), "E K D", "bse,ekd->bskd"), ((2, 3), (6,), "K D E", "bskd,kde->bse")])
def test_linear_contracts_the_last_dims(into, out, dims, einsum):
    layer = Linear(into, out, dims, rngs=Rngs(0))
    layer.b = nnx.Param(jnp.asarray(normal(*out)), dims="E")
    x = normal(2, 5, *into)
    np.testing.assert_allclose(layer(x), np.einsum(einsum, x, layer.w[...]) + np.asarray(layer.b[...]), rtol=1e-4, atol=1e-5)


def on(monkeypatch, platform: str, function, *given):
    """Values and gradients as this platform computes them, here."""
    monkeypatch.setattr(layers, "platform", lambda: platform)
    weighed = lambda y: (y * y).reshape(-1, y.shape[-1]).sum(0) @ jnp.arange(1.0, 1 + y.shape[-1])
    loss = lambda *given: sum(weighed(part.astype(jnp.float32)) for part in function(*given))
    return function(*given), jax.grad(loss, argnums=tuple(range(len(given))))(*given)


@pytest.mark.parametrize("bias", [True, False])
def test_parts_are_the_whole_cut_as_a_tpu_makes_them_too(monkeypatch, bias):
    layer = Linear((6,), (3, 2, 4), "E n K D", bias=bias, rngs=Rngs(0))
    x = normal(2, 5, 6)
    seen = {platform: on(monkeypatch, platform, lambda x, layer: layer.parts(x), x, layer) for platform in ("cpu", "tpu")}
    for a, b in zip(jax.tree.leaves(seen["cpu"]), jax.tree.leaves(seen["tpu"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jnp.stack(seen["tpu"][0], 2), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_a_tpu_turns_by_a_matrix_as_others_do_by_halves(monkeypatch, dtype, tolerance):
    angles = rotary_angles(GRID, DIM)[None, :, None]
    x = jnp.asarray(normal(2, 60, 3, DIM), dtype)
    turn = lambda x: [rotate(x, jnp.cos(angles), jnp.sin(angles))]
    ((here,), (slope,)), ((there,), (its_slope,)) = (on(monkeypatch, platform, turn, x) for platform in ("cpu", "tpu"))
    assert there.dtype == dtype
    np.testing.assert_array_equal(np.asarray(here, np.float32), np.asarray(there, np.float32))
    scale = np.abs(np.asarray(slope, np.float32)).max()
    np.testing.assert_allclose(np.asarray(slope, np.float32), np.asarray(its_slope, np.float32), atol=tolerance * scale)


def test_a_layer_computes_in_its_inputs_dtype_and_keeps_its_parameters():
    layer = Linear((64,), (64,), "E F", rngs=Rngs(0))
    assert layer(jnp.ones((1, 64), jnp.bfloat16)).dtype == jnp.bfloat16
    assert layer.w[...].dtype == jnp.float32
    assert float(layer.w[...].std()) == pytest.approx(1 / 8, rel=0.1)
    assert not Linear((4,), (4,), "E F", scale=0.0, rngs=Rngs(0)).w[...].any()


def test_norms():
    x = 3 * normal(2, 5, 16) + 7
    y = np.asarray(layer_norm(x))
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(-1), 1, atol=1e-4)
    np.testing.assert_allclose(LayerNorm(16)(x), y, rtol=1e-6)
    np.testing.assert_allclose(layer_norm(normal(2, 64) * 0 + 7), 0, atol=1e-2)
    np.testing.assert_allclose(layer_norm(x + 100), y, atol=1e-3)
    far, slope = jax.value_and_grad(lambda x: (layer_norm(x) ** 2).sum())(x + 1e4)
    assert far < x.size and np.abs(slope).max() < 10, "where rounding hides the deviations, they are not blown up"
    z = np.asarray(RMSNorm((4, 4))(x.reshape(2, 5, 4, 4)))
    np.testing.assert_allclose((z * z).mean((-2, -1)), 1, atol=1e-4)


def test_frequency_embedding_is_cosines_then_sines():
    x = np.array([0.0, 0.3, 11.0], np.float32)
    f = 10_000.0 ** (-np.arange(4) / 4)
    want = np.concatenate([np.cos(x[:, None] * f), np.sin(x[:, None] * f)], -1)
    np.testing.assert_allclose(frequency_embedding(x, 8), want, rtol=1e-5, atol=1e-6)


GRID = (3, 4, 5)
DIM = 16


def turned(x: np.ndarray) -> np.ndarray:
    """One vector at every place of GRID."""
    angles = rotary_angles(GRID, DIM)[None, :, None]
    return np.asarray(rotate(np.broadcast_to(x, (1, 60, 1, DIM)), np.cos(angles), np.sin(angles)))[0, :, 0].reshape(*GRID, DIM)


def test_rotary_scores_depend_on_the_distance_alone():
    q, k = turned(normal(DIM)), turned(normal(DIM))
    near = np.einsum("d,d", q[0, 0, 1], k[1, 2, 0])
    far = np.einsum("d,d", q[1, 1, 4], k[2, 3, 3])
    np.testing.assert_allclose(near, far, rtol=1e-4, atol=1e-5)
    for other in (k[1, 2, 1], k[1, 1, 0], k[0, 2, 0]):
        assert abs(np.einsum("d,d", q[0, 0, 1], other) - near) > 1e-3, "each of the three axes counts"


def test_rotary_turns_without_stretching():
    x = normal(DIM)
    y = turned(x)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x), rtol=1e-5)
    np.testing.assert_array_equal(y[0, 0, 0], x)


@pytest.mark.parametrize("head_dim", [2, 4, 6, 8, 32, 64, 128])
def test_rotary_angles_for_every_head_dim(head_dim):
    assert rotary_angles(GRID, head_dim).shape == (60, head_dim // 2)


@given(st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 4)] * 3), st.integers(1, 4))
def test_unpatchify_undoes_patchify(grid, patch, channels):
    shape = tuple(n * p for n, p in zip(grid, patch))
    video = np.arange(2 * np.prod(shape) * channels).reshape(2, *shape, channels)
    tokens = patchify(video, patch)
    assert tokens.shape == (2, np.prod(grid), np.prod(patch) * channels)
    np.testing.assert_array_equal(unpatchify(tokens, patch, grid), video)


def test_a_patch_lies_as_in_a_conv3d():
    video, weight = normal(1, 4, 6, 6, 3), normal(5, 3, 2, 3, 3)
    conv = jax.lax.conv_general_dilated(video, weight, (2, 3, 3), "VALID", dimension_numbers=("NDHWC", "OIDHW", "NDHWC"))
    np.testing.assert_allclose(patchify(video, (2, 3, 3)) @ weight.reshape(5, -1).T, conv.reshape(1, -1, 5), rtol=1e-4, atol=1e-4)


def test_cosine_waves_are_scipys_orthonormal_and_the_first_is_constant():
    waves = cosine_waves((3, 2, 4, 5))
    np.testing.assert_allclose(waves, scipy.fft.dctn(np.eye(120).reshape(120, 3, 2, 4, 5), axes=(1, 2, 3, 4), norm="ortho").reshape(120, 120), atol=1e-6)
    np.testing.assert_allclose(waves.T @ waves, np.eye(120), atol=1e-5)
    np.testing.assert_allclose(waves[:, 0], 120**-0.5, rtol=1e-5)
    ramp = np.broadcast_to(np.arange(5.0), (3, 2, 4, 5)).reshape(-1)
    assert np.count_nonzero(np.abs(waves.T @ ramp) > 1e-4) <= 5, "a ramp along one dim is made of waves along it"
