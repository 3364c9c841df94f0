"""Which (batch, lr) of a sweep go on."""
import numpy as np
from etils import epath

from core_jax import cli, mesh
from scaling_jax import sweep
from scaling_jax.grid import SweepConfig
from scaling_jax.prune import surviving
from scaling_jax.rows import Rows


def test_pruning_by_each_trials_own_law():
    """Four trials: the best; one behind that falls fast; one hopelessly behind; one that diverged."""
    T = np.array([1e6, 2e6])
    loss = np.array([[1.00, 1.40, 2.0, 3.0], [0.95, 1.15, 1.98, np.nan]])
    assert surviving(T[:1], loss[:1], 8e6).tolist() == [True, True, True, True]
    assert surviving(T, loss, 8e6).tolist() == [True, True, False, False]
    again = np.concatenate([loss, [[0.9, 1.12, np.nan, np.nan]]])
    assert surviving(np.array([1e6, 2e6, 4e6]), again, 8e6).tolist() == [True, False, False, False]


def test_all_seeds_of_a_batch_and_lr_go_on_or_none(tmp_path):
    """By their mean: the second seed of the first pair would be hopeless alone, and the third pair is as a whole."""
    flags = ["--sizes", "1", "--budgets", "1e8", "2e8", "4e8", "--lrs", "1e-3", "2e-3", "4e-3", "--batches", "4", "--seeds", "0", "1", "--prune"]
    config = cli.parse(SweepConfig, [*flags, "--out", str(tmp_path)], "scaling_jax.sweep")
    size, rows = sweep.Size(config, 1, mesh.build()), Rows(epath.Path(tmp_path) / "runs.csv")
    at_rungs = np.array([[1.0, 1.1, 2.0], [1.2, 1.1, 2.1]]), np.array([[0.9, 1.05, 1.99], [1.19, 1.05, 2.09]])
    for rung, losses in zip(size.rungs, at_rungs):
        rows.add(size._rows(rung, losses.ravel(), {name: np.ones(6) for name in ("micro", "whole", "steps")}, np.zeros(6, bool)))
    assert size.alive(rows, size.rungs[:2]).tolist() == [True, True, False] * 2
