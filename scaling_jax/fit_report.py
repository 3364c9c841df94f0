"""What `fit` found, as a person reads it: the laws as tables, their details and flags, and which of the paper's claims hold."""
from typing import Any

from rich.console import Console
from rich.table import Table

from scaling_jax.laws import Form

SHOWN = 50
"""(N, T), or budgets, in a list: of thousands the laws above would be out of sight"""


def show(found: dict[str, Any], console: Console) -> None:
    """The laws as tables, flags below."""
    console.print(ASSUMED[found["seeded"]])
    for flag in found["flags"]:
        console.print(f"flag: {flag}")
    for name in ("loss", "hyper", "size"):
        if name not in found:
            if name in found["notes"]:
                console.print(f"{name}: not fitted: {found['notes'][name]}")
            continue
        section = found[name]
        by = section.get("interval_by")
        shown = Table(TITLES[section.get("form", name)], "value", f"95 % interval{f' ({by})' if by else ''}", title_justify="left")
        for key, one in section.get("params", {}).items():
            shown.add_row(key, f"{one['value']:.5g}", _range(one["interval"]))
        if section.get("params"):
            console.print(shown)
        DETAILS[name](section, console)
        for flag in section["flags"]:
            console.print(f"flag: {flag}")
    if fixed := found.get("fixed"):
        _show_fixed(fixed, console)


def _show_fixed(found: dict[str, Any], console: Console) -> None:
    shown = Table("what one (batch, lr) for all runs costs", "best of each (N, T)", f"batch {found['batch']:.4g}, lr {found['lr']:.3g}", title_justify="left")
    rows = {
        "mean squared error of the loss law": "mean_squared_error", "exponent of N_opt by the loss law": "predicted_exponent",
        "exponent of N_opt by IsoFLOP curves": "isoflop_exponent", f"N_opt at C = {found['C']:.3g} by the loss law": "N", "inference FLOPs a token there": "inference",
    }  # fmt: skip
    for title, name in rows.items():
        shown.add_row(title, *("none" if found[side][name] is None else f"{found[side][name]:.4g}" for side in ("best", "fixed")))
    console.print(shown)
    shown = Table("", "here", "paper", title_justify="left")
    for name, value in found["saved"].items():
        shown.add_row(name, "not told" if value is None else f"{value:.2%}", f"{found['paper'][name]:.2%}")
    console.print(shown)
    _show_claims(found["holds"], console)
    chances = "; ".join(f"{claim}: {saved:.2%}" for claim, saved in found["chance"].items() if saved is not None)
    if chances:
        console.print(f"by noise alone, one pair being best everywhere, one table of twenty saves more than: {chances}; a claim holds only beyond it")


def _show_claims(claims: dict[str, bool | None], console: Console) -> None:
    words = {True: "holds", False: "does not hold", None: "cannot be told"}
    console.print("; ".join(f"{claim}: {words[holds]}" for claim, holds in claims.items()))


def _range(ends: list[float | None]) -> str:
    return "not told" if ends[0] is None else " … ".join("∞" if end is None else f"{end:.5g}" for end in ends)


def _loss_details(section: dict[str, Any], console: Console) -> None:
    one = section["size_exponent"]
    console.print(
        f"Huber objective {section['objective']:.7e} over {section['runs']} losses, of {section['losses_of']} of each (N, T); "
        f"rms error {section['rms_relative_error']:.3%}; "
        + (f"N_opt ∝ C^{one['value']:.4f} ({_range(one['interval'])} by the bootstrap) at C = 6·N·T" if one else "no N_opt follows from it"),
    )
    if held := section["leave_largest_out"]:
        gap = "" if held["gap"] is None else f"; the gap in loss to the next smaller size is {held['gap']:.3%}"
        other = "" if held["other_form"] is None else f", to {held['other_form']:.3%} in the form {Form(section['form']).other.value}"
        losses, chance = "loss is" if held["runs"] == 1 else f"{held['runs']} losses are", held["chance"]
        chance = f"; noise of the runs alone gives {chance[0]:.3%} as a median and {chance[1]:.3%} in one table of twenty" if chance else ""
        console.print(
            f"fitted without the largest size ({held['N']:.4g}), its {losses} predicted to {held['error']:.3%}{other} "
            f"(worst {held['worst']:.3%}, on average {held['bias']:+.3%}{chance}); "
            f"a constant errs by {held['constant']:.3%}, a law of T alone by {held['tokens_alone']:.3%}{gap}",
        )
        _show_claims(held["holds"], console)


