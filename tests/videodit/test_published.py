"""The comparison with published steps, without compiling them."""
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.attention import attention
from core_jax.attention.tiles import Tile
from core_jax.pod.compiled import Misfit
from core_jax.pod.estimate import STEP, Calls, Estimate
from core_jax.pod.plan import Plan
from core_jax.pod.topology import parse
from core_jax.remat import Remat
from videodit_jax import model, published
from videodit_jax.model import forward_flops
from videodit_jax.peers import Splash
from videodit_jax.search import Of, divides


@pytest.mark.parametrize("one", (*published.PUBLISHED, published.PEER), ids=lambda one: one.name)
def test_each_step_is_the_published_size(one):
    config = one.config(one.remat)
    assert np.prod(config.model.grid(config.video)) == 75_600
    flops = forward_flops(config.model, config.video)
    assert 0.6 < flops.attention / (flops.train / 3) < 0.75, "attention is 72 % of theirs"
    which = parse(one.topology)
    devices = which.chips * which.chip.devices
    assert np.prod(config.mesh.shape(devices)) == devices
    ours = one.ours()
    assert divides(ours, which) and ours.mesh.data == 1 and ours.mesh.context == config.mesh.context, "no copies of our state, which would not fit"
    assert (ours.batch, ours.video, ours.model.remat) == (config.batch, config.video, published.OURS if one.of is Of.TRAIN else Remat.NONE)
    assert config.sampling.evaluations == 2, "with the prompt and without it"


@pytest.mark.parametrize(
    "measured, seconds, error, valid",
    [(36.0, 36.0, 0.0, True), (36.0, 44.0, 44 / 36 - 1, True), (36.0, 20.0, 20 / 36 - 1, False), (36.0, None, None, False), (math.nan, 30.0, None, False)],
)
def test_the_error_of_an_estimate(measured, seconds, error, valid):
    one = dataclasses.replace(published.PUBLISHED[0], seconds=measured)

    def found(step):
        misfit = Misfit(3 * 2**30, 2**30) if step is None else None
        return Plan(parse(one.topology), {"data": 1}, {}, 0.0, misfit, estimate=step and Estimate({}, step, 0.0, {}, 0.0, {}, ()))

    figures = published.row(one, found(seconds), found(20.0))
    assert (figures["error"], figures["valid"]) == (error, valid) and figures["ratio"] == (seconds and seconds / 20)
    cells = published.cells(figures)
    assert len(cells) == len(published.HEAD) and ("2.00 GiB more" in cells[4]) == (seconds is None)


def test_their_attention_takes_what_its_schedule_leaves(monkeypatch):
    """With two backward kernels seven products are executed, and the share of peak counts five."""
    asked = []
    monkeypatch.setattr(published, "figures", lambda call: asked.append(call) or {"forward": {"peak_share": 0.25}, "backward": {"peak_share": 0.5}})
    which = parse("tpu7x-64")
    second, tile = which.chip.peak, 2 * 512 * 1024 * 128  # FLOPs of one at full share, and of a product of a tile
    flops = {"splash_mha_fwd": second, "splash_mha_dkv": 4 * second, "splash_mha_dq": 3 * second}
    kernels = {(name, 128): Calls(n) for name, n in flops.items()} | {("attention_forward", 128): Calls(0.61 * second, 1e6)}
    plan = Plan(which, {"data": 1}, {}, 0.0, estimate=Estimate({}, 2.0, 8.0, kernels, 0.0, {}, ()))
    made = published.by_schedule(plan, Splash(512, 1024, 512, fused=False))
    steps = second / 2 / tile + 4 * second / 4 / tile + 3 * second / 3 / tile + 1e6
    assert made.attention == pytest.approx(1 / 0.25 + 5 / 0.5 + 1 + STEP * steps) and made.step == pytest.approx(2 + made.attention)
    assert (asked[0].chip, asked[0].seq, asked[0].tile, asked[0].blocks.fused) == ("tpu7x", 75_600, Tile(512, 1024), False)
    kernels = {("splash_mha_dkv", 128): Calls(5 * second)}
    plan = dataclasses.replace(plan, estimate=dataclasses.replace(plan.estimate, kernels=kernels))
    assert published.by_schedule(plan, Splash(512, 1024, 512)).attention == pytest.approx(5 / 0.5 + STEP * second / tile)


def test_their_attention_is_attention():
    """On a CPU their kernel is interpreted, with the tiles of a large call."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 1030, 1, 128))
    before = model.attention
    with published.their_attention(Splash(1024, 2048, 1024)):
        assert model.attention is not before
        out = model.attention(q, k, v)
    assert model.attention is before
    np.testing.assert_allclose(out, attention(q, k, v), atol=2e-5)
    assert jnp.isfinite(out).all()
