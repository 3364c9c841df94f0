"""The published laws give the values that their papers print, and units and minima are right."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling_jax import others
from scaling_jax.flops import cross_dit_flops
from scaling_jax.laws import LossLaw, PowerLaw
from scaling_jax.published import PAPER, VIDEO, VIDEO_SIZE_FROM_LOSS


@pytest.mark.parametrize("T, N, loss", [(10e9, 1.0737e9, 0.51267), (140.56e9, 0.71932e9, 0.50352), (4e9, 1.0737e9, 0.51851)])
def test_the_video_loss_law_prints_the_papers_losses(T, N, loss):
    assert VIDEO.loss.law(N, T) == pytest.approx(loss, abs=2e-5)


@pytest.mark.parametrize("T, batch, lr", [(10e9, 1.419e5, 1.78e-4), (4e9, 6.77e4, 1.86e-4)])
def test_the_video_batch_and_learning_rate(T, batch, lr):
    N = 1.0737e9
    assert VIDEO.batch.law(N=N, T=T) == pytest.approx(batch, rel=2e-3) and VIDEO.lr.law(N=N, T=T) == pytest.approx(lr, rel=5e-3)
    low, high = VIDEO.lr.interval(lambda law: law(N=N, T=T))
    assert low < 0.77 * lr and high > 1.23 * lr, "0.0002 has one digit"
    low, high = VIDEO.batch.interval(lambda law: law(N=N, T=T))
    assert 0.999 * batch < low < high < 1.001 * batch


def test_the_video_sizes():
    N = VIDEO.size.law(C=np.array([3e17, 6e17, 1e18, 3e18, 6e18]))
    np.testing.assert_allclose(N / 1e6, [27.8, 37.1, 45.8, 72.3, 96.3], atol=0.06)
    assert VIDEO.size.law(C=1e22) == pytest.approx(2.09e9, rel=5e-3)
    predicted = VIDEO_SIZE_FROM_LOSS.law(C=1e22)
    assert predicted == pytest.approx(2.435e9, rel=1e-3)
    assert predicted == pytest.approx(PAPER["N best"], abs=0.006e9)
    assert 1 - PAPER["N best"] / PAPER["N fixed"] == pytest.approx(PAPER["parameters saved"], abs=5e-4)


def test_the_open_inconsistency_of_the_video_laws():
    """The loss law's own minimum is 0.112·C^0.4775, which is not the paper's Eq. 18."""
    C = np.geomspace(3e17, 1e22, 5)
    best = np.array([VIDEO.loss.law.best_size(c, cross_dit_flops) for c in C])
    exponent, log_k = np.polyfit(np.log(C), np.log(best), 1)
    assert exponent == pytest.approx(0.4775, abs=5e-4) and np.exp(log_k) == pytest.approx(0.112, rel=0.03)
    assert best[-1] == pytest.approx(3.58e9, rel=2e-3)


def test_the_laws_of_other_models():
    found = others.at(1e20, N=1e9, T=1e11)
    assert others.CHINCHILLA.law.exponent == pytest.approx(0.46, abs=0.01)
    assert 6 * found[others.HOFFMANN]["N"] * found[others.HOFFMANN]["T"] == pytest.approx(1e20, rel=1e-6)
    assert 6 * found[others.DEEPSEEK]["N"] * found[others.DEEPSEEK]["T"] == pytest.approx(1e20, rel=1e-3)
    assert 6 * found[others.LIANG]["N"] * found[others.LIANG]["T"] == pytest.approx(1e20, rel=0.05)
    assert found[others.STEP]["batch"] == pytest.approx(0.58 * 1e11**0.571)
    assert found[others.STEP]["lr"] == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)


@given(st.floats(0.1, 1), st.floats(0.1, 1), st.floats(-2, 2), st.floats(18, 24))
def test_the_minimum_at_six_flops_a_parameter_and_token(alpha, beta, log_ratio, log_C):
    """Hoffmann et al., Eq. 4: N_opt = G·(C/6)^a, G = (αA/βB)^(1/(α+β))."""
    law, C = LossLaw(1.0, 400 * 10**log_ratio, alpha, 400.0, beta), 10**log_C
    G = (alpha * law.A / (beta * law.B)) ** (1 / (alpha + beta))
    expected = G * (C / 6) ** law.exponent
    assert law.best_size(C, lambda N: 6 * N) == pytest.approx(np.clip(expected, 1e1, 1e16), rel=1e-5)


@given(st.floats(0.2, 0.5), st.floats(0.2, 0.5), st.floats(0.5, 8))
def test_the_minimum_in_the_form_of_a_norm(alpha, beta, p):
    law, N = LossLaw(1e-3, 400.0, alpha, 400.0, beta, p), np.geomspace(1e3, 1e17, 50_001)
    least = N[law(N, 1e20 / (6 * N)).argmin()]
    assert law.best_size(1e20, lambda N: 6 * N) == pytest.approx(least, rel=1e-3)
    assert np.log(law.best_size(1e22, lambda N: 6 * N) / law.best_size(1e20, lambda N: 6 * N)) == pytest.approx(law.exponent * np.log(100), abs=1e-5)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.5, 8), st.floats(1e6, 1e10), st.floats(1e6, 1e12))
def test_units_change_the_constants_not_the_values(a, b, p, N, T):
    assert LossLaw(0.5, 0.01, a, 0.04, b, p).from_unit(1e9)(N, T) == pytest.approx(LossLaw(0.5, 0.01, a, 0.04, b, p)(N / 1e9, T / 1e9))
    assert PowerLaw(3.0, N=a, T=b).from_unit(1e9)(N=N, T=T) == pytest.approx(PowerLaw(3.0, N=a, T=b)(N=N / 1e9, T=T / 1e9))
