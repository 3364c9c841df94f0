"""From clips to captions: frames, answers, checks, answers once more, and rows that a rerun finds done."""
import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from core_jax.video_worker import DecodePool
from koala_jax.captions.backend import Answers, Failure, Request
from koala_jax.captions.checks import Problem, problems
from koala_jax.captions.clips import Clip, sample_frames
from koala_jax.captions.schema import Caption, Part
from koala_jax.journal import Journal, Row


@dataclasses.dataclass(frozen=True)
class Captioned:
    """What became of one clip: a row of the output."""

    clip: Clip
    caption: Caption
    problems: dict[Part, str]
    """of the parts that stayed wrong after the last attempt"""
    attempts: int
    """answers that were asked for"""
    caught: dict[str, int]
    """problems of all answers, those too that were mended, by name"""
    failed: str = ""
    """why there is no caption at all"""

    def row(self) -> Row:
        """Columns as WORKSPACE.md names them; `problems` lists "part: what" and is empty for a good caption."""
        return {
            "file": self.clip.file, "start_s": self.clip.start_s, "end_s": self.clip.end_s, "caption": self.caption.text,
            **dataclasses.asdict(self.caption), "words": len(self.caption.text.split()),
            "problems": [f"{part.value}: {what}" for part, what in self.problems.items()], "attempts": self.attempts,
            "caught": [f"{name}: {n}" for name, n in self.caught.items()], "failed": self.failed,
        }  # fmt: skip


def caption_group(clips: list[tuple[Clip, UInt8[np.ndarray, "T H W 3"]]], answers: Answers, attempts: int) -> list[Captioned]:
    """Captions of some clips; a part whose answer fails the checks is asked for again.

    Args:
      attempts: answers that are asked for a part, at most. The last one stays, with what is wrong with it, but for a refusal.
    """
    texts = [dict.fromkeys(Part, "") for _ in clips]
    wrong: list[dict[Part, str]] = [{} for _ in clips]
    caught: list[dict[str, int]] = [{} for _ in clips]
    asked = [0] * len(clips)
    open_ = [(i, part) for i in range(len(clips)) for part in Part]
    for attempt in range(attempts):
        given = answers([Request(*clips[i], part, attempt) for i, part in open_])
        left = []
        for (i, part), answer in zip(open_, given, strict=True):
            asked[i] += 1
            found = [] if isinstance(answer, Failure) else problems(part, answer)
            names = [answer.reason] if isinstance(answer, Failure) else [problem.value for problem in found]
            caught[i] |= {name: caught[i].get(name, 0) + 1 for name in names}
            texts[i][part] = "" if isinstance(answer, Failure) or Problem.REFUSED in found else answer
            wrong[i].pop(part, None)
            if names:
                wrong[i][part] = " and ".join(names)
                left.append((i, part))
        open_ = left
        if not open_:
            break
    return [Captioned(clip, Caption.of(texts[i]), wrong[i], asked[i], caught[i]) for i, (clip, _) in enumerate(clips)]


def caption_clips(
    clips: list[Clip], answers: Answers, *, frames: int, side: int, attempts: int, group: int, workers: int = 2
) -> Iterator[Captioned]:
    """Captions of all clips in order, `group` at a time, while the frames of the next group are decoded. A clip that cannot be read
    keeps its reason."""
    with DecodePool(workers) as pool, ThreadPoolExecutor(workers) as threads:

        def read(clip: Clip) -> UInt8[np.ndarray, "T H W 3"] | str:
            try:
                return sample_frames(clip, frames, side, pool)
            except (ValueError, OSError) as error:
                return str(error)

        groups = [clips[i : i + group] for i in range(0, len(clips), group)]
        reading = [threads.submit(read, clip) for clip in groups[0]] if groups else []
        for i, members in enumerate(groups):
            shown = [job.result() for job in reading]
            reading = [threads.submit(read, clip) for clip in groups[i + 1]] if i + 1 < len(groups) else []
            readable = [(clip, seen) for clip, seen in zip(members, shown) if not isinstance(seen, str)]
            done = iter(caption_group(readable, answers, attempts) if readable else [])
            for clip, seen in zip(members, shown):
                yield Captioned(clip, Caption(), {}, 0, {}, seen) if isinstance(seen, str) else next(done)


def good_rows(journal: Journal) -> dict[str, Row]:
    """Rows of earlier runs by their clips' names; clips that failed, or kept a problem, are left out, to be tried again."""
    return {name: row for name, row in journal.rows().items() if not row["failed"] and not row["problems"]}


def keep(journal: Journal, captioned: Captioned) -> Row:
    """The row, on the disk when this returns."""
    row = {"key": captioned.clip.name} | captioned.row()
    journal.add([row])
    return row


SCHEMA = pa.schema([
    ("file", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()), ("caption", pa.string()),
    *((part.value, pa.string()) for part in Part),
    ("words", pa.int32()), ("problems", pa.list_(pa.string())), ("attempts", pa.int32()), ("caught", pa.list_(pa.string())),
    ("failed", pa.string()), ("backend", pa.string()),
])  # fmt: skip
