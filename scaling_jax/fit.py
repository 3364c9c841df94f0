"""`python -m scaling_jax.fit TABLE`: fits the laws of loss, batch, learning rate and size to a table of runs, with intervals."""
import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import numpy as np
import tyro

from core_jax import cli
from core_jax.numbers import FROM_0, POSITIVE, at_least, refuse
from core_jax.words import counted
from scaling_jax import fit_report, headline, holdout, hyper_fit, loss_fit, results, size_fit, table
from scaling_jax.cost import FlopsModel, TokenFlops
from scaling_jax.flops import PAPER_ASPECT, PAPER_TOKENS
from scaling_jax.laws import Form, PowerLaw
from scaling_jax.published import PAPER
from scaling_jax.table import Table

SAME = 0.01
"""by which two counts of FLOPs may differ, in log"""
OFF, MATTERS = 6.0, 1e-3
"""a loss disagrees with the law from so many times the usual error on, and from this part of the loss on"""
KEPT = 1000
"""draws that are written to the file, for predict's intervals"""


class Which(enum.Enum):
    """The laws to fit."""

    LOSS = "loss"
    """L(T, N) = E + A·N^−α + B·T^−β, from the least loss of each (N, T)"""
    HYPER = "hyper"
    """B_opt and η_opt of T and N, from near-optimal runs"""
    SIZE = "size"
    """N_opt(C), from IsoFLOP curves"""
    ALL = "all"
    """whatever the table has enough runs for"""


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """How to read a table of runs (CSV or Parquet: N, T, batch, lr, loss in counts)."""

    table: tyro.conf.Positional[str]
    """table of runs, one row a run"""
    columns: tuple[str, ...] = ()
    """which column is which, where the names differ: "N=Model Size" "C=Training FLOP" """
    unit_N: float | None = None
    """parameters that an N of 1 stands for: 1e9 for billions"""
    unit_T: float | None = None
    """tokens that a T of 1 stands for"""
    flops: FlopsModel = FlopsModel.CROSS_DIT
    """how training FLOPs a token follow from N"""
    clip_tokens: float = PAPER_TOKENS
    """video tokens of a clip, for --flops cross-dit"""
    aspect: float = PAPER_ASPECT
    """width over layers in the family, for --flops cross-dit"""
    preset: str = "tiny"
    """preset of the family, for --flops whole"""
    drop_highest: int = 0
    """leave out this many runs of the highest loss (Besiroglu et al. 2024 leave out 5 of Chinchilla's)"""
    skip_diverged: bool = False
    """leave out runs whose loss is not finite"""

    def __post_init__(self):
        refuse(self, {FROM_0: "drop_highest", POSITIVE: "unit_N unit_T clip_tokens aspect"})

    @property
    def token_flops(self) -> TokenFlops:
        return TokenFlops(self.flops, self.clip_tokens, self.aspect, self.preset)


@dataclasses.dataclass(frozen=True)
class FitConfig(TableConfig):
    """Fit scaling laws to a table of runs (CSV or Parquet: N, T, batch, lr, loss in counts)."""

    law: Which = Which.ALL
    """loss: L(N, T); hyper: batch and learning rate; size: N_opt(C); all: whatever the table has enough runs for"""
    form: Form = Form.SUM
    """form of the loss law. sum: E + A·N^−α + B·T^−β, the paper's; norm: the p-norm of these three, p fitted too; larger sizes gain more by tokens"""
    json: str | None = None
    """write the laws here, for predict and plot"""
    near: float = hyper_fit.NEAR
    """how far a loss may lie above the best of its (N, T), as a fraction, to count as near-optimal"""
    bootstraps: int = 4000
    """number of resampled tables, and of draws of the other fits"""
    seed: int = 0
    """seed of the bootstraps"""

    def __post_init__(self):
        super().__post_init__()
        refuse(self, {at_least(100): "bootstraps", POSITIVE: "near"})  # a 95 % interval takes so many


def read(config: TableConfig) -> Table:
    """The table that a config names."""
    pairs = [pair.partition("=") for pair in config.columns]
    if bad := [name for name, equals, _ in pairs if not equals or name not in table.COLUMNS]:
        raise ValueError(f"--columns {' '.join(bad)}: NAME=COLUMN is wanted, NAME one of {', '.join(table.COLUMNS)}")
    return table.read(
        config.table, rename={name: column for name, _, column in pairs}, units={"N": config.unit_N, "T": config.unit_T},
        token_flops=config.token_flops, skip_diverged=config.skip_diverged, drop_highest=config.drop_highest,
    )  # fmt: skip


def unlike(config: FitConfig, runs: Table) -> list[str]:
    """Says so where the table's C is not what --flops makes of its N and T."""
    ratio = runs.C / (config.token_flops(runs.N) * runs.T)
    if np.abs(np.log(ratio)).max() < SAME:
        return []
    times = f"{ratio.min():.3g} to {ratio.max():.3g} times"
    return [f"the table's C is {times} what {config.token_flops} makes of its N and T, and what is said of other sizes goes by the latter"]


