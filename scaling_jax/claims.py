"""The paper's claims at its budget, computed again from its own laws, and where these laws contradict each other."""
from typing import Any

from rich.console import Console

from scaling_jax.cost import TokenFlops
from scaling_jax.published import PAPER, VIDEO, VIDEO_SIZE_FROM_LOSS
from scaling_jax.sizes import family_size


def at(C: float) -> dict[str, Any]:
    """What there is to say of a budget, as `predict --json` writes it."""
    return {"inconsistency": inconsistency(C)} | ({"headline": headline()} if C == PAPER["C"] else {})


def headline() -> dict[str, Any]:
    """What the paper claims that its laws save, at its budget and sizes, computed again."""
    best, fixed, c = PAPER["N best"], PAPER["N fixed"], TokenFlops()
    definitions = {
        "FLOPs a token, ¾·N·(7 + n/E)/3 at n = 1,280": 1 - c(best) / c(fixed),
        "FLOPs a token without attention's scores": 1 - best / fixed,
        "FLOPs a token of the family's nearest members, 21 and 25 layers": 1 - c(family_size(best)) / c(family_size(fixed)),
    }
    return {
        "parameters saved": 1 - best / fixed, "inference saved": definitions,
        "paper": {name: PAPER[name] for name in ("N best", "N fixed", "parameters saved", "inference saved")},
    }  # fmt: skip


def inconsistency(C: float) -> dict[str, float]:
    """The paper's Eq. 18 against what its Eq. 15 implies."""
    law, c = VIDEO.loss.law, TokenFlops()
    printed, minimum = VIDEO_SIZE_FROM_LOSS.law(C=C), float(law.best_size(C, c))
    return {"Eq. 18": printed, "minimum of Eq. 15": minimum, "loss above the minimum": law(printed, C / c(printed)) / law(minimum, C / c(minimum)) - 1}


def show(found: dict[str, Any], console: Console) -> None:
    """Both as sentences."""
    if one := found.get("headline"):
        paper = one["paper"]
        console.print(
            f"the paper's claim at this budget (Fig. 6c): {paper['N best']:.3g} instead of {paper['N fixed']:.3g} parameters, "
            f"{one['parameters saved']:.1%} fewer; it prints {paper['parameters saved']:.1%}",
        )
        console.print(f"inference cost: the paper prints {paper['inference saved']:.1%} less; its definition is not known, and by")
        for name, saved in one["inference saved"].items():
            console.print(f"  {name}: {saved:.1%} less")
    own = found["inconsistency"]
    console.print(
        f"open inconsistency of the paper: its loss law has its minimum at {own['minimum of Eq. 15']:.4g} parameters, and its Eq. 18, said to follow, "
        f"gives {own['Eq. 18']:.4g}; the loss there is {own['loss above the minimum']:.3%} above the minimum, so N is weakly identified",
    )
