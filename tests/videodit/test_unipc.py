"""UniPC: equal to diffusers', of second order, exact where the data is one clip."""
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videodit_jax import flow
from videodit_jax.flow import FlowConfig, Solver

EPS = np.random.default_rng(0).standard_normal((1, 1, 2, 2, 3)).astype(np.float32)


def curved(x, t, library=jnp):
    return library.sin(1.3 * x + 2 * t) + 0.3 * x * t


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_it_is_the_scheduler_of_diffusers(steps):
    torch = pytest.importorskip("torch", reason="torch is in the `reproduce` extra")
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in the `reproduce` extra")
    scheduler = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(steps)
    x, times = torch.from_numpy(EPS), scheduler.sigmas.numpy()
    for t, time in zip(times, scheduler.timesteps):
        x = scheduler.step(curved(x, float(t), torch), time, x).prev_sample
    for begin, off in ((times[0], 3e-6), (np.float32(1), 1e-5)):  # theirs a little below 1
        ours = flow.sample(curved, jnp.asarray(EPS), np.array([begin, *times[1:]]), Solver.UNIPC)
        np.testing.assert_allclose(ours, x, atol=off)


def test_its_error_falls_with_the_square_of_the_steps():
    def solved(steps, solver):
        return flow.sample(curved, jnp.asarray(EPS), flow.grid(FlowConfig(), steps), solver)

    truth = solved(2000, Solver.HEUN)
    error = {n: float(jnp.abs(solved(n, Solver.UNIPC) - truth).max()) for n in (10, 20, 40)}
    assert error[40] < error[20] / 2.5 < error[10] / 6
    assert error[20] < float(jnp.abs(solved(20, Solver.EULER) - truth).max()) / 8


@given(st.lists(st.floats(0.01, 0.99), min_size=0, max_size=6, unique=True))
def test_all_noise_leads_to_the_one_clip_there_is(between):
    times = np.array([1.0, *sorted(between, reverse=True), 0.0], np.float32)
    if len(set(times.tolist())) < len(times):
        return
    found = flow.sample(lambda x, t: (x - 0.7) / t, jnp.asarray(EPS), times, Solver.UNIPC)
    np.testing.assert_allclose(found, np.full_like(EPS, 0.7), atol=2e-4)
