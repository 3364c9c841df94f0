"""Programs that ask their compiler for something."""
import functools

import jax
import jax.numpy as jnp
import pytest

from core_jax import compiler


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