def disagreeing(runs: Table, errors: np.ndarray, constants: int) -> list[str]:
    """Says which losses lie far further off the law than the others.

    Args:
      errors: of each, measured over predicted − 1.
      constants: of the law; as many of the losses it meets wherever they lie.
    """
    usual, order = np.median(np.abs(errors)), np.argsort(-np.abs(errors))
    off = [i for i in order if abs(errors[i]) > max(OFF * usual / np.sqrt(1 - constants / len(runs)), MATTERS)]
    named = "; ".join(f"{errors[i]:+.2%} at N {runs.N[i]:.3g}, T {runs.T[i]:.3g}" for i in off[:3])
    return [f"{len(off)} of {len(runs)} losses disagree with the law, where half of all lie within {usual:.2%} of it ({named})"] if off else []


def fit_loss(config: FitConfig, runs: Table) -> dict[str, Any]:
    """The section "loss" of the file."""
    best, errors = hyper_fit.least(runs, config.near, config.bootstraps if runs.seeded else 100)
    of = "a surface" if errors is not None else "the best run" if len(best) < len(runs) else "all runs"
    sizes, lengths = (len(np.unique(column)) for column in (best.N, best.T))
    least = loss_fit.CONSTANTS[config.form] + 1
    if min(sizes, lengths) < 3 or len(best) < least:
        raise ValueError(
            f"{counted(len(best), 'run')} of {counted(sizes, 'size')} and {counted(lengths, 'token count')} cannot determine the {least - 1} constants of the "
            "loss law: "
            f"at least {least} runs over 3 sizes and 3 token counts do"
        )
    seeded = runs.seeded and errors is not None
    found = loss_fit.fit(best.X, best.loss, config.form, config.bootstraps, config.seed, errors=errors if seeded else None)
    order = ("E", "A", "B", "alpha", "beta", "p")[: len(found.constants)]
    intervals = {"profile": found.profile, "bootstrap": found.bootstrap}
    by = "bootstrap" if found.runs >= loss_fit.MANY else "profile"
    chosen = intervals[by]
    if seeded:  # the profile alone tells where a constant that has vanished might end, the seeds alone how runs err together
        both = np.stack([found.profile, found.bootstrap])
        by, chosen = "wider of bootstrap and profile", np.stack([both[..., 0].min(0), both[..., 1].max(0)], 1)
    law = loss_fit.LossFit.law(found.constants)
    draws = found.draws[np.isfinite(found.draws).all(1)]
    flags = [f"{name} is not bounded by the data" for name, ends in zip(order, found.profile) if not np.isfinite(ends).all() or ends[0] == 0]
    flags += [f"{name} is negative: the loss rises with {of}" for name, of in (("alpha", "N"), ("beta", "T")) if getattr(law, name) < 0]
    errors = best.loss / found(best.X) - 1
    flags += disagreeing(best, errors, len(found.constants))
    held = holdout.leave_largest_out(runs, config.near, config.form)
    return {
        "form": config.form.value, "objective": found.objective, "runs": found.runs, "losses_of": of,
        "rms_relative_error": float(np.sqrt(np.mean((found(best.X) / best.loss - 1) ** 2))),
        "mean_squared_error": float(np.mean((found(best.X) - best.loss) ** 2)),
        "interval_by": by,
        "params": {
            name: {"value": found.constants[i], "interval": chosen[i]} | {kind: ends[i] for kind, ends in intervals.items()}
            for i, name in enumerate(order)
        },
        "size_exponent": {"value": law.exponent, "interval": results.interval(loss_fit.LossFit.law(draws).exponent)} if law.falls else None,
        "leave_largest_out": dataclasses.asdict(held) | {"holds": held.holds()} if held else None,
        "flags": flags,
        "draws": {name: draws[:KEPT, i] for i, name in enumerate(order)},
    }  # fmt: skip


def fit_hyper(config: FitConfig, runs: Table) -> dict[str, Any]:
    """The section "hyper" of the file. Where it holds no law, nor any surface, it still says each (N, T)'s best run."""
    found = hyper_fit.fit(runs, config.bootstraps, config.near)
    flags, most = list(found.flags), max(len(hyper_fit.near_optimal(cell, config.near)) for cell in runs.cells())
    if not found.laws and most < hyper_fit.LEAST:
        flags[0] += f", and {counted(most, 'near-optimal run')} at most give none a surface: {hyper_fit.WANTED}"
        if config.law is Which.HYPER:
            raise ValueError(flags[0])
    section: dict[str, Any] = {"flags": flags}
    section["cells"] = [dataclasses.asdict(cell) | {"law": {name: law(N=cell.N, T=cell.T) for name, law in found.laws.items()}} for cell in found.cells]
    for name, law in found.laws.items():
        section[name] = _power(law, found.draws[name])
    section["params"] = {f"{name}_{key}": one for name in found.laws for key, one in section[name]["params"].items()}
    held = holdout.recommended(runs, config.bootstraps, config.near)
    section["leave_largest_out"] = held and dataclasses.asdict(held) | {"better": held.better}
    if found.curvature is not None:
        halves = np.expm1(np.diag(found.curvature) * np.log(2) ** 2 / 2)
        section["loss_of_a_factor_2"] = dict(zip(hyper_fit.NAMES, halves))
        section["run_error"] = found.run_error
    return section


