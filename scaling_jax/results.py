"""The file that `fit --json` writes and `predict` and `plot` read."""
import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath

from scaling_jax.cost import FlopsModel, TokenFlops
from scaling_jax.laws import Known, Law, Laws, LossLaw, PowerLaw

DIGITS = 8
STUDENT = "draws of Student's t"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Laws, the ranges of N, T and C that they were fitted on, and the C_token behind C."""

    laws: Laws
    ranges: dict[str, tuple[float, float]]
    token_flops: TokenFlops
    best: tuple[dict[str, float], ...] = ()
    """N, T, batch and lr of the best run of each (N, T)"""
    flags: tuple[str, ...] = ()
    """what `fit` flagged, each with the law that it is about"""

    def nearest(self, N: float, T: float) -> dict[str, float] | None:
        """The best run of the nearest (N, T), by the distance of logarithms."""
        return min(self.best, key=lambda run: np.hypot(np.log(run["N"] / N), np.log(run["T"] / T)), default=None)

    def hyper(self, name: str, N: float, T: float, C: float) -> float | None:
        """The batch or the lr: by its law, or where the table told none as the nearest run had it."""
        if known := getattr(self.laws, name):
            return float(known.law(N=N, T=T, C=C))
        run = self.nearest(N, T)
        return run and run[name]


def rounded(value: Any) -> Any:
    """Arrays and numbers as JSON values of DIGITS digits; what is not finite is null."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return rounded(value.tolist())
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.integer | np.bool_) else value


def constants(law: Law) -> dict[str, Any]:
    """A law's constants by name, without the exponents that it does not have."""
    held = {field.name: getattr(law, field.name) for field in dataclasses.fields(law)}
    return {name: value for name, value in held.items() if not isinstance(law, PowerLaw) or np.any(value != 0)}


def interval(values: np.ndarray) -> list[float]:
    return list(np.percentile(values, [2.5, 97.5])) if len(values) else [np.nan, np.nan]


def params(law: Law, draws: Law) -> dict[str, dict]:
    """{name: {value, interval}}."""
    return {name: {"value": value, "interval": interval(np.asarray(getattr(draws, name)))} for name, value in constants(law).items()}


def read(path: epath.PathLike) -> Fitted:
    """Raises ValueError where the file is none of `fit`'s."""
    try:
        held = json.loads(epath.Path(path).read_text())
        where, flops = held["fitted"], held["flops"]
        laws = {
            "loss": _known(LossLaw, held.get("loss"), path, "the bootstrap"),
            "batch": _known(PowerLaw, held.get("hyper", {}).get("batch"), path, STUDENT),
            "lr": _known(PowerLaw, held.get("hyper", {}).get("lr"), path, STUDENT),
            "size": _known(PowerLaw, held.get("size"), path, STUDENT),
        }
        token_flops = TokenFlops(FlopsModel(flops["model"]), flops["clip_tokens"], flops["aspect"], flops["preset"])
        best = tuple({"N": cell["N"], "T": cell["T"], **cell["best"]} for cell in held.get("hyper", {}).get("cells", ()))
        sections = {"": held, "loss: ": held.get("loss", {}), "batch and lr: ": held.get("hyper", {}), "size: ": held.get("size", {})}
        flags = tuple(f"{name}{flag}" for name, section in sections.items() for flag in section.get("flags", ()))
        return Fitted(Laws(**laws), {name: tuple(where[name]) for name in ("N", "T", "C")}, token_flops, best, flags)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no file of laws, as python -m scaling_jax.fit --json writes") from error


def _known(form: type[Law], held: dict | None, path: epath.PathLike, by: str) -> Known | None:
    if not held or "params" not in held:
        return None
    point = form(**{name: one["value"] for name, one in held["params"].items()})
    draws = form(**{name: np.array(values, float) for name, values in held["draws"].items()})
    return Known(point, draws, f"95 % by {by}", str(path))
