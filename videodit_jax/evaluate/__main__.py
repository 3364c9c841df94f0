"""`python -m videodit_jax.evaluate VIDEOS…`: VBench's dimensions of videos, those that can be measured here (docs/evaluate.md).

Videos of more than 3 s are judged by VBench-Long's rule. With --json, what is measured is kept in FILE.parts/ as it comes, by the
contents of the files, so that the same command goes on where it stopped. Hosts of a job take the videos in turn.
"""
import dataclasses
import sys
from concurrent.futures import as_completed

import jax
import numpy as np
import tyro
from etils import epath
from rich.console import Console

from core_jax import cli, mesh
from core_jax.cores import cores
from core_jax.files import PICTURES, VIDEOS, existing, sha256, videos
from core_jax.numbers import COUNT, POSITIVE, refuse
from core_jax.pictures import read_image
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax.journal import Journal
from videodit_jax.data.hosts import gathered
from videodit_jax.evaluate import clips, report
from videodit_jax.evaluate.measure import Judges, Measurement
from videodit_jax.evaluate.totals import Dimension


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Measure VBench's dimensions of videos."""

    videos: tyro.conf.Positional[tuple[str, ...]]
    """files, or folders, which are read with their subfolders"""
    images: str | None = None
    """a folder with the image that each video was to start from, by its name (cat.mp4: cat.png): adds i2v_subject and i2v_background"""
    subject: str | None = None
    """directory of the model behind subject consistency, as transformers writes it (VBench: DINO ViT-B/16); else `pixels`"""
    background: str | None = None
    """directory of the model behind background consistency (VBench: CLIP ViT-B/32); else `pixels`, or left out if --subject is not given either"""
    aesthetic: tuple[str, str] | None = None
    """CLIP ViT-L/14 and LAION's linear head, as koala_jax.score takes them: adds aesthetic_quality"""
    workers: int = cores()
    """processes that decode"""
    limit: float = 600.0
    """seconds that a clip may take to decode"""
    json: str | None = None
    """also write the figures, of every video too, to this file; finished work is kept in FILE.parts/, so the same command continues"""

    def __post_init__(self):
        refuse(self, {COUNT: "workers", POSITIVE: "limit"})


def find(paths: tuple[str, ...]) -> list[epath.Path]:
    """The videos that are named. Raises ValueError: nothing there, or no video among it."""
    if not paths:
        raise ValueError("no video is given: name files or folders")
    found = []
    for path in map(epath.Path, paths):
        found += videos(path) if existing(path).is_dir() else [path]
    if not found:
        raise ValueError(f"no video in {', '.join(paths)}: files that end in {', '.join(VIDEOS)} are looked for")
    return list(dict.fromkeys(found))


def images_of(files: list[epath.Path], folder: str | None) -> dict[epath.Path, epath.Path]:
    """The image of each video. Raises ValueError: a video without one."""
    if folder is None:
        return {}
    there = {path.stem: path for path in sorted(epath.Path(folder).iterdir()) if path.suffix.lower() in PICTURES}
    if missing := [file.name for file in files if file.stem not in there]:
        wanted = f"{missing[0]}, which wants {epath.Path(missing[0]).stem}.png"
        raise ValueError(f"{folder} has no image for {len(missing)} of {len(files)} videos, such as {wanted}")
    return {file: there[file.stem] for file in files}


def pixels_of(path: epath.Path) -> np.ndarray:
    """An image, as RGB. Raises VideoError, whose reason names it: it stands for the video's."""
    try:
        return read_image(path)
    except VideoError as error:
        raise VideoError(error.path, str(error)) from error


