"""What every command does around its work: typed flags, one sentence for bad input, a cache of compiled programs."""
import contextlib
import gc
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from core_jax import stop, together
from core_jax.files import refuse_unwritable, write_json
from core_jax.numbers import SEED, refuse
from core_jax.pod.topology import NO_TPU_HERE

Config = TypeVar("Config")
Thing = TypeVar("Thing")

EXTRAS = {
    "gcsfs": ("a path in gs://", "tpu"), "torch": ("this command", "reproduce"), "transformers": ("this command", "reproduce"),
    "diffusers": ("this command", "reproduce"),
}  # fmt: skip
"""packages that a plain install does not bring: what needs them, and the extra that brings them"""

CONFIG = (tyro.conf.EnumChoicesFromValues, tyro.conf.PositionalMetavarFromFieldName, tyro.conf.DisallowNone)
"""how tyro writes and reads a command line"""

SAY_SECONDS = 30
"""between two lines of a log about how far a command is"""


def on_cpu() -> None:
    """For a command that needs no chip: a TPU or GPU of this machine stays free. Called before anything touches a device."""
    jax.config.update("jax_platforms", "cpu")


def parse(kind: type[Config], args: list[str], module: str, default: Config | None = None) -> Config:
    """The command line of `python -m module`, derived from a dataclass; enums are given by their values.

    Raises:
      ValueError: a --seed that no generator of random numbers takes; a --json that does not end so, and may be a video or a table, or that cannot
        be written.
    """
    given = {} if default is None else {"default": default}
    found = tyro.cli(kind, args=args, prog=f"python -m {module}", config=CONFIG, **given)
    if hasattr(found, "seed"):
        refuse(found, {SEED: "seed"})
    if json := getattr(found, "json", None):
        refuse_unwritable("--json", json, ".json")
    return found


class Screen(Console):
    """What a command prints on. Words are one line, however long, so that a path or a command among them can be copied; where a table is too wide,
    what a cell holds goes on below, and nothing of it is left out."""

    def print(self, *objects: Any, **how: Any) -> None:
        for column in (column for each in objects if isinstance(each, Table) for column in each.columns if not column.no_wrap):
            column.overflow = "fold"
        super().print(*objects, **{"soft_wrap": all(isinstance(each, str) for each in objects)} | how)

    def save(self, path: epath.PathLike | None, figures: Any) -> None:
        """Writes what --json asks for, if it was given, and says so."""
        if path:
            write_json(path, figures)
            self.print(f"wrote {path}")


def console(quiet: bool = False) -> Screen:
    """Names and reasons are shown as they are: neither [brackets] nor :colons: around a word mean anything. A log has no edge that would cut tables."""
    return Screen(markup=False, emoji=False, highlight=False, quiet=quiet, width=None if sys.stdout.isatty() else 1000)