def fit_size(config: FitConfig, runs: Table) -> dict[str, Any]:
    """The section "size" of the file."""
    found = size_fit.fit(hyper_fit.least(runs, config.near)[0], config.bootstraps)
    budgets = [
        {"C": one.C, "N": one.N, "loss": one.loss, "N_opt": one.N_opt, "interval": results.interval(one.draws[np.isfinite(one.draws)]),
         "curve": one.curve, "flags": one.flags}
        for one in found.budgets
    ]  # fmt: skip
    lean = {"value": found.lean, "interval": results.interval(found.leans[np.isfinite(found.leans)])}
    section = {"budgets": budgets, "lean": lean, "flags": found.flags}
    return section | (_power(found.law, found.draws) if found.law else {})


def fit_fixed(config: FitConfig, runs: Table, run_error: float | None) -> dict[str, Any] | None:
    """The section "fixed" of the file: what choosing (batch, lr) for each run gains over one choice for all; see headline.py."""
    if runs.batch is None or runs.lr is None:
        return None
    found = headline.compare(runs, config.token_flops, config.bootstraps, config.form, run_error)
    if found is None:
        return None
    saved = found.saved()
    return dataclasses.asdict(found) | {"saved": saved, "holds": found.holds(), "paper": {name: PAPER[name] for name in saved}}


def _power(law: PowerLaw, draws: PowerLaw) -> dict[str, Any]:
    params = results.params(law, draws)
    return {"params": params, "draws": {name: np.asarray(getattr(draws, name))[:KEPT] for name in params}}


def laws(config: FitConfig) -> int:
    """How many are fitted one after the other, that of a fixed (batch, lr) among them."""
    return len(SECTIONS) + 1 if config.law is Which.ALL else 1


SECTIONS = {Which.LOSS: fit_loss, Which.HYPER: fit_hyper, Which.SIZE: fit_size}


def fit(config: FitConfig, done: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Everything that `--json` writes; `done` is called after each of the `laws`.

    Raises:
      ValueError: the table cannot be read, or does not have what the law that was asked for needs.
    """
    runs = read(config)
    found: dict[str, Any] = {
        "table": config.table, "runs": len(runs),
        "fitted": {name: [getattr(runs, name).min(), getattr(runs, name).max()] for name in ("N", "T", "C")},
        "flops": {"model": config.flops.value, "clip_tokens": config.clip_tokens, "aspect": config.aspect, "preset": config.preset},
        "near": config.near, "seeded": runs.seeded, "flags": unlike(config, runs), "notes": {},
    }  # fmt: skip
    if config.law is not Which.ALL:
        found[config.law.value] = SECTIONS[config.law](config, runs)
        done()
        return results.rounded(found)
    for which, section in SECTIONS.items():
        try:
            found[which.value] = section(config, runs)
        except ValueError as error:
            found["notes"][which.value] = str(error)
        done()
    hyper = found.get("hyper", {"cells": (), "params": {}, "flags": ()})
    if not ({"loss", "size"} & found.keys() or hyper["params"] or any(cell["optimum"] for cell in hyper["cells"])):
        raise ValueError("no law can be fitted: " + "; ".join([*found["notes"].values(), *hyper["flags"]]))
    if "loss" in found and (fixed := fit_fixed(config, runs, hyper.get("run_error"))):
        found["fixed"] = fixed
    done()
    return results.rounded(found)


def main(args: list[str]) -> None:
    cli.on_cpu()
    config = cli.parse(FitConfig, args, "scaling_jax.fit")
    console = cli.console()
    with cli.progress("laws", laws(config), console) as done:
        found = fit(config, done)
    console.print(f"{config.table}: {counted(found['runs'], 'run')}")
    fit_report.show(found, console)
    file = config.json or "laws.json"
    if "loss" in found or "params" in found.get("size", {}):
        following = cli.command("scaling_jax.predict", "--laws", file, "--compute", f"{10 * found['fitted']['C'][1]:.0e}")
    else:  # no size follows from these laws
        following = f"{cli.command('scaling_jax.plot', config.table, '--laws', file)}, with the flags that say how to read the table"
    console.save(config.json, found)
    console.print(f"next: {following}" if config.json else f"next: --json laws.json keeps the laws for {following}")


if __name__ == "__main__":
    cli.run(main)