def evaluate(config: EvaluateConfig, console: Console) -> tuple[dict, Judges, dict]:
    """(per dimension, the models, what goes into the file). Raises ValueError: no video that can be judged."""
    files = find(config.videos)
    images = images_of(files, config.images)
    judges = Judges.load(config.subject, config.background, config.aesthetic)
    settings = judges.settings()
    contents, left_out = {}, {}
    for file in files:
        try:
            contents[file] = sha256(file), sha256(images[file]) if images else None
        except OSError as error:  # as a link to nowhere
            left_out[str(file)] = f"cannot be read: {error.strerror or error}"
            console.print(f"left out: {file}: {left_out[str(file)]}")
    if jax.process_count() > 1 and len(set(gathered(report.manifest(settings, list(contents.values()))))) > 1:
        raise ValueError(f"every host of a job has to see the same videos and models, and of {', '.join(config.videos)} these do not")
    journal = Journal(config.json, settings) if config.json else None
    rows = {key: row["figures"] for key, row in journal.rows().items()} if journal else {}
    share = dict(list({str(contents[file]): file for file in contents}.items())[jax.process_index() :: jax.process_count()])
    todo = {key: file for key, file in share.items() if key not in rows}
    failed = {}

    def one(file: epath.Path) -> dict[str, float]:
        measurement = Measurement(judges, pixels_of(images[file]) if images else None)
        pool.run(clips.read, str(file), judges.views(bool(images)), report=measurement.add)
        return {dimension.value: value for dimension, value in measurement.result().items()}

    with DecodePool(config.workers, seconds=config.limit) as pool, pool.threads() as threads, cli.progress("videos", len(todo), console) as done:
        jobs = {threads.submit(one, file): key for key, file in todo.items()}
        for job in as_completed(jobs):
            done()
            key = jobs[job]
            try:
                rows[key] = job.result()
            except VideoError as error:
                failed[key] = error.reason
                console.print(f"left out: {todo[key]}: {error.reason}")
                continue
            if journal:
                journal.add([{"key": key, "figures": rows[key]}])
    if jax.process_count() > 1:
        for theirs, reasons in gathered([rows, failed]):
            rows, failed = rows | theirs, failed | reasons
    measured = [file for file in contents if str(contents[file]) in rows]
    left_out |= {str(file): failed[str(contents[file])] for file in contents if file not in measured}
    if not measured:
        raise ValueError(f"none of {len(files)} videos can be judged: {': '.join(next(iter(left_out.items())))}")
    per_video = {str(file): rows[str(contents[file])] for file in measured}
    summary = report.summary([{Dimension(name): value for name, value in row.items()} for row in per_video.values()])
    result = {
        "manifest": report.manifest(settings, [contents[file] for file in measured]), "settings": settings,
        "dimensions": {d.value: row | {"by": judges.by(d)} for d, row in summary.items()},
        "totals": report.totals_of(summary, judges), "videos": per_video, "left_out": left_out,
    }  # fmt: skip
    return summary, judges, result


def main(args: list[str]) -> None:
    config, console = cli.parse(EvaluateConfig, args, "videodit_jax.evaluate"), cli.console()
    mesh.start(config)
    try:
        summary, judges, result = evaluate(config, console)
    except KeyboardInterrupt:
        kept = f"the same command goes on from what is measured in {config.json}.parts" if config.json else "without --json nothing is kept"
        sys.exit(f"stopped: {kept}")
    if jax.process_index():
        return
    count, left = len(result["videos"]), len(result["left_out"])
    console.print(report.table(summary, judges, f"{counted(count, 'video')}{f', {left} left out' if left else ''}"))
    for name, total in result["totals"].items():
        console.print(
            f"{name} over {total['dimensions']} dimensions: {100 * total['total']:.2f} (Owl-1 as published, over the same: "
            f"{100 * total['owl_1_published']:.2f}); without {', '.join(total['without'])}; by other means than VBench's, and so not comparable: "
            f"{', '.join(total['by_other_means'])}",
        )  # fmt: skip
    if not judges.comparable:
        hint = "no total: VBench's ranges hold for consistency by DINO ViT-B/16 (--subject DIR) and CLIP ViT-B/32 (--background DIR)"
        console.print(hint)
    console.print(f"manifest {result['manifest'][:16]}: the same videos judged by the same models and settings have the same")
    console.save(config.json, result)
    if not config.json:
        console.print("next: --json figures.json keeps the figures, and what is measured for the next time")


if __name__ == "__main__":
    cli.run(main)
