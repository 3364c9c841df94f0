"""The attention kernel through the real TPU compiler, which needs no TPU."""

from __future__ import annotations

import functools
import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from core_jax.attention import Context, attention
from core_jax.remat import keeps_attention, keeps_products

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, the TPU compiler"),
    pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache"),  # it cannot hold such programs
]

SLICES = {"v5e": "v5e:2x4", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}


@functools.cache
def mesh_of(chip: str, *sizes: int) -> Mesh:
    devices = topologies.get_topology_desc(platform="tpu", topology_name=SLICES[chip]).devices
    sizes = sizes or (1, 1, 1, 1)
    return Mesh(np.array(devices[: np.prod(sizes)]).reshape(sizes), ("data", "fsdp", "context", "tensor"))


def compiled(mesh: Mesh, q, k, dtype=jnp.bfloat16, bias=None, spec=PartitionSpec(), policy=None, **options):
    """A compiled call and its gradient; `options` are those of attention, shapes standing for arrays of int32."""

    def array(shape, dtype, spec=PartitionSpec()):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    fixed = {name: x for name, x in options.items() if isinstance(x, (bool, Context))}
    arrays = {name: array(x, jnp.int32) for name, x in options.items() if name not in fixed}

    def loss(q, k, v, bias, arrays):
        out, lse = attention(q, k, v, bias=bias, return_lse=True, **arrays, **fixed)
        return out.astype(jnp.float32).sum() + jnp.sin(lse).sum()

    if policy is not None:
        loss = jax.checkpoint(loss, policy=policy)
    inputs = array(q, dtype, spec), array(k, dtype, spec), array(k, dtype, spec), bias and array(bias, jnp.float32)
    step = jax.value_and_grad(loss, (0, 1, 2, 3) if bias else (0, 1, 2))
    with jax.set_mesh(mesh):
        return jax.jit(step).lower(*inputs, arrays).compile()


def kernels(program) -> dict[str, int]:
    """How often each kernel is called in a compiled program."""
    calls = [line for line in program.as_text().splitlines() if "custom_call_target=\"tpu_custom_call\"" in line]
    names = ("attention_forward", "attention_backward", "attention_dbias")
    return {name: sum(name in line for line in calls) for name in names}


@pytest.mark.parametrize("chip", SLICES)
def test_every_feature_compiles(chip):
    """Ragged lengths, q ≠ k, a padded head dim, fewer key-value heads, bias, lengths, segments, a traced offset."""
    program = compiled(
        mesh_of(chip), (2, 200, 2, 80), (2, 300, 1, 80), bias=(1, 2, 200, 300), lengths=(2,), kv_lengths=(2,),
        segments=(2, 200), kv_segments=(2, 300), causal=True, q_offset=(),
    )  # fmt: skip
    assert set(kernels(program).values()) == {1}


@pytest.mark.parametrize(
    ("chip", "length", "dim", "dtype"), [("v5p", 44 * 1024, 128, jnp.bfloat16), ("v5e", 4096, 64, jnp.float32), ("v6e", 4096, 256, jnp.bfloat16)]
)
def test_largest_tiles_fit_the_chip(chip, length, dim, dtype):
    """On v5p beside the gradients of as many queries as one go takes. And there is no array of queries × keys: the program needs little more
    than its inputs."""
    program = compiled(mesh_of(chip), (1, length, 1, dim), (1, length, 1, dim), dtype)
    assert program.memory_analysis().temp_size_in_bytes < 4096 * length


def test_what_the_kernel_does_not_take():
    """Half precision is left to XLA, and beside 64-bit numbers the kernel's own stay of 32: both ended in the compiler."""
    assert not any(kernels(compiled(mesh_of("v5e"), (1, 200, 2, 64), (1, 200, 2, 64), jnp.float16)).values())
    with jax.enable_x64(True):
        program = compiled(mesh_of("v5e"), (1, 200, 2, 64), (1, 200, 2, 64), kv_lengths=(1,), causal=True)
    assert kernels(program)["attention_forward"] == 1


def test_mesh_of_eight():
    """Batch, queries and heads split: keys are gathered, their gradients summed, queries stay where they are."""
    program = compiled(
        mesh_of("v5e", 2, 1, 2, 2), (2, 512, 2, 128), (2, 512, 2, 128), spec=PartitionSpec("data", "context", "tensor"),
        causal=True, q_offset=(),
    )  # fmt: skip
    assert kernels(program) == {"attention_forward": 1, "attention_backward": 1, "attention_dbias": 0}
    text = program.as_text()
    assert "all-gather" in text and ("all-reduce" in text or "reduce-scatter" in text)


def test_ring_transfers_under_its_kernels():
    """In the loop over hops, forward and backward, every block sets off before the kernel and is waited for after it."""
    program = compiled(
        mesh_of("v5e", 2, 1, 4, 1), (2, 2048, 1, 128), (2, 2048, 1, 128), spec=PartitionSpec("data", "context"), context=Context.RING
    )  # fmt: skip
    text = program.as_text()
    assert not any(name in text for name in ("all-gather", "all-to-all"))
    loops = [body for body in text.split("\n\n") if "collective-permute-start(" in body and "ENTRY" not in body]
    assert len(loops) == 2, "one loop forward, one backward"
    for body in loops:
        starts, ends, kernel = (
            [i for i, line in enumerate(body.splitlines()) if word in line]
            for word in (" collective-permute-start(", " collective-permute-done(", "tpu_custom_call")
        )
        assert len(starts) == len(ends) and max(starts) < min(kernel) and max(kernel) < min(ends)


def test_all_to_all_gathers_nothing():
    program = compiled(
        mesh_of("v5e", 2, 1, 4, 1), (2, 512, 4, 128), (2, 512, 4, 128), spec=PartitionSpec("data", "context"),
        context=Context.ALL_TO_ALL,
    )  # fmt: skip
    assert kernels(program) == {"attention_forward": 1, "attention_backward": 1, "attention_dbias": 0}
    text = program.as_text()
    assert " all-to-all(" in text and not any(name in text for name in ("all-gather", "collective-permute"))


@pytest.mark.parametrize(
    ("policy", "keys", "forwards"), [(keeps_attention, 640, 1), (keeps_attention, 512, 2), (keeps_products, 512, 1), (jax.checkpoint_policies.nothing_saveable, 640, 2)]
)
def test_saved_by_name_the_forward_runs_once(policy, keys, forwards):
    program = compiled(mesh_of("v5e"), (1, 256, 1, 128), (1, keys, 1, 128), policy=policy)
    assert kernels(program)["attention_forward"] == forwards
