"""Runs that disagree with a law, or were left out of it, are told of, and only these."""
import numpy as np
import pytest

from scaling_jax import hyper_fit, size_fit, table
from tests.scaling import runs
from tests.scaling.runs import fitted
from tests.scaling.test_fit import noisy


@pytest.mark.parametrize("off, told", [(0.0, []), (0.02, ["1 of 24 losses disagree with the law, where half of all lie within 0.0"])])
def test_a_loss_that_disagrees_with_the_law_is_named(off, told, tmp_path):
    table = runs.simple()
    table["loss"][7] *= 1 + off
    flags = [flag for flag in fitted(runs.write(tmp_path / "runs.csv", table), "--law", "loss", "--bootstraps", "100")["loss"]["flags"] if "disagree" in flag]
    assert [flag[: len(start)] for flag, start in zip(flags, told, strict=True)] == told
    assert all(flag.endswith(f"% at N {table['N'][7]:.3g}, T {table['T'][7]:.3g})") and "(+2.1" in flag for flag in flags)


@pytest.mark.parametrize("off, told", [(1.0, False), (1.01, False), (1.3, True)])
def test_a_budget_that_disagrees_with_the_law_is_named(off, told):
    rng, rows = np.random.default_rng(0), []
    for i, C in enumerate(np.geomspace(1e17, 1e19, 6)):
        best = 1e-1 * C**0.5 * (off if i == 3 else 1)
        n = best * np.geomspace(0.2, 5, 7)
        rows += [(one, C / (6 * one), 0.5 * (1 + 0.01 * np.log(one / best) ** 2) + 1e-3 * rng.standard_normal(), C) for one in n]
    flags = size_fit.fit(table.Table(*np.array(rows).T), 100).flags
    assert any("the law disagrees with the minimum of 1 of 6 budgets (C 1.58e+18: " in flag for flag in flags) == told == bool(flags)


@pytest.mark.parametrize("off, told", [(0.005, False), (0.1, True)])
def test_a_law_disagrees_with_cells_only_where_that_matters(off, told):
    """However narrow the intervals are, as of losses without noise."""
    one = runs.grid(noise=0.0)
    one["batch"] = one["batch"] * (1 + off * (-1.0) ** np.unique(one["N"], return_inverse=True)[1])
    flags = hyper_fit.fit(table.Table(one["N"], one["T"], one["loss"], one["C"], one["batch"], one["lr"]), 100, 0.02).flags
    assert any("the law of batch disagrees" in flag for flag in flags) == told


@pytest.mark.parametrize("near, told", [(0.02, True), (0.1, False)])
def test_a_surface_of_runs_that_their_own_noise_chose_is_flagged(near, told):
    flags = [flag for flag in hyper_fit.fit(noisy(0.01)[0], 100, near).flags if "scatter" in flag]
    assert bool(flags) is told and all("more than a sixth of --near 0.02" in flag for flag in flags)


def test_surfaces_whose_minimum_lies_outside_the_grid_are_counted():
    exact, truth = noisy(0.0)
    outside = (hyper_fit.least(exact, 1.0)[0].loss > truth * (1 + 1e-6)).sum()
    assert any(f"in {outside} of 12 cells the surface has its minimum outside the grid" in flag for flag in hyper_fit.fit(exact, 100, 1.0).flags)


def test_budgets_of_too_few_sizes_are_counted():
    rows = [(n, C / (6 * n), 0.5 + 0.01 * np.log(n / C**0.5) ** 2, C) for i, C in enumerate(np.geomspace(1e17, 1e19, 5)) for n in (C**0.5 * np.geomspace(0.2, 5, 4))[: 2 if i < 2 else 4]]
    found = size_fit.fit(table.Table(*np.array(rows).T), 100)
    assert len(found.budgets) == 3 and "2 of 5 budgets have fewer than 3 sizes, and their 4 losses are left out" in found.flags
    falling = [(n, T, 1 - 0.01 * i, C) for i, (n, T, _, C) in enumerate(rows[-12:-4])]
    assert "1 budget with a minimum cannot give a law of C: 3 can" in size_fit.fit(table.Table(*np.array([*falling, *rows[-4:]]).T), 100).flags
