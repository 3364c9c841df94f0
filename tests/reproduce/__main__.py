"""`python -m tests.reproduce`: what is compared with PyTorch, and how far apart it lies."""
import dataclasses
import functools
import importlib.util
from pathlib import Path

from rich.table import Table

from core_jax import cli


@dataclasses.dataclass(frozen=True)
class Args:
    """Compare the Video DiT and the autoencoder with PyTorch on the same weights."""

    json: Path | None = None
    """also write the table here"""


def main(args: list[str]) -> None:
    options = cli.parse(Args, args, "tests.reproduce")
    for package in ("torch", "diffusers"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"{package} is not installed: pip install 'videogen-jax[reproduce]'")
    from tests.reproduce.comparison import compare_block, compare_model, compare_training
    from tests.reproduce.wan import compare_autoencoder, compare_pipeline, compare_wan
    from tests.videodit import small_autoencoder
    from videodit_jax.flow import Target

    console = cli.console()
    table = Table("compared with PyTorch, fp32", title="largest difference ÷ largest value")
    for column in ("outputs", "gradients", "losses", "averaged weights"):
        table.add_column(column, justify="right")
    rows = []
    with console.status("comparing"):
        trainings = (lambda target=target: compare_training(target) for target in (Target.V, Target.X0))
        both = small_autoencoder.CONFIG, small_autoencoder.WAN22
        wan = tuple(functools.partial(whole, one) for one in both for whole in (compare_autoencoder, compare_pipeline))
        wan += tuple(functools.partial(compare_pipeline, one, True) for one in both)
        wan += tuple(functools.partial(compare_pipeline, both[0], *experts) for experts in ((False, 0.875), (True, 0.9)))
        for compare in (compare_block, compare_model, *trainings, compare_wan, lambda: compare_wan(given=True), lambda: compare_wan(tuned=True), *wan):
            rows.append(compare())
            figures = (rows[-1].outputs, rows[-1].gradients, rows[-1].losses, rows[-1].weights)
            table.add_row(rows[-1].name, *("" if figure is None else f"{figure:.1e}" for figure in figures))
    console.print(table)
    console.save(options.json, [dataclasses.asdict(row) for row in rows])


if __name__ == "__main__":
    cli.run(main)
