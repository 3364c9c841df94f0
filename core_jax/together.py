"""Hosts of a job are given the same settings and end together: one that fails says why, where the others would wait for it for minutes and then
be aborted, and settings that differ would let them wait for ever."""
import contextlib
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable

import jax
from jax._src import distributed  # the store that a job's hosts share has no public name
from jax.experimental import multihost_utils

from core_jax.settings import changes, flat, to_json

FAILED = "videogen_failed"
ASK_SECONDS = 1
"""between two looks for one that has failed"""
LEAVE_SECONDS = 4
"""after which one that fails leaves, and the first one, which keeps the store: by then the others have heard of it"""
SETTINGS_MS = 300_000
"""that a host waits for the first one's settings"""

job = distributed.global_state
"""what it holds is known before a backend starts, which jax.process_index() would do"""

_ending, _asked = threading.Lock(), itertools.count()


def refuse_unlike(config: object) -> None:
    """Raises ValueError on a host whose settings are not the first one's; every host has to ask, in the same order."""
    client = job.client
    if client is None or job.num_processes == 1:
        return
    mine, name = flat(to_json(config)), f"videogen_settings_{next(_asked)}"
    mine.pop("workers", None)  # as many as a host has cores
    if job.process_id == 0:
        return client.key_value_set(name, json.dumps(mine))
    if shown := changes(json.loads(client.blocking_key_value_get(name, SETTINGS_MS)), mine):
        other = shown.replace(" was ", " is not ").replace(", now ", " but ")
        raise ValueError(f"every host needs the same settings, and on host {job.process_id} {other}")


def looked() -> bool:
    """Once every host has looked at a run's folder, whether this one writes into it: one that looks later would find what is no run of its own."""
    multihost_utils.sync_global_devices("every host has looked at the folder")
    return jax.process_index() == 0


def listen() -> None:
    """From now on, until it leaves its job, this process ends when another host of the job has failed."""
    threading.Thread(target=_listen, args=(job.client,)).start()


def _listen(client) -> None:
    while job.client is client and threading.main_thread().is_alive():  # the end of a program waits for its threads before it leaves the job
        time.sleep(ASK_SECONDS)
        try:
            said = client.key_value_try_get(FAILED)
        except jax.errors.JaxRuntimeError:  # none has
            continue
        time.sleep(ASK_SECONDS)
        return _end(said, LEAVE_SECONDS if job.process_id == 0 else 0)


def fail(error: BaseException) -> None:
    """Ends this process by an error, and with it the other hosts of its job, if there are any. A mere exit status is one that all end with."""
    said = error.code if isinstance(error, SystemExit) else "".join(traceback.format_exception(error)).rstrip()
    if job.client is not None and job.num_processes > 1 and isinstance(said, str):
        leave(said)


def leave(said: str) -> None:
    """Ends this process at once and with status 1, and with it the other hosts of its job, if there are any."""
    client = job.client
    if client is None or job.num_processes == 1:
        _end(said, 0)
    _end(said, LEAVE_SECONDS, lambda: client.key_value_set(FAILED, f"host {job.process_id} ended with {said.splitlines()[-1]}", allow_overwrite=True))


def _end(said: str, seconds: float, tell: Callable[[], None] = lambda: None) -> None:
    """Who comes second, of `_listen` and `leave`, has nothing to add: an error may follow from another host's end."""
    with _ending:
        for each in (tell, lambda: print(said, file=sys.stderr, flush=True), sys.stdout.flush):
            with contextlib.suppress(OSError, ValueError, jax.errors.JaxRuntimeError):  # a closed stderr, or a first host that has gone
                each()
        time.sleep(seconds)
        os._exit(1)  # at exit jax would wait for hosts that wait for this one
