"""`python -m scaling_jax.fit TABLE`: fits the laws of loss, batch, learning rate and size to a table of runs, with intervals."""
import dataclasses
import enum
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table as Shown

from core_jax import cli
from core_jax.files import write_json
from scaling_jax import headline, holdout, hyper_fit, loss_fit, results, size_fit, table
from scaling_jax.flops import PAPER_ASPECT, PAPER_TOKENS, FlopsModel, TokenFlops
from scaling_jax.laws import PowerLaw
from scaling_jax.table import Table

SAME = 0.01
"""by which two counts of FLOPs may differ, in log"""
KEPT = 1000
"""draws that are written to the file, for predict's intervals"""


class Which(enum.Enum):
    """The laws to fit."""

    LOSS = "loss"
    """L(T, N) = E + A·N^−α + B·T^−β, from the best run of each (N, T)"""
    HYPER = "hyper"
    """B_opt and η_opt of T and N, from near-optimal runs"""
    SIZE = "size"
    """N_opt(C), from IsoFLOP curves"""
    ALL = "all"
    """whatever the table has enough runs for"""


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Fit scaling laws to a table of runs (CSV or Parquet: N, T, batch, lr, loss in counts)."""

    table: tyro.conf.Positional[Path]
    """one row a run"""
    law: Which = Which.ALL
    json: Path | None = None
    """write the laws here, for predict and plot"""
    columns: tuple[str, ...] = ()
    """which column is which, where the names differ: "N=Model Size" "C=Training FLOP" """
    unit_N: float | None = None
    """parameters that an N of 1 stands for: 1e9 for billions"""
    unit_T: float | None = None
    """tokens that a T of 1 stands for"""
    flops: FlopsModel = FlopsModel.CROSS_DIT
    """training FLOPs a token as a function of N"""
    clip_tokens: float = PAPER_TOKENS
    """video tokens of a clip, for --flops cross-dit"""
    aspect: float = PAPER_ASPECT
    """width over layers of the family, for --flops cross-dit"""
    drop_highest: int = 0
    """leave out this many runs of the highest loss (Besiroglu et al. 2024 leave out 5 of Chinchilla's)"""
    skip_diverged: bool = False
    """leave out runs whose loss is not finite"""
    near: float = hyper_fit.NEAR
    """part above the best loss of its (N, T) up to which a run counts as near-optimal"""
    bootstraps: int = 4000
    """resampled tables, and draws of the other fits"""
    seed: int = 0

    def __post_init__(self):
        if self.bootstraps < 100:
            raise ValueError(f"--bootstraps {self.bootstraps}: a 95 % interval takes at least 100")

    @property
    def token_flops(self) -> TokenFlops:
        return TokenFlops(self.flops, self.clip_tokens, self.aspect)


def read(config: FitConfig) -> Table:
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
    by = f"--flops {config.flops.value}" + (f" --clip-tokens {config.clip_tokens:g} --aspect {config.aspect:g}" if config.flops is FlopsModel.CROSS_DIT else "")
    return [f"the table's C is {ratio.min():.3g} to {ratio.max():.3g} times what {by} makes of its N and T, and what is said of other sizes goes by the latter"]


def fit_loss(config: FitConfig, runs: Table) -> dict[str, Any]:
    """The section "loss" of the file."""
    best = runs.best()
    sizes, lengths = (len(np.unique(column)) for column in (best.N, best.T))
    if min(sizes, lengths) < 3 or len(best) < 6:
        raise ValueError(
            f"{len(best)} runs of {sizes} sizes and {lengths} token counts do not determine the five constants of the loss law: "
            "at least 6 runs over 3 sizes and 3 token counts do"
        )
    found = loss_fit.fit(best.X, best.loss, config.bootstraps, config.seed)
    order = ("E", "A", "B", "alpha", "beta")
    by = "bootstrap" if found.runs >= loss_fit.MANY else "profile"
    intervals = {"profile": found.profile, "bootstrap": found.bootstrap}
    law = loss_fit.LossFit.law(found.constants)
    draws = found.draws[np.isfinite(found.draws).all(1)]
    flags = [f"{name} is not bounded by the data" for name, ends in zip(order, found.profile) if not np.isfinite(ends).all() or ends[0] == 0]
    held = holdout.leave_largest_out(best)
    return {
        "objective": found.objective, "runs": found.runs,
        "rms_relative_error": float(np.sqrt(np.mean((found(best.X) / best.loss - 1) ** 2))),
        "mean_squared_error": float(np.mean((found(best.X) - best.loss) ** 2)),
        "interval_by": by,
        "params": {
            name: {"value": found.constants[i], "interval": intervals[by][i]} | {kind: ends[i] for kind, ends in intervals.items()}
            for i, name in enumerate(order)
        },
        "size_exponent": {"value": law.exponent, "interval": results.interval(loss_fit.LossFit.law(draws).exponent)},
        "leave_largest_out": dataclasses.asdict(held) | {"holds": held.holds()} if held else None,
        "flags": flags,
        "draws": {name: draws[:KEPT, i] for i, name in enumerate(order)},
    }  # fmt: skip


def fit_hyper(config: FitConfig, runs: Table) -> dict[str, Any]:
    """The section "hyper" of the file."""
    found = hyper_fit.fit(runs, config.bootstraps, config.near)
    section: dict[str, Any] = {"cells": [dataclasses.asdict(cell) for cell in found.cells], "flags": found.flags}
    for name, law in found.laws.items():
        section[name] = _power(law, found.draws[name])
    section["params"] = {f"{name}_{key}": one for name in found.laws for key, one in section[name]["params"].items()}
    held = holdout.recommended(runs, config.bootstraps, config.near)
    section["leave_largest_out"] = held and dataclasses.asdict(held) | {"better": held.better}
    if found.curvature is not None:
        halves = np.expm1(np.diag(found.curvature) * np.log(2) ** 2 / 2)
        section["loss_of_a_factor_2"] = dict(zip(hyper_fit.NAMES, halves))
    return section


def fit_size(config: FitConfig, runs: Table) -> dict[str, Any]:
    """The section "size" of the file."""
    found = size_fit.fit(runs, config.bootstraps)
    budgets = [
        {"C": one.C, "N": one.N, "loss": one.loss, "N_opt": one.N_opt, "interval": results.interval(one.draws[np.isfinite(one.draws)]),
         "parabola": one.parabola, "flags": one.flags}
        for one in found.budgets
    ]  # fmt: skip
    section = {"budgets": budgets, "flags": found.flags}
    return section | (_power(found.law, found.draws) if found.law else {})


def fit_fixed(config: FitConfig, runs: Table) -> dict[str, Any] | None:
    """The section "fixed" of the file: what choosing (batch, lr) for each run gains over one choice for all; see headline.py."""
    if runs.batch is None or runs.lr is None:
        return None
    found = headline.compare(runs, config.token_flops, config.bootstraps)
    return found and dataclasses.asdict(found) | {"saved": found.saved(), "holds": found.holds(), "paper": headline.PRINTED}


def _power(law: PowerLaw, draws: PowerLaw) -> dict[str, Any]:
    kept = {name: np.asarray(values)[:KEPT] for name, values in results.constants(draws).items()}
    return {"params": results.params(law, draws), "draws": kept}


SECTIONS = {Which.LOSS: fit_loss, Which.HYPER: fit_hyper, Which.SIZE: fit_size}


def fit(config: FitConfig) -> dict[str, Any]:
    """Everything that `--json` writes.

    Raises:
      ValueError: the table cannot be read, or does not have what the law that was asked for needs.
    """
    runs = read(config)
    found: dict[str, Any] = {
        "table": str(config.table), "runs": len(runs),
        "fitted": {name: [getattr(runs, name).min(), getattr(runs, name).max()] for name in ("N", "T", "C")},
        "flops": {"model": config.flops.value, "clip_tokens": config.clip_tokens, "aspect": config.aspect},
        "flags": unlike(config, runs), "notes": {},
    }  # fmt: skip
    if config.law is not Which.ALL:
        found[config.law.value] = SECTIONS[config.law](config, runs)
        return results.rounded(found)
    for which, section in SECTIONS.items():
        try:
            found[which.value] = section(config, runs)
        except ValueError as error:
            found["notes"][which.value] = str(error)
    if not SECTIONS.keys() & {which for which in SECTIONS if which.value in found}:
        raise ValueError("no law can be fitted: " + "; ".join(found["notes"].values()))
    if "loss" in found and (fixed := fit_fixed(config, runs)):
        found["fixed"] = fixed
    return results.rounded(found)


def show(found: dict[str, Any], console: Console) -> None:
    """The laws as tables, flags below."""
    for flag in found["flags"]:
        console.print(f"[bold yellow]flag[/]: {flag}", highlight=False)
    for name in ("loss", "hyper", "size"):
        if name not in found:
            if name in found["notes"]:
                console.print(f"[bold]{name}[/]: not fitted: {found['notes'][name]}", highlight=False)
            continue
        section = found[name]
        by = section.get("interval_by")
        shown = Shown(TITLES[name], "value", f"95 % interval{f' ({by})' if by else ''}", title_justify="left")
        for key, one in section.get("params", {}).items():
            shown.add_row(key, f"{one['value']:.5g}", _range(one["interval"]))
        if section.get("params"):
            console.print(shown)
        DETAILS[name](section, console)
        for flag in section["flags"]:
            console.print(f"[bold yellow]flag[/]: {flag}", highlight=False)
    if fixed := found.get("fixed"):
        _show_fixed(fixed, console)


def _show_fixed(found: dict[str, Any], console: Console) -> None:
    shown = Shown("what one (batch, lr) for all runs costs", "best of each (N, T)", f"batch {found['batch']:.4g}, lr {found['lr']:.3g}", title_justify="left")
    rows = {
        "mean squared error of the loss law": "mean_squared_error", "exponent of N_opt by the loss law": "predicted_exponent",
        "exponent of N_opt by IsoFLOP curves": "isoflop_exponent", f"N_opt at C = {found['C']:.3g} by the loss law": "N", "inference FLOPs a token there": "inference",
    }  # fmt: skip
    for title, name in rows.items():
        shown.add_row(title, *("none" if found[side][name] is None else f"{found[side][name]:.4g}" for side in ("best", "fixed")))
    console.print(shown)
    shown = Shown("", "here", "paper", title_justify="left")
    for name, value in found["saved"].items():
        shown.add_row(name, "not told" if value is None else f"{value:.2%}", f"{found['paper'][name]:.2%}")
    console.print(shown)
    _show_claims(found["holds"], console)


def _show_claims(claims: dict[str, bool | None], console: Console) -> None:
    words = {True: "holds", False: "[bold yellow]does not hold[/]", None: "cannot be told"}
    console.print("; ".join(f"{claim}: {words[holds]}" for claim, holds in claims.items()), highlight=False)


def _range(ends: list[float | None]) -> str:
    return " … ".join("∞" if end is None else f"{end:.5g}" for end in ends)


def _loss_details(section: dict[str, Any], console: Console) -> None:
    one = section["size_exponent"]
    console.print(
        f"Huber objective {section['objective']:.8e} over {section['runs']} runs; rms error {section['rms_relative_error']:.3%}; "
        f"N_opt ∝ C^{one['value']:.4f} ({_range(one['interval'])}) at C = 6·N·T",
        highlight=False,
    )
    if held := section["leave_largest_out"]:
        gap = "" if held["gap"] is None else f"; the gap in loss to the next smaller size is {held['gap']:.3%}"
        console.print(
            f"fitted without the largest size ({held['N']:.4g}), its {held['runs']} runs are predicted to {held['error']:.3%} (worst {held['worst']:.3%}); "
            f"a constant errs by {held['constant']:.3%}, a law of T alone by {held['tokens_alone']:.3%}{gap}",
            highlight=False,
        )
        _show_claims(held["holds"], console)


def _hyper_details(section: dict[str, Any], console: Console) -> None:
    for cell in section["cells"]:
        where = f"N {cell['N']:.4g}, T {cell['T']:.4g}"
        best = cell["best"]
        line = f"{where}: best of {cell['runs']} runs {best['loss']:.5g} at lr {best['lr']:.3g}, batch {best['batch']:.4g}, the worst {cell['spread']:.1%} above it"
        if cell["noise_scale"]:
            line += f"; noise scale {cell['noise_scale']:.4g}"
        if cell["optimum"] and not cell["flags"]:
            at = [f"{name} {cell['optimum'][name][0]:.4g} ({_range(cell['optimum'][name][1:])})" for name in ("loss", "lr", "batch")]
            line += f"; surface's minimum {at[0]} at {at[1]}, {at[2]}"
        console.print(line, highlight=False)
        for flag in cell["flags"]:
            console.print(f"[bold yellow]flag[/]: {where}: {flag}", highlight=False)
    if lost := section.get("loss_of_a_factor_2"):
        console.print(", ".join(f"a factor of 2 in {name} costs {part:.2%} of the loss" for name, part in lost.items()), highlight=False)
    if held := section["leave_largest_out"]:
        fixed = held["fixed"]
        console.print(
            f"fitted without the largest size ({held['N']:.4g}): the runs nearest to the recommended batch and lr lie {held['loss']:.3%} above the best of their T on average; "
            f"of {len(fixed)} fixed pairs {held['better']} lie lower, the best {fixed[0]['loss']:.3%}, the median {fixed[len(fixed) // 2]['loss']:.3%}, the worst {fixed[-1]['loss']:.3%}",
            highlight=False,
        )


def _size_details(section: dict[str, Any], console: Console) -> None:
    for budget in section["budgets"]:
        N = "none" if budget["N_opt"] is None else f"{budget['N_opt']:.4g} ({_range(budget['interval'])})"
        note = f"; {budget['flags'][0]}" if budget["flags"] else ""
        console.print(f"C = {budget['C']:.3g}: {len(budget['N'])} sizes, N_opt {N}{note}", highlight=False)


TITLES = {"loss": "L = E + A·N^−alpha + B·T^−beta", "hyper": "k·N^N·T^T", "size": "N_opt = k·C^C"}
DETAILS = {"loss": _loss_details, "hyper": _hyper_details, "size": _size_details}


def main(args: list[str]) -> None:
    config = cli.parse(FitConfig, args, "scaling_jax.fit")
    found, console = fit(config), Console()
    console.print(f"{config.table}: {found['runs']} runs", highlight=False)
    show(found, console)
    if config.json:
        write_json(config.json, found)
        console.print(f"wrote {config.json}; next: python -m scaling_jax.predict --laws {config.json} --compute {10 * found['fitted']['C'][1]:.0e}", highlight=False)
    else:
        console.print("next: --json laws.json keeps the laws for python -m scaling_jax.predict --laws laws.json", highlight=False)


if __name__ == "__main__":
    cli.run(main)
