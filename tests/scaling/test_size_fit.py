"""IsoFLOP curves that lean: the size of least loss, exactly where they are what the fit takes them for, and nearly where a law of N and T makes them."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling_jax import size_fit
from scaling_jax.laws import LossLaw
from scaling_jax.table import Table

HOFFMANN = LossLaw(1.69, 406.4, 0.34, 410.7, 0.28)
STEEP = LossLaw(0.3, 400.0, 0.4, 100.0, 0.25)
"""β − α = −0.15: a parabola's minimum is 8 % too large"""
BUDGETS = np.geomspace(1e18, 3e19, 5)


def best(law: LossLaw, C) -> np.ndarray:
    """Where the law's loss is least at C = 6·N·T."""
    return (law.alpha * law.A * (C / 6) ** law.beta / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))


def isoflop(law: LossLaw, noise: float, seed: int = 0, sizes: int = 7, ratio: float = 64.0, off: float = 0.0) -> Table:
    """Curves around the best size of each budget, but for a factor of up to e^off; the errors of losses are relative."""
    rng = np.random.default_rng(seed)
    middle = np.log(best(law, BUDGETS)) + rng.uniform(-off, off, len(BUDGETS))
    N = np.exp(middle[:, None] + np.linspace(-0.5, 0.5, sizes) * np.log(ratio))
    T = BUDGETS[:, None] / 6 / N
    loss = law(T=T, N=N) * np.exp(noise * rng.standard_normal(N.shape))
    return Table(N=N.ravel(), T=T.ravel(), loss=loss.ravel(), C=np.repeat(BUDGETS, sizes))


@given(st.floats(-1, 1), st.floats(0.1, 3), st.floats(-1.5, 1.5), st.floats(0.5, 2))
def test_a_leaning_curve_is_found_exactly(s, q, u, level):
    x = np.linspace(-2, 2, 9)
    c = q * np.exp(-s * u)  # the curve around u, written around 0: a + b·x + c·(e^{s·x} − 1 − s·x)/s²
    b = -c * (np.expm1(s * u) / s if abs(s) > 1e-9 else u)
    loss = size_fit.terms(x, 0.0, s) @ [level, b, c]
    around = size_fit.terms(x, u, s)[:, 2] * q
    assert np.ptp(loss - around) < 1e-9 * (1 + np.abs(loss).max())
    assert size_fit._lowest(np.array(b), np.array(c), np.array(s)) == pytest.approx(u, abs=1e-6)


def test_minima_of_a_law_are_found_where_a_parabola_misses_them():
    table = isoflop(STEEP, 0.0)
    found = size_fit.fit(table, 100)
    off = np.log([budget.N_opt for budget in found.budgets]) - np.log(best(STEEP, BUDGETS))
    x, y = np.log(table.N[:7] / best(STEEP, BUDGETS[0])), table.loss[:7]
    parabola = np.polyfit(x, y, 2)
    assert abs(off).max() < 0.004 and -parabola[1] / (2 * parabola[0]) > 0.07
    assert found.lean == pytest.approx(STEEP.beta - STEEP.alpha, abs=0.01)
    assert found.law.C == pytest.approx(STEEP.beta / (STEEP.alpha + STEEP.beta), abs=1e-3)


def test_runs_that_tell_it_little_leave_the_lean_near_0_and_say_so():
    found = size_fit.fit(isoflop(STEEP, 0.02, sizes=4, ratio=4.0), 1000)
    assert abs(found.lean) < 0.05 and 0.7 * size_fit.LEAN < np.std(found.leans) < 2 * size_fit.LEAN


def test_three_sizes_a_budget_are_a_parabola_each_without_interval():
    table = isoflop(HOFFMANN, 1e-3, sizes=3, ratio=16.0)
    found = size_fit.fit(table, 100)
    for i, budget in enumerate(found.budgets):
        x = np.log(table.N[3 * i : 3 * i + 3])
        a, b, _ = np.polyfit(x - x.mean(), table.loss[3 * i : 3 * i + 3], 2)
        assert np.log(budget.N_opt) == pytest.approx(x.mean() - b / (2 * a), rel=1e-6) and np.isnan(budget.draws).all()
    assert found.lean == 0 and any("leaves no error to go by" in flag for flag in found.flags)


@pytest.mark.parametrize("law, sizes, ratio", [(HOFFMANN, 7, 64.0), (HOFFMANN, 4, 16.0), (STEEP, 5, 16.0)])
def test_intervals_cover_the_true_size_and_exponent(law, sizes, ratio):
    hits, tables, C = np.zeros(3), 40, np.array([5e18, 3e20])
    for seed in range(tables):
        found = size_fit.fit(isoflop(law, 1e-3, seed, sizes, ratio, off=0.5), 400)
        spans = [np.nanpercentile(draws, [2.5, 97.5]) for draws in (found.draws.C, found.draws(C=C[0]), found.draws(C=C[1]))]
        truths = law.beta / (law.alpha + law.beta), *best(law, C)
        hits += [low <= truth <= high for (low, high), truth in zip(spans, truths)]
    assert (hits / tables >= 0.85).all()
