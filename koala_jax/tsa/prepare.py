"""From the settings of a training to its samples: videos are cut, degraded and measured once, and kept in OUT/samples."""
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from etils import epath

from core_jax import files
from core_jax.cli import SAY_SECONDS
from core_jax.tables import of_table
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax import metrics, x264
from koala_jax.metrics.measure import Plan
from koala_jax.shots.inputs import named
from koala_jax.transitions.synthesis import shots
from koala_jax.tsa import degrade, fragments, segments
from koala_jax.tsa.config import TrainConfig
from koala_jax.tsa.degrade import Degradation
from koala_jax.tsa.labels import LabelTable
from koala_jax.tsa.samples import METRICS, Samples, cached, degraded, drawn, joined, labelled, whole

CODE = *sorted(Path(metrics.__file__).parent.glob("*.py")), *(Path(module.__file__) for module in (degrade, fragments, segments, shots, x264))
"""what a sample depends on beside its video and the plan"""


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes the samples of a plan and keeps them in a folder; `say` tells how far it is."""

    folder: epath.Path
    plan: Plan
    kinds: tuple[Degradation, ...]
    pool: DecodePool
    say: Callable[[str], None]

    def kept(self, about: dict, make: Callable[[], Samples]) -> Samples:
        """Those that this code made before of the same, or new ones."""
        code = hashlib.sha256(b"".join(path.read_bytes() for path in CODE)).hexdigest()
        plan = {"fragments": dataclasses.asdict(self.plan.fragments), "draws": self.plan.draws, "seed": self.plan.seed, "code": code}
        return cached(self.folder, plan | about, make)

    def of_video(self, name: str, path: epath.Path, about: dict, make: Callable[[str, epath.Path], Samples]) -> Samples:
        """Those of a video, by its name and size. Raises VideoError: it cannot be used."""
        try:
            size = path.stat().length
        except OSError as error:
            raise VideoError(name, f"cannot be read: {error.strerror or error}") from error
        return self.kept({"video": name, "bytes": size} | about, functools.partial(make, name, path))

    def each(self, what: str, tasks: list[Callable[[], Samples]]) -> list[Samples]:
        """What the tasks give, in order, as many at a time as the pool has workers; a video that cannot be used is left out and named.

        Raises:
          ValueError: none gives anything.
        """
        parts, said = [], 0.0
        for done, part in enumerate(self.pool.each(lambda task: task(), tasks), 1):
            if isinstance(part, VideoError):
                self.say(f"left out: {part}")
            else:
                parts.append(part)
            if done == len(tasks) or time.monotonic() - said > SAY_SECONDS:
                self.say(f"{done} of {len(tasks)} {what}, {counted(sum(map(len, parts)), 'sample')}")
                said = time.monotonic()
        if not parts:
            raise ValueError(f"of {len(tasks)} {what} none can be used")
        return parts

    def pairs(self, clips: str, number: int) -> Samples:
        """All degradations of so many segments of each video of a folder. Raises ValueError: no video of it can be used."""
        root = files.whole(clips)
        videos = {path.name if path == root else str(path.relative_to(root)): path for path in named(root, root).values()}
        make = functools.partial(degraded, plan=self.plan, kinds=self.kinds, number=number, pool=self.pool)
        about = {"segments": number, "kinds": [kind.value for kind in self.kinds]}
        return joined(self.each(f"videos of {clips}", [functools.partial(self.of_video, *video, about, make) for video in videos.items()]))

    def drawn(self, number: int) -> list[Samples]:
        """The same of so many procedural shots."""
        kinds = [kind.value for kind in self.kinds]
        make = functools.partial(drawn, plan=self.plan, kinds=self.kinds, pool=self.pool)
        tasks = [functools.partial(self.kept, {"drawn": n, "kinds": kinds}, functools.partial(make, n)) for n in range(number)]
        return self.each("procedural shots", tasks) if tasks else []

    def labelled(self, table: epath.PathLike, columns: tuple[str, ...]) -> Samples:
        """Videos with their scores of people. Raises ValueError: no such table, a file that is not there, or none that can be used."""
        labels = LabelTable.read(table, columns)
        videos = {name: of_table(name, table) for name in labels.files}
        if absent := [name for name, path in videos.items() if not path.exists()]:
            raise ValueError(f"{table} names {counted(len(absent), 'clip')} without a file, the first {absent[0]}")
        make = functools.partial(whole, plan=self.plan, pool=self.pool)
        parts = self.each("labelled videos", [functools.partial(self.of_video, *video, {}, make) for video in videos.items()])
        return labelled(parts, dict(zip(labels.files, map(float, labels.scores()))))


def samples_of(config: TrainConfig, pool: DecodePool, say: Callable[[str], None]) -> tuple[Samples, Samples]:
    """(to train on, to evaluate on), made from the videos or read from OUT/samples."""
    plan = Plan(METRICS, config.network.config(1).fragments, config.draws, config.seed)
    maker = Maker(epath.Path(config.out) / "samples", plan, config.kinds, pool, say)
    if config.clips:
        fit = maker.pairs(config.clips, config.segments)
        fit, judge = (fit, maker.pairs(config.judge, 1)) if config.judge else fit.split(config.held_out, config.seed)
        return joined([fit, *maker.drawn(config.drawn)]), judge
    return maker.labelled(config.labels, config.columns).split(config.held_out, config.seed)
