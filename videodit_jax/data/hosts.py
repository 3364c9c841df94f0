"""Hosts of a job that open the same data: what one of them finds or fails at, all of them learn."""
import hashlib
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils


class Unlike(ValueError):
    """Hosts see different data, and all of them know."""


def gathered(value: Any) -> list:
    """A JSON value of each host, on every host; all of them must ask."""
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
    rows = multihost_utils.process_allgather(np.pad(data, (0, sizes.max() - len(data))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes)]


def exchanged(data: epath.PathLike, value: dict) -> list[dict]:
    """As `gathered`, while `the_same` opens: a host that has failed before does not keep the others waiting.

    Raises:
      Unlike: one has.
    """
    rows = gathered({"meanwhile": value})
    host = next((host for host, row in enumerate(rows) if "meanwhile" not in row), None)
    if host is not None:
        raise Unlike(f"every host needs the same data, and in {data} host {host} sees none that it can read")
    return [row["meanwhile"] for row in rows]


def the_same(data: str, opened: Callable[[], tuple]) -> tuple:
    """The sources that are opened, the same on every host of the job; so every host has to call it.

    Raises:
      ValueError: they cannot be opened, or are not the same for every host. Then every host raises.
    """
    try:
        sources, failed = opened(), None
    except Unlike:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        sources, failed = (), error
    unlike = _unlike(data, sources) if jax.process_count() > 1 else None
    if failed or unlike:
        raise failed or ValueError(unlike)
    return sources


def _unlike(data: str, sources: tuple) -> str | None:
    """A sentence if hosts see different clips: they exchange the numbers of clips, and a digest of the content."""
    digest = hashlib.sha256("".join(source.fingerprint for source in sources).encode()).hexdigest()
    rows = gathered({"clips": [len(source) for source in sources], "digest": digest})
    host = next((host for host, row in enumerate(rows) if row != rows[0]), None)
    if host is None:
        return None
    counts = [row.get("clips") for row in (rows[0], rows[host])]
    first, other = ("{} clips to train on and {} held out".format(*clips) if clips else "none that it can read" for clips in counts)
    differ = "the same numbers of other clips" if first == other else other
    return f"every host needs the same data, and in {data} host 0 sees {first}, host {host} {differ}"
