"""Attention as models of others call it: in their shard_map, on their meshes, with lists, in other dtypes, with calls that do not fit."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from core_jax.attention import Implementation, attention

DATA = PartitionSpec("data")
Q = np.random.default_rng(3).normal(size=(2, 6, 2, 8)).astype(np.float32)


def blockwise(q, k, v):
    return attention(q, k, v, implementation=Implementation.BLOCKWISE)


def gradient(function):
    return jax.jit(jax.grad(lambda *inputs: jnp.square(function(*inputs)).sum(), (0, 1, 2)))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_blocks_of_keys_under_a_callers_mesh(kind):
    """Mapped by hand, of a mesh's axes in either mode, and left to an Explicit mesh, which jax.make_mesh makes unasked."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        q = jax.device_put(Q, NamedSharding(mesh, DATA))
        for call in (jax.shard_map(blockwise, in_specs=DATA, out_specs=DATA), blockwise):
            for ours, theirs in zip(gradient(call)(q, q, q), gradient(attention)(Q, Q, Q)):
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_kernels_axes_are_auto():
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:2])):
        with pytest.raises(ValueError, match="axes that are Auto, and data is Explicit"):
            attention(Q, Q, Q, implementation=Implementation.PALLAS)


def test_lists_of_lengths_and_64_bits():
    want = attention(Q, Q, Q, kv_lengths=jnp.array([4, 1]))
    with jax.enable_x64(True):
        for way in (None, Implementation.BLOCKWISE, Implementation.XLA):
            np.testing.assert_allclose(attention(Q, Q, Q, kv_lengths=[4, 1], implementation=way), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(implementation="xla"), "implementation must be one of Implementation.REFERENCE, .*, got 'xla'"),
        (dict(context="ring"), "context must be one of Context.AUTO, .*, got 'ring'"),
        (dict(context=None), "context must be one of"),
        (dict(bias=jnp.ones((1, 2, 6, 6), bool)), "bias is added to the scores and must be floating, got bool"),
        (dict(bias=jnp.ones((0, 2, 6, 6))), r"bias must be \[G 2 6 6\]"),
        (dict(lengths=[1.5, 2]), "lengths must be integers"),
        (dict(lengths=3), r"lengths must be integers of shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, words):
    with pytest.raises(ValueError, match=words):
        attention(Q, Q, Q, **change)


def test_a_traced_scale_is_one_sentence():
    with pytest.raises(ValueError, match="multiply q by one that is"):
        jax.jit(lambda scale: attention(Q, Q, Q, scale=scale))(0.5)
