"""`python -m videodit_jax.control`: does a model trained on `shapes` draw what it is asked for, and move as fast as it is told?

Captions: 64 that training never showed are sampled and read off the pixels (data/check_shapes.py). Control: prompts that name no
speed, the same seeds at every level, motion scores over the training range; what is measured is the tracked displacement of the
shape. The same reading of true clips stands beside both, as the most that a perfect model could get.
"""
import dataclasses

import jax
import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table

from core_jax import cli, mesh
from core_jax.files import in_memory, refuse_unwritable, write_bytes, write_json
from videodit_jax.data.check_shapes import accuracy, check, spearman
from videodit_jax.data.shapes import Shapes, Split
from videodit_jax.media import contact_sheet, write_png
from videodit_jax.run import PRETRAINED, Run, load_model, refuse_expert
from videodit_jax.sampler import Sampler

CAPTIONS = 64
LEVELS, PROMPTS = 8, 8


def _prompts(source: Shapes, number: int) -> list[str]:
    """Captions of the first clips of a source, without their speed."""
    return [source[i]["caption"].split(",")[0] for i in range(number)]


def measure(sampler: Sampler, model) -> tuple[dict, np.ndarray]:
    """The figures, and the videos of the control run (LEVELS·PROMPTS, T, H, W, 3)."""
    T, H, W = sampler.config.video
    source = Shapes(T, H, W, split=Split.HELD_OUT)
    clips = [source[i] for i in range(CAPTIONS)]
    captions = [clip["caption"] for clip in clips]
    seeds = list(range(1000, 1000 + CAPTIONS))
    if "motion" not in sampler.config.model.scores:
        raise ValueError(f"control steers by the motion score, and this run has {', '.join(sampler.config.model.scores)} alone")
    good = {"clarity": 1.0} if "clarity" in sampler.config.model.scores else {}
    sampled = sampler(model, captions, [good] * CAPTIONS, seeds)

    levels = np.linspace(*source.speeds, LEVELS)
    asked = np.repeat(levels, PROMPTS)
    prompts = _prompts(source, PROMPTS) * LEVELS
    videos = sampler(model, prompts, [good | {"motion": float(a)} for a in asked], list(range(PROMPTS)) * LEVELS)
    measured = np.array([check(video).motion for video in videos])
    true = [source[i] for i in range(1000, 1000 + len(asked))]
    figures = {
        "captions": {"sampled": accuracy(sampled, captions), "true clips": accuracy([clip["video"] for clip in clips], captions)},
        "motion": {
            "spearman": spearman(asked, measured),
            "spearman on true clips": spearman(
                np.array([clip["scores"]["motion"] for clip in true]), np.array([check(clip["video"]).motion for clip in true])
            ),
            "asked": asked.tolist(),
            "measured": measured.tolist(),
        },
    }
    return figures, videos


def plot(figures: dict) -> bytes:
    """Measured against asked motion, as PNG."""
    from matplotlib.figure import Figure

    asked, measured = np.array(figures["motion"]["asked"]), np.array(figures["motion"]["measured"])
    figure = Figure((5, 4), layout="constrained")
    axes = figure.subplots()
    levels = np.unique(asked)
    axes.plot(levels, levels, color="0.7", label="as asked")
    axes.scatter(asked, measured, s=12, alpha=0.6, label="one clip")
    axes.plot(levels, [np.median(measured[asked == level]) for level in levels], "k.-", label="median")
    axes.set(xlabel="motion asked for (pixels a frame)", ylabel="motion measured (pixels a frame)", title=f"Spearman's ρ = {figures['motion']['spearman']:.2f}")
    axes.legend()
    return in_memory(lambda file: figure.savefig(file, format="png", dpi=120))


def report(figures: dict, videos: np.ndarray, out: epath.Path, console: Console) -> None:
    """Prints the figures and writes control.json, control.png (the curve) and control_clips.png (one prompt at every level)."""
    table = Table(title=f"{CAPTIONS} unseen captions, read off the pixels")
    rows = figures["captions"]
    for heading in ("", *rows["sampled"]):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.0%}" for value in row.values()))
    console.print(table)
    motion = figures["motion"]
    console.print(
        f"motion control: Spearman's ρ = {motion['spearman']:.3f} between asked and measured over {len(motion['asked'])} clips "
        f"(true clips, read the same way: {motion['spearman on true clips']:.3f})",
    )
    write_json(out / "control.json", figures)
    write_bytes(out / "control.png", plot(figures))
    one = videos[::PROMPTS]
    write_png(out / "control_clips.png", contact_sheet(one, [f"motion {a:.2f} pixels a frame" for a in motion["asked"][::PROMPTS]]))
    console.print(f"wrote {out / 'control.json'}, control.png (the curve) and control_clips.png")


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """Measure how well samples of a run on `shapes` follow captions and motion scores."""

    run: str = str(PRETRAINED)
    """folder of a run or of exported weights"""
    out: str = "control"
    """folder for the figures and pictures"""
    json: str | None = None
    """also write the figures to this file"""


def main(args: list[str]) -> None:
    config = cli.parse(ControlConfig, args, "videodit_jax.control")
    mesh.start(config)
    run = Run.read(config.run)
    if run.config.data != "shapes":
        raise ValueError(f"{config.run} was trained on {run.config.data}: control is measured on runs on shapes, whose truth is known")
    refuse_expert(config.run, run.config)
    refuse_unwritable("--out", epath.Path(config.out) / "control.json")
    on = mesh.build()
    with jax.set_mesh(on):
        figures, videos = measure(Sampler(run.config, run.statistics, on), load_model(config.run, run, on, run.config.dtype.jax))
    if jax.process_index():
        return
    console = cli.console()
    report(figures, videos, epath.Path(config.out), console)
    console.save(config.json, figures)


if __name__ == "__main__":
    cli.run(main)
