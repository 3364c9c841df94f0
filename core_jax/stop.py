"""How a command ends by a signal: within seconds, or after the step in hand where that is worth saving, and by a second Ctrl-C at once.

Python hears of a signal between two of its own instructions: not while XLA compiles or a device is waited for, which can take minutes, and what it
then raises can be lost in a callback of a library. But a byte of each signal is put into a pipe at once, which a thread reads here.
"""
import os
import select
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils
from rich.console import Console

from core_jax import together

PATIENCE = 3.0
"""seconds that Python has to hear of a Ctrl-C; where it has not, nothing is computed that would be kept"""
STOPPED = "stopped; run the same command again to go on"
AT_ONCE = "ended at once; run the same command again to go on from what it had saved"

_heard, _raised = threading.Event(), threading.Event()
"""Python has heard of a Ctrl-C, and has raised KeyboardInterrupt"""
_saves = threading.Event()
"""a `StopSignal` is armed"""


def listen() -> None:
    """From now on Ctrl-C ends this command, unless who started it had it ignored, as a shell does in the background. Called in the main thread."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = _unraisable
    threading.Thread(target=_watch, args=(told,), daemon=True).start()


def asked() -> bool:
    """Whether `interrupt` has raised KeyboardInterrupt, of which a library can make another error."""
    return _raised.is_set()


def interrupt(number, frame) -> None:
    """The handler of a signal that is to stop a command."""
    _heard.set()
    _raised.set()
    raise KeyboardInterrupt


def _unraisable(lost) -> None:
    """Nobody would ever see a KeyboardInterrupt that was raised in a callback of the garbage collector."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        _leave(STOPPED)
    sys.__unraisablehook__(lost)


def _leave(said: str) -> None:
    Console(file=sys.__stdout__).show_cursor()  # which a progress bar hides
    together.leave(said)


def _watch(told: int) -> None:
    before = False
    while True:
        unheard = before and not _heard.is_set() and not _saves.is_set()
        if not select.select([told], [], [], PATIENCE if unheard else None)[0]:
            if not _heard.is_set():
                _leave(STOPPED)
            continue
        for number in os.read(told, 64):
            if number == signal.SIGINT and before:
                _leave(AT_ONCE)
            if _saves.is_set():
                print("stopping after the step in hand; Ctrl-C ends at once", file=sys.stderr, flush=True)
            before = before or number == signal.SIGINT


class StopSignal:
    """Once it is armed, remembers SIGTERM and SIGINT, so that the loop can save and leave; a second SIGINT interrupts at once.

    With several hosts the first one's signal becomes everyone's at the same step, by jax's preemption service, which hears SIGTERM alone.
    """

    def __enter__(self) -> "StopSignal":
        self.asked, self.before = False, {}
        return self

    def arm(self) -> None:
        """Called after a step: before the first one nothing is lost, and to compile it can take minutes."""
        if self.before:
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            if jax.process_count() == 1 or number == signal.SIGINT:
                self.before[number] = signal.signal(number, self._ask)
        _saves.set()

    def _ask(self, number, frame) -> None:
        self.asked = True
        _heard.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if jax.process_count() > 1:
            signal.raise_signal(signal.SIGTERM)

    def __exit__(self, *_) -> None:
        _saves.clear()
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def reached(self, step: int) -> bool:
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.asked
