"""Runs as they would be given to `videodit_jax.train`: the command, and its hours on a TPU slice by compiling its step."""
import dataclasses
import shlex
from typing import Any

from etils import epath

from core_jax.files import write_bytes
from core_jax.pod import topology
from core_jax.words import counted
from scaling_jax import cost
from scaling_jax.flops import parameters, tokens
from scaling_jax.results import Fitted
from scaling_jax.sizes import member, size_of
from videodit_jax.config import TrainConfig
from videodit_jax.plan import plan


def config_of(name: str, size: int, *, T: float, batch: float, lr: float, data: str | None = None, rows: int = 1, warmup: int | None = None) -> TrainConfig:
    """The run of a family's member.

    Args:
      T, batch: video tokens in all and a step; both are rounded to whole clips and steps.
      data: the preset's own by default.
      rows: the batch becomes a multiple of this many clips, as a mesh wants it.
      warmup: steps; by default the preset's, or a tenth of all if that is less.
    """
    config = member(name, size)
    n = tokens(config)
    clips = max(round(batch / n / rows), 1) * rows
    steps = max(round(T / (clips * n)), 1)
    warmup = min(config.optimizer.warmup, steps // 10) if warmup is None else warmup
    optimizer = dataclasses.replace(config.optimizer, learning_rate=lr, warmup=warmup)
    out = f"runs/{name}-size{size}-{lr:.2e}-{clips}"
    return dataclasses.replace(config, batch=clips, steps=steps, data=data or config.data, optimizer=optimizer, out=out)


def rows_of(name: str | None) -> int:
    """What a batch must be a multiple of on the slice of this name: its devices; 1 without a slice."""
    which = topology.parse(name) if name else None
    return which.chips * which.chip.devices if which else 1


def recommended(fitted: Fitted, N: float, C: float, name: str, data: str | None, largest: float, rows: int = 1) -> TrainConfig:
    """The run that spends C at the family's member nearest to N, of at most `largest` parameters, at that member's own FLOPs a token, counted
    as the laws count them, in batches of a multiple of `rows` clips.

    Raises:
      ValueError: neither laws nor runs say a batch or a learning rate, or no member of the family is small enough.
    """
    size = size_of(N, name)
    if parameters(member(name, size).model) > largest:
        size -= 1
    if size < 1:
        raise ValueError(f"--max-params {largest:.4g} is less than the smallest model of {name}'s family, {parameters(member(name, 1).model):,}")
    base = member(name, size)
    N = parameters(base.model)
    T = C / cost.of(base, fitted.token_flops.model)
    hyper = {key: fitted.hyper(key, N, T, C) for key in ("batch", "lr")}
    if missing := [key for key, value in hyper.items() if value is None]:
        raise ValueError(f"the laws hold none of {' and '.join(missing)}, without which there is no run to write: fit a table with batch and lr")
    return config_of(name, size, T=T, **hyper, data=data, rows=rows)


def words(config: TrainConfig) -> list[str]:
    """The command line of `train` that makes this run."""
    model, optimizer = config.model, config.optimizer
    flags = {
        "preset": config.preset, "data": config.data, "out": config.out, "steps": config.steps, "batch": config.batch, "seed": config.seed,
        "dtype": config.dtype.value, "eval-examples": config.eval_examples,
        "model.layers": model.layers, "model.width": model.width, "model.heads": model.heads, "model.mlp": model.mlp,
        "model.text.width": model.text.width, "model.unroll": model.unroll,
        "optimizer.method": optimizer.method.value, "optimizer.learning-rate": f"{optimizer.learning_rate:.6g}", "optimizer.schedule": optimizer.schedule.value,
        "optimizer.warmup": optimizer.warmup, "optimizer.ema": optimizer.ema,
    }  # fmt: skip
    wiener = "--model.wiener" if model.wiener else "--model.no-wiener"  # its default goes by the data
    return ["-m", "videodit_jax.train", *(word for name, value in flags.items() for word in (f"--{name}", str(value))), wiener]


def command(config: TrainConfig) -> str:
    """The same as one line of a shell."""
    return f"${{PYTHON:-python}} {shlex.join(words(config))}"


def write(path: epath.PathLike, config: TrainConfig) -> None:
    """A shell script that makes the run; it goes on where it was stopped if called again, and further flags of `train` may follow its name."""
    write_bytes(path, f'#!/bin/sh\n# {describe(config)}\nexec {command(config)} "$@"\n'.encode())


def figures(config: TrainConfig) -> dict[str, Any]:
    """Of a run, as a --json file holds them: T and batch (of a step) in tokens."""
    n = tokens(config)
    return {
        "layers": config.model.layers, "width": config.model.width, "N": parameters(config.model), "T": config.steps * config.batch * n,
        "batch": config.batch * n, "lr": config.optimizer.learning_rate, "steps": config.steps,
    }  # fmt: skip


def describe(config: TrainConfig) -> str:
    n = tokens(config)
    return (
        f"{counted(config.model.layers, 'layer')} of width {config.model.width}: N = {parameters(config.model):.4g}; "
        f"{counted(config.batch, 'clip')} of {n} tokens a step = {config.batch * n:.4g} tokens; "
        f"{counted(config.steps, 'step')} = {config.steps * config.batch * n:.4g} tokens; learning rate {config.optimizer.learning_rate:.4g}"
    )


def hours(config: TrainConfig, name: str) -> dict[str, Any]:
    """What the run takes on a slice, as `videodit_jax.plan` estimates its step; its batch is a multiple of `rows_of` the slice."""
    which = topology.parse(name)
    found = plan(config, which)
    if found.misfit:
        return {"topology": str(which), "chips": which.chips, "fits": False, "why": str(found.misfit)}
    total = config.steps * found.estimate.step / 3600
    return {
        "topology": str(which), "chips": which.chips, "fits": True, "batch": config.batch, "step_seconds": found.estimate.step, "hours": total,
        "chip_hours": total * which.chips, "mfu": found.mfu,
    }  # fmt: skip


def describe_hours(found: dict[str, Any]) -> str:
    if not found["fits"]:
        return f"on {found['topology']} it does not fit: {found['why']}"
    return (
        f"on {found['topology']}: {found['step_seconds']:.3g} s a step of {counted(found['batch'], 'clip')} by the planner's estimate (not measured), "
        f"{found['hours']:,.3g} hours, {found['chip_hours']:,.4g} chip-hours, MFU {found['mfu']:.1%}"
    )
