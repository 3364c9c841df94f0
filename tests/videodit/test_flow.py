"""Rectified flow: converters that undo each other, samplers on flows whose solution is known, guidance, shift."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit, ndtr, ndtri

from videodit_jax import flow
from videodit_jax.config import SamplingConfig
from videodit_jax.flow import TARGET_OF, FlowConfig, Guidance, Solver, Target, Times

SHAPE = (2, 1, 2, 2, 3)
RNG = np.random.default_rng(0)
X0, EPS = (RNG.standard_normal(SHAPE, np.float32) for _ in range(2))


@given(st.floats(0.02, 0.98), st.floats(0.02, 0.98))
def test_every_target_gives_the_velocity_and_the_velocity_gives_both_ends(a, b):
    t = jnp.asarray([a, b], jnp.float32)
    x = flow.mix(X0, EPS, t)
    for target in Target:
        v = flow.velocity(FlowConfig(target=target), TARGET_OF[target](X0, EPS), x, t)
        np.testing.assert_allclose(v, EPS - X0, atol=1e-3)
    t = t[:, None, None, None, None]
    np.testing.assert_allclose(x - t * (EPS - X0), X0, atol=1e-5)
    np.testing.assert_allclose(x + (1 - t) * (EPS - X0), EPS, atol=1e-5)


@pytest.mark.parametrize("target", Target)
def test_velocities_stay_finite_at_both_ends(target):
    v = flow.velocity(FlowConfig(target=target), X0, EPS, jnp.array([0.0, 1.0]))
    assert jnp.isfinite(v).all()


def test_the_loss_is_zero_for_the_target_alone_and_per_example():
    for target in Target:
        right = TARGET_OF[target](X0, EPS)
        out = right + np.array([0, 2], np.float32)[:, None, None, None, None]
        np.testing.assert_allclose(flow.losses(FlowConfig(target=target), out, X0, EPS), [0, 4], rtol=1e-5)


@pytest.mark.parametrize("solver", Solver)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_point_mass_is_reached_exactly(solver, steps):
    """Its paths are straight lines, so even one step is exact."""
    x0 = flow.sample(lambda x, t: (x - X0) / t, EPS, flow.grid(FlowConfig(shift=2.0), steps), solver)
    np.testing.assert_allclose(x0, X0, atol=1e-5)


MEAN, STD = 0.7, 0.4


def gaussian(x, t):
    """E[ε − x₀ | x_t = x] for data N(MEAN, STD²); from ε it leads to MEAN + STD·ε."""
    variance = (1 - t) ** 2 * STD**2 + t**2
    return -MEAN + (t - (1 - t) * STD**2) / variance * (x - (1 - t) * MEAN)


def error(solver: Solver, steps: int) -> float:
    x0 = flow.sample(gaussian, EPS, flow.grid(FlowConfig(), steps), solver)
    return float(np.abs(x0 - (MEAN + STD * EPS)).max())


def test_gaussian_data_is_sampled_with_errors_of_first_and_second_order():
    euler, heun = ([error(solver, steps) for steps in (8, 16, 32)] for solver in (Solver.EULER, Solver.HEUN))
    assert heun[0] < euler[0] / 3 and heun[2] < euler[2] / 10
    for coarse, fine in zip(euler, euler[1:]):
        assert 1.6 < coarse / fine < 2.4
    for coarse, fine in zip(heun, heun[1:]):
        assert 3.2 < coarse / fine < 5


@pytest.mark.parametrize("solver", Solver)
def test_a_solver_evaluates_as_often_as_is_said(solver):
    calls = []
    with jax.disable_jit():
        flow.sample(lambda x, t: calls.append(t) or x, EPS, flow.grid(FlowConfig(), 5), solver)
    assert len(calls) == SamplingConfig(5, solver).evaluations == (9 if solver is Solver.HEUN else 5)


@pytest.mark.parametrize("solver", Solver)
@pytest.mark.parametrize("cut", [0, 1, 4, 6, 7])
def test_steps_that_are_made_in_two_parts_are_the_same(solver, cut):
    """What a solver carries from step to step goes along."""
    times, whole = flow.grid(FlowConfig(), 7), []
    for parts in ([range(7)], [range(cut), range(cut, 7)]):
        state = flow.begin(EPS, solver)
        for steps in parts:
            state = flow.advance(gaussian, state, times, solver, steps)
        whole.append(state[0])
    np.testing.assert_allclose(*whole, rtol=1e-6)
    np.testing.assert_array_equal(whole[0], flow.sample(gaussian, EPS, times, solver))


def fake(calls: list):
    """A velocity that tells its conditions apart, scores being worth more under text."""

    def v(x, t, tokens, scores):
        calls.append(x.shape[0])
        text, known = tokens["length"] > 0, jnp.isfinite(scores).all(1)
        return x * (1 + 2.0 * text + 5.0 * known + 11.0 * (text & known))[:, None, None, None, None]

    return v


@pytest.mark.parametrize(
    "guidance, evaluations",
    [
        (Guidance(1, 1), 1), (Guidance(0, 0), 1), (Guidance(1, 0), 1), (Guidance(3, 3), 2), (Guidance(3, 0), 2), (Guidance(1, 2.5), 2),
        (Guidance(3, 2), 3),
    ],
)
def test_guidance_is_its_equation_in_as_few_evaluations_as_it_takes(guidance, evaluations):
    calls = []
    tokens, scores = {"length": jnp.array([3, 1])}, jnp.full((2, 2), 0.5)
    no_text = {"length": jnp.zeros(2, int)}
    got = flow.guided(fake(calls), tokens, no_text, scores, guidance)(X0, jnp.float32(0.5))
    nothing, text, both = 1.0, 3.0, 19.0
    want = nothing + guidance.text * (text - nothing) + guidance.scores * (both - text)
    np.testing.assert_allclose(got, want * X0, rtol=1e-5)
    assert calls == [2 * evaluations]


@given(st.floats(1e-3, 1 - 1e-3), st.floats(0.2, 8), st.floats(0.2, 8))
def test_shift_multiplies_the_odds_of_noise(t, a, b):
    shifted = flow._shift(t, a)
    np.testing.assert_allclose(shifted / (1 - shifted), a * t / (1 - t), rtol=1e-6)
    np.testing.assert_allclose(flow._shift(shifted, b), flow._shift(t, a * b), rtol=1e-6)


@given(st.integers(1, 60), st.floats(0.2, 8))
def test_a_grid_falls_from_noise_to_data(steps, shift):
    times = flow.grid(FlowConfig(shift=shift), steps)
    assert len(times) == steps + 1 and times[0] == 1 and times[-1] == 0
    assert (np.diff(times) < 0).all()


@pytest.mark.parametrize("times", Times)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_training_times_follow_their_law_and_the_samplers_shift(times, shift):
    config = FlowConfig(times=times, mean=-0.5, std=0.8, shift=shift)
    t = np.sort(flow.draw_times(config, jax.random.key(0), 4096))
    assert 0 < t[0] and t[-1] < 1
    q = np.linspace(0.05, 0.95, 10)
    law = q if times is Times.UNIFORM else expit(-0.5 + 0.8 * ndtri(q))
    np.testing.assert_allclose(np.quantile(t, q), flow._shift(law, shift), atol=0.03)


@pytest.mark.parametrize("times", Times)
def test_training_times_of_a_batch_lie_evenly_in_their_law(times):
    """One draw for all of them, each time in its own part."""
    t = np.asarray(flow.draw_times(FlowConfig(times=times, mean=-0.5, std=0.8, shift=3.0), jax.random.key(0), 16))
    u = t / (3 - 2 * t)
    u = u if times is Times.UNIFORM else ndtr((logit(u) + 0.5) / 0.8)
    assert (np.floor(16 * u) == np.arange(16)).all() and np.ptp(16 * u - np.arange(16)) < 1e-3


@pytest.mark.parametrize("times", Times)
@pytest.mark.parametrize("between", [(0.875, 1.0), (0.0, 0.9), (0.2, 0.3), (0.9999999, 1.0)])
def test_an_experts_training_times_follow_the_law_of_all_among_its_own(times, between):
    every = FlowConfig(times=times, mean=-0.5, std=0.8, shift=3.0)
    t = np.sort(flow.draw_times(dataclasses.replace(every, between=between), jax.random.key(0), 4096))
    assert np.float32(between[0]) <= t[0] and t[-1] <= np.float32(between[1])
    law = np.asarray(flow.draw_times(every, jax.random.key(0), 400_000))
    if len(law := law[(between[0] < law) & (law < between[1])]) > 1000:
        q = np.linspace(0.02, 0.98, 13)
        np.testing.assert_allclose(np.quantile(t, q), np.quantile(law, q), atol=2e-3)


@pytest.mark.parametrize("between", [(0.5, 0.5), (0.9, 0.1), (-0.1, 0.5), (0.5, 1.1), (0.5, float("nan"))])
def test_times_of_an_expert_that_cannot_be_are_refused(between):
    with pytest.raises(ValueError, match=r"^--flow.between .*: (two rising times are|a number from 0 to 1 is) wanted$"):
        FlowConfig(between=between)


def test_training_times_differ_by_key():
    a, b = (flow.draw_times(FlowConfig(), jax.random.key(i), 16) for i in range(2))
    assert (a != b).all()
