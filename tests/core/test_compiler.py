"""Programs that ask their compiler for something."""
import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core_jax import compiler, mesh, state


@functools.partial(compiler.jit, static_argnames="times")
def grown(x, *, times: int):
    return x * times


@pytest.mark.parametrize("around", [jax.jit, jax.vmap, lambda function: functools.partial(jax.eval_shape, function)])
def test_a_program_that_asks_for_options_may_be_a_part_of_another(monkeypatch, around):
    monkeypatch.setattr(compiler, "options", lambda device: {"xla_backend_optimization_level": 2})
    grown.on.cache_clear()
    assert grown(jnp.ones(3), times=2).tolist() == [2, 2, 2]
    assert around(lambda x: grown(x, times=3) + 1)(jnp.ones(3)).shape == (3,)
    assert grown.lower(jnp.ones(3), times=2).compile()(jnp.ones(3)).tolist() == [2, 2, 2]


def test_a_cpu_compiles_at_llvm_s_first_level_unless_told_at_which(monkeypatch):
    (cpu, *_), level = jax.devices("cpu"), "xla_backend_optimization_level"
    assert compiler.options(cpu) == {}, f"the tests' own: {os.environ['XLA_FLAGS']}"
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    assert compiler.options(cpu) == {level: 1}
    assert np.asarray(compiler.jit(jnp.sin)(2.0)) == np.asarray(jax.jit(jnp.sin)(2.0))
    asked = []
    monkeypatch.setattr(jax, "jit", lambda function, compiler_options=None, **settings: asked.append(compiler_options) or function)
    state.create(lambda: jnp.zeros(3), optax.sgd(1.0), mesh.build(devices=[cpu]))
    assert {level: 1} in asked