def _hyper_details(section: dict[str, Any], console: Console) -> None:
    headings = "N", "T", "loss", "worst", "lr", "by law", "batch", "by law", "noise"
    shown = Table(*headings, title="the best (lr, batch) of each (N, T)", title_justify="left", box=None, padding=(0, 1))
    for cell in section["cells"][:SHOWN]:
        told = [f"{cell['N']:.2g}", f"{cell['T']:.3g}", f"{cell['best']['loss']:.4g}", f"+{cell['spread']:.1%}"]
        for name, digits in (("lr", ".2g"), ("batch", ".3g")):
            at = cell["best"][name] if any(cell["marks"].values()) else cell["optimum"][name][0]
            told += [f"{at:{digits}}{cell['marks'][name]}", f"{cell['law'][name]:{digits}}" if cell["law"] else ""]
        shown.add_row(*told, f"{cell['noise_scale']:.3g}" if cell["noise_scale"] else "")
    console.print(shown)
    _say_more(section["cells"], "(N, T)", console)
    console.print(
        "loss: of the best run; worst: above it; lr, batch: where the fitted surface has its minimum, or, with a mark, of the best run (≤ ≥: on the grid's "
        "edge; ?: the optimum is not identified); noise: scale of the gradient's, in tokens. Intervals and reasons: --json",
    )  # fmt: skip
    if lost := section.get("loss_of_a_factor_2"):
        console.print(", ".join(f"a factor of 2 in {name} costs {part:.2%} of the loss" for name, part in lost.items()))
    if error := section.get("run_error"):
        console.print(f"runs scatter around the surface by {error:.2%} of the loss")
    if held := section["leave_largest_out"]:
        fixed = held["fixed"]
        console.print(
            f"fitted without the largest size ({held['N']:.4g}): the runs nearest to the recommended batch and lr lie {held['loss']:.3%} above the best "
            f"of their T on average; of {len(fixed)} fixed pairs {held['better']} lie lower, the best {fixed[0]['loss']:.3%}, "
            f"the median {fixed[len(fixed) // 2]['loss']:.3%}, the worst {fixed[-1]['loss']:.3%}",
        )


def _size_details(section: dict[str, Any], console: Console) -> None:
    for budget in section["budgets"][:SHOWN]:
        N = "none" if budget["N_opt"] is None else f"{budget['N_opt']:.5g} ({_range(budget['interval'])})"
        note = f"; {budget['flags'][0]}" if budget["flags"] else ""
        console.print(f"C = {budget['C']:.3g}: {len(budget['N'])} sizes, N_opt {N}{note}")
    _say_more(section["budgets"], "budgets", console)
    lean = section["lean"]
    console.print(f"curves lean by s = {lean['value']:.3f} ({_range(lean['interval'])}); by L = E + A·N^−α + B·T^−β it is β − α")


def _say_more(listed: list, what: str, console: Console) -> None:
    if len(listed) > SHOWN:
        console.print(f"and {len(listed) - SHOWN:,} more {what}: --json has them all")


TITLES = {
    "sum": "L = E + A·N^−alpha + B·T^−beta", "norm": "L^p = E^p + (A·N^−alpha)^p + (B·T^−beta)^p",
    "hyper": "lr, batch = k·N^…·T^…", "size": "N_opt = k·C^…",
}  # fmt: skip
ASSUMED = {
    True: "intervals of loss, batch and learning rate by the errors of means over seeds, drawn for each size: what a seed does to all its runs goes together",
    False: "intervals take every run to err by itself, as not all were made with several seeds: of runs that share seeds, clips or, at several T, "
    "their beginning they are too narrow",
}
"""by whether the table has seeds"""
DETAILS = {"loss": _loss_details, "hyper": _hyper_details, "size": _size_details}
