"""What one (batch, lr) for all runs costs, and whether noise alone could say so."""
import numpy as np
import pytest

from scaling_jax import flops, headline, table
from scaling_jax.published import VIDEO
from tests.scaling import runs
from tests.scaling.runs import fitted


def test_one_choice_for_all_misleads(tmp_path):
    """The same learning rates and batches for all sizes: what one fixed choice loses grows with the distance to its optimum."""
    table = runs.grid(fixed=True, noise=0.0)
    found = fitted(runs.write(tmp_path / "runs.csv", table), "--bootstraps", "100")["fixed"]
    assert found["pairs"] == 49 and found["lr"] in table["lr"] and found["batch"] in table["batch"]
    saved = found["saved"]
    assert saved["fit error saved"] > 0.5 and saved["exponent gap, best"] < saved["exponent gap, fixed"]
    assert saved["parameters saved"] == pytest.approx(1 - found["best"]["N"] / found["fixed"]["N"])
    assert found["paper"]["fit error saved"] == 0.455 and all(found["holds"].values()) and set(found["chance"]) == set(found["holds"]) and found["C"] == 6e18
    assert found["best"]["inference"] == pytest.approx(flops.cross_dit_flops(found["best"]["N"]) / 3)


@pytest.mark.parametrize("best", [0.0, 0.02], ids=["no pair matters", "one is best everywhere"])
def test_what_noise_alone_saves_is_no_claim_that_holds(best):
    """The least of nine noisy losses varies less than each: the law fits it better, whatever the pairs are worth."""
    said, held = 0, 0
    N, T = (axis.ravel() for axis in np.meshgrid(runs.N, runs.T, indexing="ij"))
    n, t, pair = np.repeat(N, 9), np.repeat(T, 9), np.tile(np.arange(9), len(N))
    for seed in range(4):
        loss = VIDEO.loss.law(n, t) * np.exp(best * (pair > 0) + 0.01 * np.random.default_rng(seed).standard_normal(len(n)))
        one = table.Table(n, t, loss, flops.cross_dit_flops(n) * t, 1e4 * 2.0 ** (pair % 3), 1e-4 * 2.0 ** (pair // 3))
        found = headline.compare(one, flops.cross_dit_flops, 100)
        said += found.saved()["fit error saved"] > 0
        held += found.holds()["the loss law fits better"]
        assert found.pairs == 9 and found.best.runs == found.fixed.runs == len(N)
    assert said >= 2 and held <= 1
