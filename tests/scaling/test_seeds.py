"""Runs of one seed err together, at all T and beside each other: intervals go by seeds where a table has them, and say so where it has none."""
import numpy as np
import pytest

from scaling_jax import table
from scaling_jax.published import VIDEO
from tests.scaling import runs
from tests.scaling.runs import fitted


def seeded(own: float = 0.003) -> dict[str, np.ndarray]:
    """Four sizes, four T, nine pairs, five seeds; what a seed does to a size is the same at all T and pairs."""
    rng, rows = np.random.default_rng(0), []
    for n in runs.N:
        of_seed = own * rng.standard_normal(5)
        for t in runs.T[1:5]:
            for lr, batch in ((lr, batch) for lr in (1e-4, 2e-4, 4e-4) for batch in (2e4, 4e4, 8e4)):
                x = np.log([lr / 2e-4, batch / 4e4])
                loss = VIDEO.loss.law(n, t) * np.exp(2 * x @ runs.CURVATURE @ x + of_seed + 1e-4 * rng.standard_normal(5))
                rows += [(n, t, batch, lr, one, seed) for seed, one in enumerate(loss)]
    return dict(zip(("N", "T", "batch", "lr", "loss", "seed"), np.array(rows).T))


def test_errors_are_those_of_a_mean_over_seeds_drawn_for_each_size(tmp_path):
    read = table.read(runs.write(tmp_path / "runs.csv", seeded()))
    assert len(read) == 4 * 4 * 9 and read.seeds.shape == (144, 5) and read.seeded
    errors, first = read.errors(4000), read.N == read.N[0]
    assert np.corrcoef(errors[:, first].T).min() > 0.98, "of one size all go together"
    assert np.abs(np.corrcoef(errors[:, ~first].mean(1), errors[:, first].mean(1))[0, 1]) < 0.05
    deviation = np.log(read.seeds[first] / read.loss[first, None]).std(1, ddof=1)
    assert errors[:, first].std(0) == pytest.approx(deviation / np.sqrt(5) * np.sqrt(16 / 14), rel=0.03), "Student's t of four sizes of five seeds"


def test_a_run_of_one_seed_tells_nothing_of_seeds(tmp_path):
    one = {name: column[1:] for name, column in seeded().items()}
    assert table.read(runs.write(tmp_path / "runs.csv", one)).seeded, "four of five are enough"
    few = {name: column[4:] for name, column in seeded().items()}
    assert not table.read(runs.write(tmp_path / "runs.csv", few)).seeded
    assert not table.read(runs.write(tmp_path / "runs.csv", {name: column for name, column in seeded().items() if name != "seed"})).seeded


def test_intervals_by_seeds_are_wider_where_seeds_err_alike_at_all_T(tmp_path, capsys):
    rows = seeded()
    by_seeds = fitted(runs.write(tmp_path / "runs.csv", rows), "--law", "loss", "--bootstraps", "150")
    assert "the errors of means over seeds, drawn for each size" in " ".join(capsys.readouterr().out.split())
    alone = fitted(runs.write(tmp_path / "runs.csv", {name: column for name, column in rows.items() if name != "seed"}), "--law", "loss", "--bootstraps", "150")
    assert "take every run to err by itself" in " ".join(capsys.readouterr().out.split())
    width = lambda found, kind: np.ptp(found["loss"]["params"]["alpha"][kind])
    assert by_seeds["loss"]["params"]["alpha"]["value"] == pytest.approx(alone["loss"]["params"]["alpha"]["value"])
    assert width(by_seeds, "bootstrap") > 1.5 * width(alone, "bootstrap") and width(by_seeds, "interval") >= width(by_seeds, "bootstrap")
    chance = [found["loss"]["leave_largest_out"]["chance"][1] for found in (by_seeds, alone)]
    assert chance[0] > 3 * chance[1] and by_seeds["seeded"] is True and alone["seeded"] is False
