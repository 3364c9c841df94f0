"""Tokens cut over the context axis: all-to-all, ring and both against the twin on one device."""

from __future__ import annotations

import dataclasses
import logging

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas import tpu as pltpu

from core_jax.attention import Context, Implementation, attention
from core_jax.attention.context import SHORT_KEYS, Exchange
from core_jax.attention.mask import Mask
from core_jax.attention.reference import reference_attention
from core_jax.mesh import MeshConfig, build
from tests.core.test_attention import Case, any_mask, assert_alike, segment_ids, values_and_gradients

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
    assert_alike(got, right, tolerance)


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


# ---- The choice -----------------------------------------------------------------------------------------------------


def chosen(method: Context, heads: int, tokens: int, mesh: MeshConfig, *, keys=None, kv_heads=None, biased=False) -> Exchange | None:
    """The exchange of such a call of eight batch elements."""
    q = jax.ShapeDtypeStruct((8, tokens, heads, 8), jnp.float32)
    k = jax.ShapeDtypeStruct((8, keys or tokens, kv_heads or heads, 8), jnp.float32)
    with jax.set_mesh(build(mesh)):
        return method.exchange(q, k, biased)


def test_auto_follows_head_count_and_length():
    long, four = 2 * SHORT_KEYS, MeshConfig(data=2, context=4)
    assert chosen(Context.AUTO, 8, long, four) == Exchange("context", 4, 1)
    assert chosen(Context.AUTO, 6, long, four) == Exchange("context", 2, 2)
    assert chosen(Context.AUTO, 8, long, four, kv_heads=1) == Exchange("context", 1, 4)
    assert chosen(Context.AUTO, 8, long, MeshConfig(context=4, tensor=2)) == Exchange("context", 4, 1)
    assert chosen(Context.AUTO, 4, long, MeshConfig(context=4, tensor=2)) == Exchange("context", 2, 2)
    assert chosen(Context.AUTO, 8, SHORT_KEYS, four) is None, "few keys are gathered"
    assert chosen(Context.AUTO, 8, long, four, keys=512) is None, "a text is whole everywhere"
    assert chosen(Context.AUTO, 8, long, four, biased=True) is None
    assert chosen(Context.AUTO, 8, long + 2, four) is None
    assert chosen(Context.RING, 8, 7, MeshConfig()) is None, "tokens are not cut"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (dict(method=Context.ALL_TO_ALL, heads=6, tokens=8), "^context all-to-all needs heads that the 4 devices of the mesh axis context divide, got 6 heads and 6 key-value heads"),
        (dict(method=Context.ALL_TO_ALL, heads=8, tokens=8, kv_heads=2), "got 8 heads and 2 key-value heads on each device: ring takes any, both exchanges heads in groups of 2$"),
        (dict(method=Context.RING, heads=1, tokens=18), "4 devices of the mesh axis context divide, got 18 queries"),
        (dict(method=Context.BOTH, heads=1, tokens=8, keys=6), "got 6 keys"),
        (dict(method=Context.RING, heads=1, tokens=8, biased=True), "^context ring takes no bias: gather does$"),
    ],
)
def test_what_does_not_divide_is_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        chosen(**call, mesh=MeshConfig(data=2, context=4))


def test_a_named_method_chooses_its_implementation(caplog):
    """Where keys are few a CPU takes REFERENCE, which knows of no blocks; asked for by name it cannot run."""
    q = jnp.ones((8, 12, 1, 7))
    with jax.set_mesh(build(MeshConfig(data=2, context=4))), caplog.at_level(logging.INFO, "core_jax.attention"):
        jax.eval_shape(lambda q: attention(q, q, q, context=Context.RING), q)
        with pytest.raises(ValueError, match="Context.RING runs on PALLAS and BLOCKWISE, not on Implementation.XLA"):
            attention(q, q, q, context=Context.RING, implementation=Implementation.XLA)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"attention of q{list(q.shape)} over k{list(q.shape)} in float32: BLOCKWISE, {Exchange('context', 1, 4)}"]
