"""From the settings of a training to its samples: videos are cut, degraded and measured once, and kept in OUT/samples."""
import dataclasses
from collections.abc import Callable

from etils import epath

from core_jax.files import of_table
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from koala_jax.metrics import Metric
from koala_jax.metrics.measure import Plan
from koala_jax.score import find
from koala_jax.tsa.config import TrainConfig
from koala_jax.tsa.degrade import Degradation
from koala_jax.tsa.labels import LabelTable
from koala_jax.tsa.samples import Samples, cached, degraded, drawn, joined, labelled


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes the samples of a plan and keeps them in a folder; `say` tells how far it is."""

    folder: epath.Path
    plan: Plan
    kinds: tuple[Degradation, ...]
    pool: DecodePool
    say: Callable[[str], None]

    def kept(self, about: dict, make: Callable[[], Samples]) -> Samples:
        """Those made before of the same, or new ones."""
        measured = [name for metric in self.plan.metrics for name in metric.columns]
        plan = {"fragments": dataclasses.asdict(self.plan.fragments), "draws": self.plan.draws, "seed": self.plan.seed, "columns": measured}
        return cached(self.folder, plan | about, make)

    def pairs(self, clips: str, number: int) -> Samples:
        """All degradations of so many segments of each video of a folder.

        Raises:
          ValueError: no video of it can be used.
        """
        root, parts, kinds = epath.Path(clips), [], [kind.value for kind in self.kinds]
        videos = find(root, root / "scores.parquet").values()
        for done, path in enumerate(videos, 1):
            name = path.name if path == root else str(path.relative_to(root))
            about = {"video": name, "bytes": path.stat().length, "segments": number, "kinds": kinds}
            try:
                parts.append(self.kept(about, lambda: degraded(name, path, self.plan, self.kinds, number, self.pool)))
            except VideoError as error:
                self.say(f"left out: {error}")
            self.say(f"{done} of {len(videos)} videos of {clips}, {sum(map(len, parts))} samples")
        if not parts:
            raise ValueError(f"none of the {len(videos)} videos of {clips} can be used")
        return joined(parts)

    def drawn(self, number: int) -> list[Samples]:
        """The same of so many procedural shots."""
        parts, kinds = [], [kind.value for kind in self.kinds]
        for n in range(number):
            parts.append(self.kept({"drawn": n, "kinds": kinds}, lambda: drawn(n, self.plan, self.kinds, self.pool)))
            self.say(f"{n + 1} of {number} procedural shots")
        return parts


def samples_of(config: TrainConfig, pool: DecodePool, say: Callable[[str], None]) -> tuple[Samples, Samples]:
    """(to train on, to evaluate on), made from the videos or read from OUT/samples."""
    plan = Plan(tuple(Metric), config.network.config(1).fragments, config.draws, config.seed)
    maker = Maker(epath.Path(config.out) / "samples", plan, config.kinds, pool, say)
    if config.clips:
        fit = maker.pairs(config.clips, config.segments)
        fit, judge = (fit, maker.pairs(config.judge, 1)) if config.judge else fit.split(config.held_out, config.seed)
        return joined([fit, *maker.drawn(config.drawn)]), judge
    table = LabelTable.read(config.labels, config.columns)
    videos = {name: of_table(name, config.labels) for name in table.files}
    if absent := [name for name, path in videos.items() if not path.exists()]:
        raise ValueError(f"{config.labels} names {len(absent)} files that are not there, the first {absent[0]}")
    labels = dict(zip(table.files, map(float, table.scores())))
    samples = maker.kept({"labels": labels}, lambda: labelled(videos, labels, plan, pool, say))
    return samples.split(config.held_out, config.seed)
