"""Tables of runs drawn from known laws, and what `fit` makes of one."""
import json
from pathlib import Path

import numpy as np

from scaling_jax import fit
from scaling_jax.flops import cross_dit_flops
from scaling_jax.published import VIDEO

N = np.array([16 * layers * (128 * layers) ** 2 for layers in (4, 6, 8, 10)], float)
T = np.array([2, 4, 6, 8, 10, 12]) * 1e9
NOISE = 4.8e-4
CURVATURE = np.array([[0.012, 0.004], [0.004, 0.009]])
"""of log loss in (log lr, log batch)"""


def simple(seed: int = 0, noise: float = NOISE) -> dict[str, np.ndarray]:
    """The paper's four sizes and six token counts with its noise, under its loss law."""
    n, t = (axis.ravel() for axis in np.meshgrid(N, T, indexing="ij"))
    return {"N": n, "T": t, "loss": VIDEO.loss.law(n, t) + noise * np.random.default_rng(seed).standard_normal(len(n))}


def grid(seed: int = 0, noise: float = 1e-4, fixed: bool = False) -> dict[str, np.ndarray]:
    """Learning rates and batches, five each around the paper's optimum of every run or, if `fixed`, the same seven each for all, at
    five sizes of each of five IsoFLOP budgets; log loss is quadratic around the optimum."""
    budgets = np.array([3e17, 6e17, 1e18, 3e18, 6e18])
    rows = []
    for C in budgets:
        best = VIDEO.loss.law.best_size(C, cross_dit_flops)
        for n in best * np.array([0.35, 0.6, 1.0, 1.7, 2.9]):
            t = C / cross_dit_flops(n)
            at = np.array([VIDEO.lr.law(N=n, T=t), VIDEO.batch.law(N=n, T=t)])
            lrs, batches = at[:, None] * 2.0 ** np.arange(-2, 3)
            if fixed:
                lrs, batches = np.array([[3e-4], [4e4]]) * 2.0 ** np.arange(-3, 4)
            for lr in lrs:
                for batch in batches:
                    x = np.log(np.array([lr, batch]) / at)
                    rows.append((n, t, batch, lr, VIDEO.loss.law(n, t) * np.exp(x @ CURVATURE @ x / 2), C))
    table = dict(zip(("N", "T", "batch", "lr", "loss", "C"), np.array(rows).T))
    table["loss"] = table["loss"] + noise * np.random.default_rng(seed).standard_normal(len(rows))
    return table


def write(path, table: dict[str, np.ndarray]):
    """As CSV."""
    lines = [",".join(table)] + [",".join(repr(float(x)) for x in row) for row in zip(*table.values())]
    path.write_text("\n".join(lines) + "\n")
    return path


def fitted(path: Path, *args: str) -> dict:
    """What --json holds."""
    out = path.parent / "laws.json"
    fit.main([str(path), "--json", str(out), *args])
    return json.loads(out.read_text())
