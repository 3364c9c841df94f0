"""From the settings of a training to its samples: videos are cut, degraded and measured once, and kept in OUT/samples."""
import dataclasses
from collections.abc import Callable

from etils import epath

from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from koala_jax.metrics import Metric
from koala_jax.metrics.measure import Plan
from koala_jax.score import find
from koala_jax.tsa.config import TrainConfig
from koala_jax.tsa.labels import LabelTable
from koala_jax.tsa.samples import Samples, cached, degraded, drawn, joined, labelled


def samples_of(config: TrainConfig, pool: DecodePool, say: Callable[[str], None]) -> tuple[Samples, Samples]:
    """(to train on, to evaluate on), made from the videos or read from OUT/samples."""
    fragments, folder = config.network.config(1).fragments, epath.Path(config.out) / "samples"
    plan = Plan(tuple(Metric), fragments, config.draws, config.seed)
    measured = [name for metric in plan.metrics for name in metric.columns]
    settings = {"fragments": dataclasses.asdict(fragments), "draws": config.draws, "seed": config.seed, "columns": measured}
    kinds = [kind.value for kind in config.kinds]

    def pairs_of(clips: str, segments: int) -> Samples:
        root, parts = epath.Path(clips), []
        videos = find(root, root / "scores.parquet").values()
        for number, path in enumerate(videos, 1):
            name = path.name if path == root else str(path.relative_to(root))
            about = {"video": name, "bytes": path.stat().length, "segments": segments, "kinds": kinds}
            try:
                parts.append(cached(folder, settings | about, lambda: degraded(name, path, plan, config.kinds, segments, pool)))
            except VideoError as error:
                say(f"left out: {error}")
            say(f"{number} of {len(videos)} videos of {clips}, {sum(map(len, parts))} samples")
        if not parts:
            raise ValueError(f"none of the {len(videos)} videos of {clips} can be used")
        return joined(parts)

    def drawn_too(fit: Samples) -> Samples:
        parts = [fit]
        for number in range(config.drawn):
            parts.append(cached(folder, settings | {"drawn": number, "kinds": kinds}, lambda: drawn(number, plan, config.kinds, pool)))
            say(f"{number + 1} of {config.drawn} procedural shots")
        return joined(parts)

    if config.clips:
        fit = pairs_of(config.clips, config.segments)
        fit, judge = (fit, pairs_of(config.judge, 1)) if config.judge else fit.split(config.held_out, config.seed)
        return drawn_too(fit), judge
    table = LabelTable.read(config.labels, config.columns)
    videos = {name: epath.Path(config.labels).parent / name for name in table.files}
    if absent := [name for name, path in videos.items() if not path.exists()]:
        raise ValueError(f"{config.labels} names {len(absent)} files that are not there, the first {absent[0]}")
    labels = dict(zip(table.files, map(float, table.scores())))
    samples = cached(folder, settings | {"labels": labels}, lambda: labelled(videos, labels, plan, pool, say))
    return samples.split(config.held_out, config.seed)
