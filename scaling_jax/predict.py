"""`python -m scaling_jax.predict --compute C`: size, tokens, batch and learning rate for a budget, each with an interval.

The loss is flat around its minimum, so the whole valley is shown: all sizes whose predicted loss lies within 0.1 % of the best.
Without --laws the constants are those of Yin et al. 2024, whose three ways to N_opt disagree; N's interval is then their span.
"""
import dataclasses
import math
import shlex
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Shown

from core_jax import cli
from core_jax.files import refuse_overwriting, refuse_unwritable
from core_jax.numbers import FROM_0, POSITIVE, Numbers, refuse
from scaling_jax import claims, cost, jobs, others, results
from scaling_jax.clips import DRAWN
from scaling_jax.cost import TokenFlops
from scaling_jax.flops import parameters, tokens
from scaling_jax.laws import Known
from scaling_jax.published import VIDEO, VIDEO_FITTED, VIDEO_SIZE_FROM_LOSS
from scaling_jax.results import Fitted
from scaling_jax.sizes import family, member

FLAT = 1e-3
"""relative loss above the minimum up to which a size belongs to the valley"""
SIZES = 1e2, 1e14
"""N among which the valley is looked for"""
FAR = 100.0
"""a budget this many times beyond the fitted ones is far outside"""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Recommend size, tokens, batch and learning rate for a compute budget."""

    compute: float
    """budget C, FLOPs of training; with --inference-tokens, of training and inference together"""
    laws: str | None = None
    """what fit wrote with --json; without it, the constants of Yin et al. 2024"""
    inference_tokens: float = 0.0
    """video tokens that the model will make in its life, in forward passes: the larger it is, the less of C is left to train it"""
    max_params: float = float("inf")
    """largest N allowed"""
    size: float | None = None
    """take this N instead of the best one: what it would reach, with which batch and learning rate"""
    topology: str | None = None
    """a TPU slice such as v5p-128, on which the run's hours are estimated by compiling its step"""
    preset: str = "0.017b"
    """family that the run belongs to: a preset of videodit_jax, or narrow"""
    data: str | None = None
    """clips that the run trains on, as --data of videodit_jax.train; the preset's own by default"""
    others: bool = False
    """also print what published laws of other models say of this budget: language models, image diffusion transformers"""
    write_config: str | None = None
    """write the train command here, as a shell script"""
    json: str | None = None
    """also write the figures to this file"""

    def __post_init__(self):
        refuse(self, {POSITIVE: "compute size", Numbers(POSITIVE.said, lambda x: x > 0): "max_params", FROM_0: "inference_tokens"})
        if self.size is not None and self.size > self.max_params:
            raise ValueError(f"--size {self.size:g} is more than --max-params {self.max_params:g} allows")
        family(self.preset)  # or says which there are
        refuse_overwriting("--laws", self.laws, [self.json, self.write_config])
        if self.write_config:
            refuse_unwritable("--write-config", self.write_config)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with the range that its laws leave it."""

    value: float
    interval: tuple[float, float]
    source: str
    """the law and what the interval is"""


def paper() -> Fitted:
    """The laws of Yin et al. 2024."""
    return Fitted(VIDEO, VIDEO_FITTED, TokenFlops())


def sizes(fitted: Fitted, C: float) -> dict[str, Estimate]:
    """N_opt by each way that the laws give, the first being the one to take."""
    ways: dict[str, tuple[Known, Any]] = {}
    if fitted.laws.size:
        ways["size law"] = fitted.laws.size, lambda law: law(C=C)
    if fitted.laws.size is VIDEO.size:
        ways["size law from the loss law, as printed"] = VIDEO_SIZE_FROM_LOSS, lambda law: law(C=C)
    if fitted.laws.loss and fitted.laws.loss.law.falls:
        ways["minimum of the loss law"] = fitted.laws.loss, lambda law: law.best_size(C, fitted.token_flops)
    if not ways:
        raise ValueError("the laws hold neither a size law nor a loss law that falls with N and T, so no size follows from a budget")
    return {
        name: Estimate(float(of(known.law)), known.interval(of), f"{known.source}; {known.spread}") for name, (known, of) in ways.items()
    }


def valley(fitted: Fitted, C: float, inference_tokens: float = 0.0) -> dict[str, np.ndarray] | None:
    """Sizes, their tokens, predicted loss, and training and inference FLOPs (C in all), where the loss is within FLAT of the least; None without
    a loss law that falls.

    Raises:
      ValueError: inference alone takes more than C at any size.
    """
    if not fitted.laws.loss or not fitted.laws.loss.law.falls:
        return None
    N = np.geomspace(*SIZES, 4401)
    c = fitted.token_flops(N)
    T = C / c - inference_tokens / 3  # a forward pass is a third of a training step
    if not (paid := T > 0).any():
        raise ValueError(f"--inference-tokens {inference_tokens:g} take more than --compute {C:g} at any size")
    columns = {"N": N, "T": T, "training": c * T, "inference": c / 3 * inference_tokens}
    columns = {name: column[paid] for name, column in columns.items()}
    columns["loss"] = loss = fitted.laws.loss.law(columns["N"], columns["T"])
    return {name: column[loss <= loss.min() * (1 + FLAT)] for name, column in columns.items()}


def _best(flat: dict[str, np.ndarray]) -> float:
    return float(flat["N"][flat["loss"].argmin()])


def recommend(fitted: Fitted, config: PredictConfig) -> dict[str, Any]:
    """All figures, as `--json` writes them.

    Raises:
      ValueError: a budget that does not pay for one clip through the smallest model of the family or through the one that is recommended, or a
        size beyond SIZES, as the laws or the settings ask for it.
    """
    C, laws, smallest = config.compute, fitted.laws, member(config.preset, 1)
    if C < (least := math.ceil(tokens(smallest) * cost.of(smallest, fitted.token_flops.model))):
        raise ValueError(f"--compute {C:g}: one clip through the smallest model of {config.preset}'s family takes {least:,} FLOPs, and at least these are wanted")
    ways = sizes(fitted, C)
    first = next(iter(ways.values()))
    _refuse_size(f"--compute {C:g}: the {next(iter(ways))} asks for", first.value)
    flat = valley(fitted, C, config.inference_tokens)
    N, reasons = first.value, [next(iter(ways))]
    ends = np.array([one.interval for one in ways.values()] if laws.size is VIDEO.size else [first.interval])
    if config.inference_tokens and flat is not None:  # by its factor, as the laws disagree about the size itself
        smaller = _best(flat) / _best(valley(fitted, C))
        N, ends, reasons = N * smaller, ends * smaller, [*reasons, f"times {smaller:.3g}, as the loss law's best size shrinks when inference shares the budget"]
    disagree = "span of the laws, which disagree: no confidence interval" if laws.size is VIDEO.size else first.source
    if config.size is not None:
        N, reasons, ends, disagree = config.size, ["as --size says"], np.full((1, 2), config.size), "none: given"
    if N > config.max_params:
        N, reasons = config.max_params, [*reasons, f"no more than --max-params {config.max_params:.4g}"]
    span = np.clip([min(ends[:, 0].min(), N), max(ends[:, 1].max(), N)], None, config.max_params)

    def seen(N):
        return max(C / fitted.token_flops(N) - config.inference_tokens / 3, 0.0)

    def spent(N):
        return fitted.token_flops(N) * seen(N)

    T = seen(N)
    _refuse_size(f"{'; '.join(reasons)}:", N)
    if T < (clip := tokens(smallest)):
        raise ValueError(f"--compute {C:g}: a model of {N:.3g} parameters would see {T:.3g} tokens, and one clip has {clip:,}")
    found = {
        "compute": C,
        "N": {"value": N, "interval": span, "because": "; ".join(reasons), "interval_is": disagree},
        "T": {"value": T, "interval": [seen(span[1]), seen(span[0])], "interval_is": "of N, at this compute"},
        "training": spent(N), "inference": C - spent(N),
        "ways": {name: dataclasses.asdict(one) for name, one in ways.items()},
    }  # fmt: skip
    for name in ("batch", "lr"):
        if known := getattr(laws, name):
            found[name] = _with_span(known, lambda law, n: law(N=n, T=seen(n), C=spent(n)), N, span)
        elif run := fitted.nearest(N, T):
            which = f"none: no law, this is the best run's at N {run['N']:.3g}, T {run['T']:.3g}"
            found[name] = {"value": run[name], "interval": [np.nan, np.nan], "interval_is": which, "source": "nearest run"}
    if laws.loss:
        found["loss"] = _with_span(laws.loss, lambda law, n: law(n, seen(n)), N, (N, N))
    if "batch" in found:
        found["steps"] = {"value": T / found["batch"]["value"]}
    if flat is not None and (small := flat["N"] <= config.max_params).any():
        step = max(small.sum() // 12, 1)
        found["valley"] = {"within": FLAT} | {name: column[small][::step] for name, column in flat.items()}
    found["warnings"] = warnings(fitted, found) + ([] if laws.size is VIDEO.size else contradictions(ways))
    if config.inference_tokens and (flat is None or config.size is not None):
        found["warnings"].append("--inference-tokens lessened T alone: the size is given, or no loss law is there to say how it shrinks")
    if flat is not None and N not in (config.size, config.max_params) and not flat["N"].min() <= N <= flat["N"].max():
        least = f"{_best(flat):.3g} parameters have the least, and --size takes another"
        found["warnings"].append(f"the loss law says of N = {N:.3g} a loss more than {FLAT:.1%} above the least: {least}")
    return found


def _refuse_size(said: str, N: float) -> None:
    if not SIZES[0] <= N <= SIZES[1]:
        raise ValueError(f"{said} {N:.3g} parameters, and sizes of {SIZES[0]:g} to {SIZES[1]:g} are looked at")


def _with_span(known: Known, value: Any, N: float, span: tuple[float, float]) -> dict[str, Any]:
    """Its interval over the law's draws, at the two ends of N."""
    ends = [known.interval(lambda law: value(law, n)) for n in span]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    over = known.spread if span[0] == span[1] else f"{known.spread}, over the interval of N"
    return {"value": float(value(known.law, N)), "interval": [low, high], "interval_is": over, "source": known.source}


