"""The training loop of every trainer: fetch a batch, dispatch the step, then read the last step's metrics, log, save."""
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
from jaxtyping import PyTree

from core_jax.checkpoint import Checkpoints
from core_jax.report import Report
from core_jax.state import TrainState
from core_jax.stop import StopSignal


LOWER = "take a lower learning rate, which is another run with its own --out"


class Diverged(RuntimeError):
    """Too many updates in a row were not finite, or what was trained has no finite loss at the end."""


def refuse_diverged(step: int, loss: float) -> None:
    """Raises Diverged where the held-out loss at the end is not finite: a run may break with fewer steps left than updates may be skipped in a row."""
    if not math.isfinite(loss):
        raise Diverged(f"the held-out loss after step {step} is not finite: {LOWER}")


@dataclasses.dataclass(frozen=True)
class Hook:
    """Something done every so many steps, but for the last, with the newest state: evaluation, samples."""

    every: int
    run: Callable[[int, TrainState], object]


def _ended(metrics: PyTree) -> float:
    """When the devices were done with the step that gives these."""
    jax.block_until_ready(metrics)
    return time.monotonic()


def run(
    step_fn: Callable[[TrainState, PyTree], tuple[TrainState, dict]],
    state: TrainState,
    batches: Iterator[PyTree],
    *,
    start: int,
    steps: int,
    batch: int,
    checkpoints: Checkpoints,
    checkpoint_every: int,
    report: Report,
    hooks: tuple[Hook, ...] = (),
    max_skipped: int = 10,
) -> tuple[TrainState, int]:
    """Trains from step `start` to `steps`; saves every so often, at the end, and when asked to stop.

    Args:
      batches: global arrays on the mesh, from example start·batch on.
      batch: examples a step.
      max_skipped: updates in a row that may be skipped as not finite.

    Returns:
      The state and how many steps it has made: fewer than `steps` after a signal.

    Raises:
      Diverged: more than `max_skipped` updates in a row were not finite; the last good checkpoint stays.
    """
    done, saved, pending = start, start, None

    def read(waited: float = 0.0, last: bool = False) -> None:
        """`last`: right behind the one before. A CPU, which dispatches a step by making it, has made both by then."""
        if pending is None:
            return
        number, metrics = pending
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        report.step(number, values, timed=not last, waited=waited)
        if values["skipped_in_row"] > max_skipped:
            stays = f"; the checkpoint of step {checkpoints.latest} stays" if checkpoints.latest else ""
            raise Diverged(
                f"{values['skipped_in_row']:.0f} updates in a row up to step {number} had a loss or gradient that was not "
                f"finite{stays}: {LOWER}"
            )

    with StopSignal() as stop, ThreadPoolExecutor(1) as watcher:
        with jax.transfer_guard("disallow"):
            ended = watcher.submit(time.monotonic)
            while done < steps and not stop.reached(done):
                asked, examples, came = time.monotonic(), next(batches), time.monotonic()
                # the devices make the step before meanwhile: what is lost is the time from its end, which a thread sees, until the batch came
                waited = came - max(asked, ended.result()) if ended.done() else 0.0
                state, metrics = step_fn(state, examples)
                stop.arm()
                ended = watcher.submit(_ended, metrics)
                read(waited)
                done, pending = done + 1, (done + 1, metrics)
                due = [hook for hook in hooks if done % hook.every == 0 and done < steps]
                save = done % checkpoint_every == 0 and done < steps
                if due or save:
                    read(last=True)
                    pending = None
                    report.pause()
                    with jax.transfer_guard("allow"):
                        report.say_waits()
                        if save:
                            checkpoints.save(done, state, done * batch)
                            saved = done
                        for hook in due:
                            hook.run(done, state)
            read(last=True)
        if done > saved:
            report.pause()
            checkpoints.save(done, state, done * batch)
        checkpoints.wait()
        report.say_waits(again=True)
        if done < steps:
            report.say(f"stopped and saved at step {done} of {steps}; run the same command again to go on")
    return state, done
