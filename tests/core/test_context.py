"""Tokens cut over the context axis: all-to-all, ring and both against the twin on one device."""

from __future__ import annotations

import dataclasses
import logging

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from core_jax.attention import Context, Implementation, attention
from core_jax.attention.context import SHORT_KEYS, Exchange
from core_jax.attention.mask import Mask
from core_jax.attention.reference import reference_attention
from core_jax.mesh import MeshConfig, build
from tests.core.test_attention import Case, any_mask, segment_ids, values_and_gradients

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices")


def by(context: Context, implementation: Implementation):
    """`attention` as the tests of one device call an implementation."""

    def function(q, k, v, bias, mask, scale):
        fields = {field.name: getattr(mask, field.name) for field in dataclasses.fields(Mask)}
        fields["q_offset"] = mask.q_offset if mask.causal else 0
        return attention(q, k, v, bias=bias, scale=scale, return_lse=True, implementation=implementation, context=context, **fields)

    return function


METHODS = [Context.GATHER, Context.ALL_TO_ALL, Context.RING, Context.BOTH]
BLOCKWISE, PALLAS = ({x: by(x, implementation) for x in METHODS} for implementation in (Implementation.BLOCKWISE, Implementation.PALLAS))
LAYOUTS = {
    "gather": (Context.GATHER, MeshConfig(context=4), 2, 1),
    "all-to-all": (Context.ALL_TO_ALL, MeshConfig(context=4), 8, 4),
    "ring": (Context.RING, MeshConfig(context=4), 3, 1),
    "ring of 8": (Context.RING, MeshConfig(context=8), 1, 1),
    "both": (Context.BOTH, MeshConfig(context=4), 4, 2),
    "both, heads split twice": (Context.BOTH, MeshConfig(context=4, tensor=2), 8, 4),
}
each_layout = pytest.mark.parametrize(("context", "mesh", "heads", "kv_heads"), LAYOUTS.values(), ids=LAYOUTS)


def assert_as_on_one_device(function, mesh: MeshConfig, case: Case, devices=None) -> None:
    tolerance = 1e-5 if case.dtype == jnp.float32 else 3e-2
    right = values_and_gradients(reference_attention, case)
    with jax.set_mesh(build(mesh, devices)):
        got = values_and_gradients(function, case)
    assert set(got) == set(right)
    for name, x in got.items():
        np.testing.assert_allclose(x, right[name], rtol=tolerance, atol=tolerance * 2, err_msg=name)


@each_layout
@hypothesis.settings(max_examples=10)
@hypothesis.given(data=st.data())
def test_any_mask(data, context, mesh, heads, kv_heads):
    """Lengths that end in any block, segments across blocks, causal with any offset, queries that see nothing."""
    case = data.draw(any_mask(Case(None, 2, 16, 24, heads, kv_heads, 8)))
    assert_as_on_one_device(BLOCKWISE[context], mesh, case)


@each_layout
def test_without_mask(context, mesh, heads, kv_heads):
    assert_as_on_one_device(BLOCKWISE[context], mesh, Case(Mask(), 2, 16, 16, heads, kv_heads, 8, jnp.bfloat16))


def test_kernel():
    """The TPU kernel, interpreted, both exchanges at once: ragged everywhere, and blocks that end inside a tile."""
    ids = segment_ids(1, 24, 7), segment_ids(1, 40, 11)
    mask = Mask(jnp.array([21]), jnp.array([33]), *ids, q_offset=jnp.int32(9), causal=True)
    with pltpu.force_tpu_interpret_mode():
        assert_as_on_one_device(PALLAS[Context.BOTH], MeshConfig(context=4), Case(mask, 1, 24, 40, 4, 2, 16), jax.devices()[:4])