def warnings(fitted: Fitted, found: dict[str, Any]) -> list[str]:
    """Where the laws are asked about what they were not fitted on, and what `fit` flagged."""
    said = []
    values = {"C": found["training"], "N": found["N"]["value"], "T": found["T"]["value"]}
    for name in (name for name in values if name in fitted.ranges):
        value, (low, high) = values[name], fitted.ranges[name]
        ratio = value / high if value > high else low / value
        if ratio > 1:
            side = "above the largest" if value > high else "below the smallest"
            far = "; that is far: fit on runs nearer to it before you trust this" if ratio > FAR else ""
            said.append(f"{name} = {value:.3g} is {ratio:.3g} times {side} that the laws were fitted on ({low:.3g} to {high:.3g}){far}")
    return said + [f"flagged by fit: {flag}" for flag in fitted.flags]


def contradictions(ways: dict[str, Estimate]) -> list[str]:
    """Where fitted laws exclude each other's size."""
    (name, first), *rest = ways.items()
    apart = [(other, one) for other, one in rest if one.interval[0] > first.interval[1] or one.interval[1] < first.interval[0]]
    said = "exclude each other: N is less sure than its interval says"
    return [f"N by the {other}, {one.value:.3g}, and by the {name}, {first.value:.3g}, {said}" for other, one in apart]


