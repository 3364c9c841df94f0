"""FLOPs a token: the closed form against the jaxpr's count, and the paper's formula out of ours."""
import dataclasses

import jax
import jax.numpy as jnp
import pytest

from core_jax.remat import Remat
from scaling_jax import cost, flops
from tests.counting import counted
from tests.videodit import small
from videodit_jax.model import abstract_model, forward_flops
from videodit_jax.presets import PRESETS, preset


def arguments(config):
    """The model and its inputs for one clip, as shapes."""
    text = {name: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for name, x in config.model.text.tokenize("").items()}
    return (
        abstract_model(config.model),
        jax.ShapeDtypeStruct((1, *config.video, config.model.channels), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.float32),
        text,
        jax.ShapeDtypeStruct((1, len(config.model.scores)), jnp.float32),
    )


@pytest.mark.parametrize("config", [preset("tiny"), preset("0.057b"), small.CONFIG], ids=["tiny", "0.057b", "small"])
def test_the_closed_form_is_what_the_jaxpr_multiplies(config):
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat=Remat.NONE))
    forward = counted(lambda model, *rest: model(*rest), *arguments(config))
    assert forward * 3 == flops.token_flops(config) * flops.tokens(config)
    both = counted(jax.grad(lambda model, *rest: model(*rest).sum()), *arguments(config))
    data = 2 * (flops.tokens(config) * config.model.patch_numbers + config.model.frequencies) * config.model.width
    assert both == 3 * forward - data, "all but the gradients of the video and the time, which nobody asks for"


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("tiny", "stories")])
def test_the_papers_formula_falls_out(name):
    config = preset(name)
    N, n = flops.parameters(config.model), flops.tokens(config)

    def inner(words: int) -> float:
        one = forward_flops(dataclasses.replace(config.model, text=dataclasses.replace(config.model.text, words=words)), config.video)
        return one.attention + one.blocks

    paper = 3 * (2 * inner(1) - inner(2)) / n  # without text, whose share grows in proportion to its words, and ends
    assert paper == cost.of(config, cost.FlopsModel.CROSS_DIT)
    assert (paper == flops.cross_dit_flops(N, n, config.model.width)) is (config.model.mlp == 4 * config.model.width)
    if name not in ("1.3b", "5b", "14b", "30b"):
        assert flops.width_of(N) == pytest.approx(config.model.width)
    assert 1 < flops.token_flops(config) / paper < 1.5


def test_the_papers_value():
    N = 16 * 14 * 1792**2
    assert flops.cross_dit_flops(N, 1280) == pytest.approx(4.1618e9, rel=1e-4)
    assert flops.cross_dit_flops(N, 1280) * 140.56e9 == pytest.approx(5.85e20, rel=1e-4)
    assert cost.TokenFlops(cost.FlopsModel.SIX_N)(N) == 6 * N


def test_counting_loops_and_branches():
    x = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    one = 2 * 4**3
    assert counted(lambda x: jax.lax.scan(lambda y, _: (y @ x, None), x, length=5)[0], x) == 5 * one
    assert counted(lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x), x) == one
    assert counted(jax.vmap(lambda y: y @ y), jax.ShapeDtypeStruct((3, 4, 4), jnp.float32)) == 3 * one
    with pytest.raises(ValueError, match="unknown number of turns"):
        counted(lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ y, x), x)
    assert forward_flops(small.MODEL, small.CONFIG.video).train == flops.token_flops(small.CONFIG) * flops.tokens(small.CONFIG)
