"""`python -m tests.captioner`: a tiny captioner learns six-part captions of clips whose truth is known; what the paper found, on our data.

A captioner is fine-tuned from a model that sees and speaks, so one is made first: its vision tower learns alone to see (`seeing.py`), then
the whole learns to list what is seen. From it start four runs of `koala_jax.captions.train`: videos alone, or images mixed in; the vision
tower trained, or left as it is. What was cut off goes on, the tower from its beginning; what ended is only judged again.
"""
import dataclasses
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from core_jax import cli, mesh
from core_jax.lmm.config import DecoderConfig, TowerConfig
from core_jax.lmm.fresh import fresh, fresh_config
from core_jax.lmm.model import LMM
from core_jax.lmm.save import save
from core_jax.lmm.tokenizer import Tokenizer
from core_jax.remat import Remat
from koala_jax.captions import train
from koala_jax.captions.clips import open_clips
from koala_jax.captions.schema import Caption, Part, prompt
from tests.koala import seeing
from tests.koala.six_part_shapes import SIDE, one_sentence, six_parts, write
from videodit_jax.data.shapes import Shapes


@dataclasses.dataclass(frozen=True)
class CaptionerConfig:
    """Train and judge four captioners. A right answer is the reference word for word; held-out clips are other ones of the same kinds."""

    out: Path = Path("runs/captioners")
    """folder of the runs"""
    seeing_steps: int = 1200
    """steps of 64 frames in which the tower learns to see"""
    listed: int = 6400
    """clips whose frames the tower sees, and as many others that the whole model learns to list"""
    listing_steps: int = 2500
    """steps in which the whole model learns to list"""
    clips: int = 1280
    """clips captioned in six parts, of which a tenth is held out"""
    steps: int = 1000
    """steps of each captioner"""
    batch: int = 16
    """examples a step"""
    images: float = 0.3
    """share of examples that are one frame, where images are mixed in"""
    only: int | None = None
    """one of the four alone, 0 to 3"""
    json: Path | None = None
    """also write the figures here"""

    def __post_init__(self):
        if self.only not in (None, 0, 1, 2, 3):
            raise ValueError(f"--only {self.only} is none of the four runs, 0 to 3")
        if not 0 < self.images <= 1:
            raise ValueError(f"--images {self.images} is a share of examples to mix in: it must lie above 0 and up to 1")
        if min(self.listed, self.clips) < 20:
            raise ValueError(f"--listed {self.listed} and --clips {self.clips} must be at least 20, so that two are held out")
        if min(self.seeing_steps, self.listing_steps, self.steps, self.batch) < 1:
            raise ValueError("--seeing-steps, --listing-steps, --steps and --batch must be at least 1")


def rows(config: CaptionerConfig) -> list[tuple[str, float, bool]]:
    """(name, share of images, whether the tower trains) of each run."""
    return [
        (f"{'images and video' if images else 'video only'}, tower {'trained' if tower else 'frozen'}", images, tower)
        for tower in (True, False) for images in (0.0, config.images)
    ]  # fmt: skip


def trained(config: CaptionerConfig, name: str, **settings) -> dict[str, dict[str, float]] | None:
    """The figures of one run; None where it was stopped. Raises ValueError where it was begun with other settings."""
    settings |= {"batch": config.batch, "side": SIDE, "checkpoint_every": 500}
    settings["remat"] = Remat.FULL  # on a CPU it is faster to compute again than to save
    return train.train(train.TrainConfig(out=str(config.out / name), **settings)) or None


def run(config: CaptionerConfig) -> dict[str, dict[str, dict[str, float]]] | None:
    """The figures of each run by its name; None where one was stopped."""
    mesh.start(None)
    console, found = cli.console(), {}
    listed = clips(config.out / f"{config.listed}-listed", config.listed, one_sentence, seed=1)
    captioned = clips(config.out / f"{config.clips}-captioned", config.clips, six_parts, seed=0)
    console.print("seeing")
    seer = seeing_captioner(config, [listed, captioned], console)
    console.print("listing what is seen")
    if trained(config, "listing", data=listed, init=seer, images=0.0, steps=config.listing_steps) is None:
        return None
    for number, (name, images, tower) in enumerate(rows(config)):
        if config.only in (None, number):
            console.print(name)
            found[name] = trained(
                config, str(number), data=captioned, init=str(config.out / "listing" / "model"), images=images, tower=tower, steps=config.steps,
            )  # fmt: skip
            if found[name] is None:
                return None
    return found


def fresh_captioner(texts: list[str], seed: int) -> tuple[LMM, Tokenizer]:
    """0.23M parameters that have learned nothing, and a tokenizer of these texts and the questions."""
    decoder = DecoderConfig(vocabulary=1024, width=64, layers=2, heads=4, kv_heads=4, mlp=128, context=1024, tied=True)
    # patches of few pixels: AdamW moves each weight by about the rate, and pixels that are alike add that up
    tower = TowerConfig(tile=24, patch=4, width=64, layers=2, heads=4, mlp=128)
    return fresh([*texts, *map(prompt, Part)], fresh_config(decoder, tower), seed=seed)


def seeing_captioner(config: CaptionerConfig, tables: list[str], console: Console) -> str:
    """The directory of a captioner whose tower has learned to see and whose decoder knows nothing but its tokens, those of the captions."""
    folder = config.out / f"{config.seeing_steps}-seeing"
    if not (folder / "model.safetensors").exists():  # written last
        texts = [clip.row[part.value] for table in tables for clip in open_clips(table) for part in Part if clip.row[part.value]]
        model, tokenizer = fresh_captioner(texts, seed=0)
        source = Shapes(8, SIDE, SIDE, seed=2)
        model.vision = seeing.learn(model.vision, source, clips=config.listed, steps=config.seeing_steps, say=console.print)
        save(folder, model, tokenizer)
    return str(folder)


def clips(folder: Path, count: int, caption: Callable[[dict[str, str]], Caption], *, seed: int) -> str:
    """The table of the clips, which are drawn where they are not there yet."""
    table = folder / "captions.parquet"
    return str(table if table.exists() else write(folder, count, caption, seed=seed))


def table(found: dict[str, dict[str, dict[str, float]]]) -> Table:
    """A row for each run, and what always giving the commonest answer would reach."""
    first = next(iter(found.values()))
    shown = Table("right answers", title=f"{first[Part.SUBJECT.value]['clips']} held-out clips")
    for part in Part:
        shown.add_column(part.value.split("_")[0], justify="right")
    for name, figures in found.items():
        shown.add_row(name, *(f"{figures[part.value]['right']:.0%}" for part in Part))
    shown.add_section()
    shown.add_row("always the commonest", *(f"{first[part.value]['commonest']:.0%}" for part in Part))
    return shown


def main(args: list[str]) -> None:
    config, console = cli.parse(CaptionerConfig, args, "tests.captioner"), cli.console()
    found = run(config)
    if found is None:
        return
    console.print(table(found))
    console.save(config.json, found)


if __name__ == "__main__":
    cli.run(main)