@contextlib.contextmanager
def progress(what: str, total: int, console: Console) -> Iterator[Callable[..., None]]:
    """Shows how far a command is: a bar on a terminal, and in a log a line every SAY_SECONDS, as "120 of 1,000 clips, 8.5 a minute".

    Yields:
      done(more=1, note=""): so many more are done; `note` stands behind the figures. It may be called by several threads.
    """
    times = TimeElapsedColumn(), TimeRemainingColumn()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times, TextColumn("{task.fields[note]}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, note="")
        begun = said = time.monotonic()

        def done(more: int = 1, note: str = "") -> None:
            nonlocal said
            bar.update(task, advance=more, **({"note": note} if note else {}))
            now = time.monotonic()
            if not console.is_terminal and now - said >= SAY_SECONDS:
                said, number = now, int(bar.tasks[0].completed)
                rate = 60 * number / max(now - begun, 1e-9)
                console.print(f"{number:,} of {total:,} {what}, {rate:.1f} a minute{note and f', {note}'}")

        yield done


def tracked(things: Sequence[Thing], what: str) -> Iterator[Thing]:
    """The things one after the other, with `progress`."""
    with progress(what, len(things), console()) as done:
        for thing in things:
            yield thing
            done()


def command(module: str, *words: object) -> str:
    """The command line, as a shell takes it, of what a command advises to run next."""
    return f"python -m {module} {shlex.join(map(str, words))}"


def given(args: list[str], flag: str, default: str) -> str:
    """What a command line gives for a flag that must be known before the others are parsed; given twice, the last counts, as it does to tyro."""
    words = ((*word.partition("="), after) for word, after in zip(args, [*args[1:], ""]))
    values = (value if equals else after for name, equals, value, after in words if name.replace("_", "-") == flag)  # tyro takes either spelling
    return [default, *values][-1]


def cache_compilations() -> None:
    """Keeps compiled programs in ~/.cache/videogen_jax (or where JAX_COMPILATION_CACHE_DIR says), so that a rerun starts at once."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        with contextlib.suppress(RuntimeError):  # a user without a home, as in a container
            jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "videogen_jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def collect_rarely() -> None:
    """Tracing a program makes and drops so many objects that Python's garbage collector, left as it is, takes a tenth of a short run."""
    gc.set_threshold(20_000, 10, 10)


def hush_libtpu() -> None:
    """Where libtpu is installed to plan with and there is no chip, it would open every command with lines about what it did not find."""
    if "TPU_ML_PLATFORM" not in os.environ:  # which jax sets on being imported where it finds one
        for name, value in NO_TPU_HERE.items():
            os.environ.setdefault(name, value)


class ToStderr(logging.Handler):
    """Writes to what sys.stderr is by then: a progress bar takes its place, so that lines come above it. Tracebacks are left out, of which orbax
    logs seven where a disk is full (VIDEOGEN_DEBUG=1: all)."""

    def emit(self, record: logging.LogRecord) -> None:
        if not os.environ.get("VIDEOGEN_DEBUG"):
            record.exc_info = record.exc_text = None
        with contextlib.suppress(OSError, ValueError):  # a closed stderr
            print(self.format(record), file=sys.stderr)


def run(command: Callable[[list[str]], None]) -> None:
    """Calls a command with its arguments; bad input, or Ctrl-C, is one sentence on stderr and exit status 1 (VIDEOGEN_DEBUG=1: a traceback).

    A flag that cannot be read is tyro's to refuse, with a message of its own and exit status 2, as most commands do. What is said to a closed stdout
    or stderr goes nowhere.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[ToStderr()], force=True)
    for package in ("core_jax", "koala_jax", "videodit_jax", "scaling_jax", "owl_jax"):
        logging.getLogger(package).setLevel(logging.INFO)
    collect_rarely()
    cache_compilations()
    hush_libtpu()
    stop.listen()
    try:
        _run(command)
    except BaseException as error:
        together.fail(error)
        if stop.asked() and not os.environ.get("VIDEOGEN_DEBUG"):  # at exit Python would wait for what is still compiled
            together.leave(error.code if isinstance(error, SystemExit) and isinstance(error.code, str) else stop.STOPPED)
        raise


def _run(command: Callable[[list[str]], None]) -> None:
    try:
        command(sys.argv[1:])
    except ImportError as error:
        missing = next((name for name in EXTRAS if name in str(error)), None)
        if missing is None or os.environ.get("VIDEOGEN_DEBUG"):
            raise
        what, extra = EXTRAS[missing]
        sys.exit(f"error: {what} needs the package {missing}, which the extra `{extra}` brings: pip install -e '.[{extra}]'")
    except KeyboardInterrupt:
        if os.environ.get("VIDEOGEN_DEBUG"):
            raise
        sys.exit(stop.STOPPED)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and not out_of_memory(error) or os.environ.get("VIDEOGEN_DEBUG"):
            raise
        sys.exit(f"error: {sentence(error)}")


def out_of_memory(error: Exception) -> bool:
    """Of this machine or of a device."""
    return isinstance(error, MemoryError) or isinstance(error, jax.errors.JaxRuntimeError) and str(error).startswith("RESOURCE_EXHAUSTED")


def sentence(error: Exception) -> str:
    """An error without the number that the system gives it, also where another's sentence ends with it; of what did not fit into memory the first line."""
    if out_of_memory(error):
        return f"there is not enough memory: {str(error).splitlines()[0]}" if str(error) else "there is not enough memory"
    if not isinstance(error, OSError) or not error.filename:
        return re.sub(r"\[Errno \d+\] ", "", str(error))
    if isinstance(error, FileNotFoundError):
        return f"there is no file or folder {error.filename}"
    if isinstance(error, IsADirectoryError):
        return f"{error.filename} is a folder, and a file is wanted"
    if isinstance(error, FileExistsError | NotADirectoryError):
        path = Path(str(error.filename))
        file = next((above for above in (path, *path.parents) if above.is_file()), path)
        return f"{file}: there is a file of this name, and a folder is wanted"
    return f"{error.filename}: {error.strerror}"
