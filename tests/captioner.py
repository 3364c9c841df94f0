"""`python -m tests.captioner`: a tiny captioner learns six-part captions of clips whose truth is known; what the paper found, on our data.

Four runs of `koala_jax.captions.train`: videos alone, or images mixed in; the vision tower trained, or as it was drawn. A run that was
cut off goes on; one that ended is only judged again.
"""
import dataclasses
from pathlib import Path

from rich.console import Console
from rich.table import Table

from core_jax import cli
from core_jax.files import write_json
from koala_jax.captions import train
from koala_jax.captions.schema import Part
from tests.koala.six_part_shapes import write


@dataclasses.dataclass(frozen=True)
class CaptionerConfig:
    """Train and judge four captioners. A right answer is the reference word for word; held-out clips are other ones of the same kinds."""

    out: Path = Path("runs/captioners")
    clips: int = 640
    """of which a tenth is held out"""
    steps: int = 2000
    batch: int = 16
    learning_rate: float = 4e-3
    images: float = 0.3
    """share of examples that are one frame, where images are mixed in"""
    only: int | None = None
    """one of the four alone, 0 to 3"""
    json: Path | None = None
    """also write the figures here"""


def rows(config: CaptionerConfig) -> list[tuple[str, float, bool]]:
    """(name, share of images, whether the tower trains) of each run."""
    return [
        (f"{'images and video' if images else 'video only'}, tower {'trained' if tower else 'frozen'}", images, tower)
        for tower in (True, False) for images in (0.0, config.images)
    ]  # fmt: skip


def run(config: CaptionerConfig, number: int) -> dict[str, dict[str, float]] | None:
    """The figures of one run; None where it was stopped. Raises ValueError where it was begun with other settings."""
    _, images, tower = rows(config)[number]
    found = train.train(train.TrainConfig(
        data=str(clips(config)), out=str(config.out / str(number)), images=images, tower=tower, steps=config.steps, batch=config.batch,
        learning_rate=config.learning_rate, checkpoint_every=200,
    ))  # fmt: skip
    return found or None


def clips(config: CaptionerConfig) -> Path:
    """The table of the clips, which are drawn where they are not there yet."""
    folder = config.out / f"{config.clips}-clips"
    table = folder / "captions.parquet"
    return table if table.exists() else write(folder, config.clips)


def table(config: CaptionerConfig, found: dict[int, dict[str, dict[str, float]]]) -> Table:
    """A row for each run, and what always giving the commonest answer would reach."""
    first = next(iter(found.values()))
    shown = Table("right answers", title=f"{first[Part.SUBJECT.value]['clips']} held-out clips")
    for part in Part:
        shown.add_column(part.value.split("_")[0], justify="right")
    for number, figures in found.items():
        shown.add_row(rows(config)[number][0], *(f"{figures[part.value]['right']:.0%}" for part in Part))
    shown.add_section()
    shown.add_row("always the commonest", *(f"{first[part.value]['commonest']:.0%}" for part in Part))
    return shown


def main(args: list[str]) -> None:
    config, console = cli.parse(CaptionerConfig, args, "tests.captioner"), Console()
    found = {}
    for number in range(4) if config.only is None else [config.only]:
        console.rule(rows(config)[number][0])
        figures = run(config, number)
        if figures is None:
            return
        found[number] = figures
    console.print(table(config, found))
    if config.json:
        write_json(config.json, {rows(config)[number][0]: figures for number, figures in found.items()})
        console.print(f"wrote {config.json}", highlight=False)


if __name__ == "__main__":
    cli.run(main)
