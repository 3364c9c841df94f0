"""From clips to captions: frames, answers, checks, answers once more, and rows that a rerun finds done."""
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from core_jax.cores import cores
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from koala_jax.captions.backend import Answers, Failure, Request
from koala_jax.captions.checks import UNUSABLE, Problem, problems
from koala_jax.captions.clips import Clip, sampler
from koala_jax.captions.schema import Caption, Part
from koala_jax.journal import Journal, Row


@dataclasses.dataclass(frozen=True)
class Captioned:
    """What became of one clip: a row of the output."""

    clip: Clip
    caption: Caption = Caption()
    problems: dict[Part, str] = dataclasses.field(default_factory=lambda: dict.fromkeys(Part, Problem.MISSING.value))
    """of the parts that are still wrong; at first all are missing"""
    attempts: int = 0
    """answers that were asked for"""
    caught: dict[str, int] = dataclasses.field(default_factory=dict)
    """problems of all answers, those too that were mended, by name"""
    failed: str = ""
    """why there is no caption at all"""

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask."""
        return not self.problems and not self.failed

    def row(self) -> Row:
        """Columns as WORKSPACE.md names them; `problems` lists "part: what" and is empty for a good caption."""
        return {
            "file": self.clip.file, "start_s": self.clip.start_s, "end_s": self.clip.end_s, "caption": self.caption.text,
            **dataclasses.asdict(self.caption), "words": len(self.caption.text.split()),
            "problems": [f"{part.value}: {what}" for part, what in self.problems.items()], "attempts": self.attempts,
            "caught": [f"{name}: {n}" for name, n in self.caught.items()], "failed": self.failed,
        }  # fmt: skip

    @classmethod
    def of(cls, clip: Clip, row: Row | None) -> "Captioned":
        """From an earlier run's row; a clip without one, or one that could not be read, is as new."""
        if row is None or row["failed"]:
            return cls(clip)
        wrong = {Part(part): what for part, what in (entry.split(": ", 1) for entry in row["problems"])}
        caught = {name: int(number) for name, number in (entry.rsplit(": ", 1) for entry in row["caught"])}
        return cls(clip, Caption(**{part.value: row[part.value] for part in Part}), wrong, row["attempts"], caught)


def caption_group(begun: list[tuple[Captioned, UInt8[np.ndarray, "T H W 3"] | None]], answers: Answers, attempts: int) -> list[Captioned]:
    """Asks for the parts of some clips that are still wrong, and again for those whose answers fail the checks.

    Args:
      begun: what there is of each clip, and its frames.
      attempts: answers that are asked for a part, at most. The last one stays, with what is wrong with it; one that says nothing
        (a failure, a refusal, thoughts, no word) takes no earlier one's place. After a failure a backend has tried enough: it is not asked again.
    """
    texts = [{part: one.caption[part] for part in Part} for one, _ in begun]
    wrong, caught = [dict(one.problems) for one, _ in begun], [dict(one.caught) for one, _ in begun]
    asked = [one.attempts for one, _ in begun]
    open_ = [(i, part) for i in range(len(begun)) for part in wrong[i]]
    again = {(i, part) for i, part in open_ if texts[i][part]}  # an earlier run's answer failed the checks
    for attempt in range(attempts):
        given = answers([Request(begun[i][0].clip, begun[i][1], part, attempt + ((i, part) in again)) for i, part in open_])
        left = []
        for (i, part), answer in zip(open_, given, strict=True):
            asked[i] += 1
            found = [] if isinstance(answer, Failure) else problems(part, answer)
            names = [answer.reason] if isinstance(answer, Failure) else [problem.value for problem in found]
            caught[i] |= {name: caught[i].get(name, 0) + 1 for name in names}
            says = not isinstance(answer, Failure) and not UNUSABLE & {*found}
            if says:
                texts[i][part] = answer
            if says or not texts[i][part]:
                wrong[i][part] = " and ".join(names)
            if found:
                left.append((i, part))
        open_ = left
        if not open_:
            break
    wrong = [{part: what for part, what in mine.items() if what} for mine in wrong]
    return [
        dataclasses.replace(one, caption=Caption.of(texts[i]), problems=wrong[i], attempts=asked[i], caught=caught[i])
        for i, (one, _) in enumerate(begun)
    ]


def caption_clips(begun: list[Captioned], answers: Answers, *, frames: int, side: int, attempts: int, group: int) -> Iterator[list[Captioned]]:
    """Captions of clips in order, `group` at a time, while the frames of the next group are decoded. A clip that cannot be read keeps
    what it has, or else the reason."""
    workers = min(group, cores())
    with DecodePool(workers) as pool, pool.threads() as threads:
        sample = sampler(frames, side, pool)

        def read(one: Captioned) -> UInt8[np.ndarray, "T H W 3"] | str:
            try:
                return sample(one.clip)
            except VideoError as error:
                return error.reason  # the row has its name
            except (ValueError, OSError) as error:
                return str(error)

        groups = [begun[i : i + group] for i in range(0, len(begun), group)]
        reading = [threads.submit(read, one) for one in groups[0]] if groups else []
        for i, members in enumerate(groups):
            shown = [job.result() for job in reading]
            reading = [threads.submit(read, one) for one in groups[i + 1]] if i + 1 < len(groups) else []
            readable = [(one, seen) for one, seen in zip(members, shown) if not isinstance(seen, str)]
            done = iter(caption_group(readable, answers, attempts) if readable else [])
            yield [unread(one, seen) if isinstance(seen, str) else next(done) for one, seen in zip(members, shown)]


def unread(one: Captioned, why: str) -> Captioned:
    """What is left of a clip that cannot be read: an earlier caption, or else the reason."""
    return one if one.caption.text else dataclasses.replace(one, problems={}, failed=why)


def journaled(groups: Iterator[list[Captioned]], journal: Journal, key: Callable[[Clip], str]) -> Iterator[Captioned]:
    """Each clip, when its group's rows lie on the disk, under their keys."""
    for members in groups:
        journal.add([{"key": key(one.clip)} | one.row() for one in members])
        yield from members


SCHEMA = pa.schema([
    ("file", pa.string()), ("start_s", pa.float64()), ("end_s", pa.float64()), ("caption", pa.string()),
    *((part.value, pa.string()) for part in Part),
    ("words", pa.int32()), ("problems", pa.list_(pa.string())), ("attempts", pa.int32()), ("caught", pa.list_(pa.string())),
    ("failed", pa.string()), ("backend", pa.string()),
])  # fmt: skip