def show(found: dict[str, Any], console: Console) -> None:
    """The recommendation, the valley, and what to be wary of."""
    shown = Shown("", "recommended", "interval", "which is", title_justify="left")
    words = {"N": "parameters N", "T": "tokens T", "batch": "batch, tokens", "lr": "learning rate", "loss": "loss"}
    for name, word in words.items():
        if one := found.get(name):
            span = " … ".join(f"{end:.4g}" for end in one["interval"] if np.isfinite(end))
            shown.add_row(word, f"{one['value']:.4g}", span, one["interval_is"])
    console.print(shown)
    if "steps" in found:
        console.print(f"steps: {found['steps']['value']:,.0f}; N: {found['N']['because']}")
    if found["inference"]:
        console.print(f"of the budget {found['training']:.3g} FLOPs are for training, {found['inference']:.3g} for inference")
    for name, one in found["ways"].items():
        console.print(f"N by the {name}: {one['value']:.4g} ({one['interval'][0]:.4g} … {one['interval'][1]:.4g}, {one['source']})")
    if flat := found.get("valley"):
        headings = {name: words[name] for name in ("N", "T", "loss")} | {"training": "training FLOPs"} | ({"inference": "inference FLOPs"} if found["inference"] else {})
        rows = Shown(*headings.values(), title=f"sizes within {FLAT:.1%} of the least loss", title_justify="left")
        for row in zip(*(flat[name] for name in headings)):
            rows.add_row(*(f"{x:.5g}" if i == 2 else f"{x:.3g}" for i, x in enumerate(row)))
        console.print(rows)
    for warning in found["warnings"]:
        console.print(f"warning: {warning}", style="yellow")


def main(args: list[str]) -> None:
    cli.on_cpu()
    config, console = cli.parse(PredictConfig, args, "scaling_jax.predict"), cli.console()
    rows, fitted = jobs.rows_of(config.topology), results.read(config.laws) if config.laws else paper()
    found = recommend(fitted, config)
    show(found, console)
    if not config.laws:
        found |= claims.at(config.compute)
        claims.show(found, console)
    if config.others:
        found["others"] = others.at(config.compute, found["N"]["value"], found["T"]["value"])
        others.show(found["others"], console)
    if config.topology or config.write_config:
        given = (fitted, found["N"]["value"], found["training"], config.preset, config.data, config.max_params)
        asked, run = (jobs.recommended(*given, rows=n) for n in (1, rows))
        ratio = parameters(run.model) / found["N"]["value"]
        found["run"] = jobs.figures(run)
        console.print(f"{jobs.describe(run)}; its N, of the family of {config.preset}, is {ratio:.3g} times the recommended")
        if run.batch != asked.batch:
            console.print(f"the laws say {asked.batch} clips a step; the devices of {config.topology} share a multiple of {rows}")
        if config.topology:
            found["hours"] = jobs.hours(run, config.topology)
            console.print(jobs.describe_hours(found["hours"]))
        if config.write_config:
            jobs.write(config.write_config, run)
            data = "" if config.data or run.data in DRAWN else " --data FOLDER"  # the preset's own is a name that no folder need have
            console.print(f"wrote {config.write_config}; next: sh {shlex.quote(config.write_config)}{data}")
    console.save(config.json, results.rounded(found))
    if not config.write_config:
        able = "--write-config run.sh writes the train command of this run"
        console.print(f"next: {able if 'batch' in found and 'lr' in found else 'a table with batch and lr, from which a run follows'}")


if __name__ == "__main__":
    cli.run(main)
