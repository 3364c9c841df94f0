"""Many videos by one command: the prompts of a file, and the folder that one video after the other comes into.

A video is finished when its file is there. settings.json says with what all of a folder are made, and others are refused.
"""
import collections
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from core_jax import cli
from core_jax.files import existing, read_kept, refuse_filled, write_json
from core_jax.settings import changes
from core_jax.tables import TABLES, read_table, texts
from core_jax.video_out import write_video
from core_jax.words import counted
from videodit_jax.data.folder import score_of
from videodit_jax.data.hosts import gathered
from videodit_jax.maker import Asked, Maker
from videodit_jax.plain import TABLE, write_table

SETTINGS = "settings.json"
LONGEST = 180
"""bytes of a prompt in the name of its files, as many as VBench-2.0's scripts read of one"""
TOGETHER = 64
"""videos that two experts make before the first is read again, which takes as long as some videos do"""
Row = tuple[str, dict[str, float]]
"""a prompt, and its known scores"""


def read(path: epath.PathLike, scores: Iterable[str]) -> list[Row]:
    """The prompts of a text file, one a line, or of a table's column `caption`, with those of these scores that it has columns of.

    Raises:
      ValueError: it cannot be read, there is no prompt in it, or a score is no number.
    """
    path, scores = existing(path), tuple(scores)
    if path.suffix.lower() in TABLES:
        columns = (table := read_table(path, ("caption", *scores))).to_pydict()
        if "caption" not in columns:
            raise ValueError(f"{path} has no column `caption`; its columns are {', '.join(columns)}")
        rows = []
        for i, caption in enumerate(texts(table, "caption", path)):
            own = {name: score_of(columns[name][i], name, f"row {i + 1}", path) for name in scores if name in columns}
            rows.append((caption or "", {name: value for name, value in own.items() if not np.isnan(value)}))
    else:
        try:
            lines = map(str.strip, path.read_bytes().decode("utf-8-sig").split("\n"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: a prompt a line is wanted, or a table ({', '.join(TABLES)})") from error
        rows = [(line, {}) for line in lines if line]
    if not rows:
        raise ValueError(f"{path} holds no prompt")
    return rows


def asked(rows: Sequence[Row], n: int, seed: int) -> list[Asked]:
    """n videos of each prompt, by names as VBench's scripts look for them, PROMPT-INDEX.mp4; where a prompt comes again its index goes on."""
    found, made = [], collections.Counter()
    for prompt, scores in rows:
        stem = re.sub(r"[/\x00-\x1f\x7f]+", " ", prompt).encode()[:LONGEST].decode(errors="ignore").lstrip(" .") or "video"  # with a dot it is hidden
        for i in range(n):
            found.append(Asked(prompt, scores, seed + i, f"{stem}-{made[stem.casefold()]}.mp4"))
            made[stem.casefold()] += 1
    return found


def digest(rows: Sequence[Row], flag: str = "--prompts") -> str:
    """Of all prompts and scores. Raises ValueError: hosts of a job read others."""
    found = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
    if jax.process_count() > 1 and len(set(gathered(found))) > 1:
        raise ValueError(f"every host of a job has to read the same {flag}, and these do not")
    return found


def refuse_other(folder: epath.Path, settings: dict[str, Any]) -> None:
    """Raises ValueError where a folder holds videos that were made with other settings, each named, or something else."""
    if not (folder / SETTINGS).exists():
        refuse_filled(folder, "videos of --prompts")
    elif shown := changes(read_kept(folder / SETTINGS), json.loads(json.dumps(settings))):
        raise ValueError(f"{folder} holds videos that were made otherwise: {shown}; take another --out, or the settings of then")


def begin(folder: epath.Path, settings: dict[str, Any]) -> None:
    """Binds the folder to these settings."""
    write_json(folder / SETTINGS, settings)


def unfinished(folder: epath.Path, all: Sequence[Asked]) -> list[Asked]:
    """Those whose files are not there, by what the first of several hosts sees; all must ask."""
    there = {path.name for path in folder.iterdir()} if folder.exists() else ()
    done = multihost_utils.broadcast_one_to_all(np.array([one.file in there for one in all]))
    return [one for one, is_done in zip(all, done) if not is_done]


def fill(folder: epath.Path, asked: Sequence[Asked], todo: Sequence[Asked], make: Maker, fps: float) -> None:
    """Writes one video after the other, as soon as it is made, and the table of those that are there. Of several hosts all must ask; the first writes."""
    writes, rows, alone = jax.process_index() == 0, make.rows, len(make.sampled) == 1
    group, held = rows if alone else -(-TOGETHER // rows) * rows, make.model(0) if alone and todo else None
    console = cli.console(quiet=not writes)
    with cli.progress("videos", len(asked), console) as done:
        done(len(asked) - len(todo))
        for start in range(0, len(todo), group):
            part = todo[start : start + group]
            videos = make([*part, *part[-1:] * (-len(part) % rows)], held)  # of another number all would be compiled again
            if writes:
                for one, video in zip(part, videos):
                    write_video(folder / one.file, video, fps)
                left = {one.file for one in todo[start + group :]}
                write_table(folder, [one.row for one in asked if one.file not in left])
            done(len(part))
    if writes:
        write_table(folder, [one.row for one in asked])  # which a run that was stopped may not have come to
    more = f", {len(asked) - len(todo)} of which were there" * (len(todo) < len(asked))
    console.print(f"wrote {folder}: {counted(len(asked), 'video')}{more}, and {TABLE}; next: {cli.command('videodit_jax.evaluate', folder)}")
