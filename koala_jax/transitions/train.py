"""`python -m koala_jax.transitions.train CLIPS…`: trains the learned detector on videos spliced from single shots, and says how good it is.

Clips and pictures are the sources; without any, all shots are drawn procedurally. Spliced videos are kept in OUT/spliced and trained
networks in OUT/networks, so that a rerun goes on where it stopped. Every fifth video is held out: on those the probabilities are
calibrated (one temperature) and the figures are taken. OUT gets transitions.safetensors, which `benchmark --weights` reads, and its
card; `split` takes the weights of the package.
"""
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from core_jax import cli
from core_jax.files import in_memory, refuse_unwritable, unbroken, write_bytes, write_json
from core_jax.numbers import at_least, refuse
from core_jax.tensors import save_file
from koala_jax.transitions import features as feature
from koala_jax.transitions import fit as fitting
from koala_jax.transitions import network, paper, score
from koala_jax.transitions.fit import Example, fit
from koala_jax.transitions.learned import decide
from koala_jax.transitions.sources import sources
from koala_jax.transitions.synthesis.corpus import corpus
from koala_jax.transitions.synthesis.shots import Source
from koala_jax.tsa.card import licences

VERSION = 4
GROUPS = {
    "colour": "colour ", "structure": "structure", "stray": "stray ", "burst": "burst ", "leap": "leap ", "aligned": "aligned ", "zoom": "zoom ",
    "changed": "changed ", "blend": "blend ", "frame": "frame ",
    "distance 1": "@1", "distance 3": "@3", "distance 7": "@7", "distance 15": "@15", "distance 31": "@31", "distance 63": "@63",
}  # fmt: skip
"""Features by what their names begin, or end, with."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train the learned transition detector. Rerun with the same --out to go on."""

    clips: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """files of single-shot videos and still pictures; without any, all shots are drawn"""
    exclude: tuple[str, ...] = ()
    """names of clips to leave out, for cross-validation folds"""
    manifest: str | None = None
    """a CSV table with columns file and license, for the card"""
    out: str = "transitions"
    """folder for the spliced videos, the weights and the card"""
    videos: int = 500
    """spliced videos, of about 600 frames each"""
    steps: int = 3000
    """optimizer steps"""
    seed: int = 0
    """seed of the splices and the networks"""
    ablation: bool = False
    """train once more without each group of features"""
    paper: bool = False
    """instead, refit the paper's linear SVM, and compare it with the released one"""
    json: str | None = None
    """also write the figures to this file"""


def truth_of(labels: np.ndarray) -> score.Truth:
    """Exact transitions, from the classes of the pairs: runs of one class, of which a cut is one pair."""
    known, cut = [], network.CLASSES.index(network.Type.CUT)
    bounds = np.flatnonzero(np.diff(np.concatenate([[0], labels, [0]])))
    for i, j in zip(bounds, bounds[1:]):
        if labels[i] > 0:
            name = network.CLASSES[labels[i]].value
            known += [score.Known(k, k + 1, name) for k in range(i, j)] if labels[i] == cut else [score.Known(i, j, name)]
    return score.Truth("", len(labels) + 1, known)


def measure(parameters: network.Parameters, held: Sequence[Example]) -> dict:
    """Figures of the rule on held-out splices, with the error of calibration: mean |p - share of transitions| over ten bins of p."""
    total, chances, truths = score.Score(), [], []
    for x, labels in held:
        p = network.probabilities(parameters, x)
        total += score.score(decide(p, len(x) + 1), truth_of(labels))
        chances.append(1 - p[:, 0])
        truths.append(labels > 0)
    chance, truth = np.concatenate(chances), np.concatenate(truths)
    bins = np.minimum((chance * 10).astype(int), 9)
    error = sum(abs(chance[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    return total.figures() | {"calibration error": float(error)}


def fitted(examples: Sequence[Example], steps: int, seed: int, kept: Path, console: Console) -> dict[str, np.ndarray]:
    """The networks of one detector, trained one after the other. One that `kept` holds of the same pairs, steps and seed is not trained again."""
    content = hashlib.sha256(b"".join(Path(module.__file__).read_bytes() for module in (fitting, network)))
    for x, labels in examples:
        content.update(np.ascontiguousarray(x))
        content.update(np.ascontiguousarray(labels))
    networks = []
    for i in range(network.NETWORKS):
        name = f"network {i + 1} of {network.NETWORKS}"
        path = kept / f"{content.hexdigest()[:12]}-{steps}-{seed + i}.npz"
        one = unbroken(path, lambda path: dict(np.load(path)))
        if one is None:
            one = fit(examples, steps, seed + i, lambda step, loss, name=name: console.print(f"{name}, step {step}: loss {loss:.4f}"))
            write_bytes(path, in_memory(lambda file, one=one: np.savez(file, **one)))
        else:
            console.print(f"{name}: trained before")
        networks.append(one)
    return network.stacked(networks)


def calibrated(parameters: dict[str, np.ndarray], held: Sequence[Example]) -> dict[str, np.ndarray]:
    """The parameters with the temperature that makes the held-out labels likeliest, by a search over 0.5 … 3."""
    z = np.concatenate([network.logits(parameters, network.normalised(parameters, x)) for x, _ in held], -2)
    labels = np.concatenate([labels for _, labels in held])

    def cost(temperature: float) -> float:
        return -float(np.log(network.mixture(z / temperature)[np.arange(len(labels)), labels] + 1e-9).mean())

    best = min(np.geomspace(0.5, 3, 37), key=cost)
    return parameters | {name: (parameters[name] / best).astype(np.float32) for name in ("out.w", "out.b")}


def without(examples: Sequence[Example], mark: str) -> list[Example]:
    """The examples without a group of features."""
    keep = np.array([not (name.startswith(mark) or mark[0] == "@" and name.endswith(mark)) for name in feature.NAMES], np.float32)
    return [(x * keep, labels) for x, labels in examples]


def card(config: TrainConfig, sources: Sequence[Source], known: dict[str, str], figures: dict) -> dict:
    """What the weights are made of; `known` are licences."""
    return {
        "version": VERSION,
        "what": "classifier of the learned transition detector (koala_jax/transitions/network.py)",
        "sources": {source.name: known.get(source.name, "as its owner says") for source in sources} | {"drawn procedurally": "none"},
        "videos": config.videos,
        "steps": config.steps,
        "seed": config.seed,
        "held-out splices": figures,
    }


def write(folder: Path, parameters: network.Parameters, facts: dict) -> None:
    """The weights, which name the features that they want, and their card."""
    named = {name: np.asarray(value, np.float32) for name, value in parameters.items()}
    save_file(folder / "transitions.safetensors", named, metadata={"features": json.dumps(feature.NAMES), "version": str(VERSION)})
    write_json(folder / "transitions.json", facts)


def show(rows: dict[str, dict], console: Console) -> None:
    """One line a training."""
    table = Table("trained", "F1", "precision", "recall", "dirty clips %", "frames kept %", title="on held-out splices")
    for name, row in rows.items():
        table.add_row(name, *("–" if row[key] is None else f"{row[key]:.1f}" for key in ("f1", "precision", "recall", "dirty", "kept")))
    console.print(table)


def main(args: list[str]) -> None:
    config = cli.parse(TrainConfig, args, "koala_jax.transitions.train")
    console, out = cli.console(), Path(config.out)
    refuse(config, {at_least(10): "videos", at_least(100): "steps"})
    if config.paper and config.ablation:
        raise ValueError("--paper refits an SVM of two numbers, which has no groups of features for --ablation to leave out: give one of them")
    unknown = set(config.exclude) - {Path(clip).name for clip in config.clips}
    if unknown:
        raise ValueError(f"--exclude names {sorted(unknown)}, which are not among the clips")
    if not config.paper:
        refuse_unwritable("--out", out / "transitions.json")
    known = licences(config.manifest)
    wanted = [clip for clip in config.clips if Path(clip).name not in config.exclude]
    read = sources(wanted)
    if config.paper:
        figures = paper.refit(read, config.seed)
        paper.show(figures, console)
        following = f"next: {cli.command('koala_jax.transitions.benchmark', 'CLIPS')}, which measures the released rule on spliced videos"
    else:
        made = corpus(out / "spliced", read, config.videos, config.seed)
        examples = [(feature.features(video.thumbs), video.labels) for video in made]
        held, rest = examples[::5], [example for i, example in enumerate(examples) if i % 5]

        train = functools.partial(fitted, steps=config.steps, seed=config.seed, kept=out / "networks", console=console)
        parameters = calibrated(train(rest), held)
        figures = {"all features": measure(parameters, held)}
        write(out, parameters, card(config, read, known, figures["all features"]))
        if config.ablation:
            for group, mark in GROUPS.items():
                console.print(f"without {group}")
                fewer = without(held, mark)
                figures[f"without {group}"] = measure(calibrated(train(without(rest, mark)), fewer), fewer)
        show(figures, console)
        weights = out / "transitions.safetensors"
        following = f"wrote {weights} and its card; next: {cli.command('koala_jax.transitions.benchmark', 'CLIPS', '--weights', weights)}"
    console.save(config.json, figures)
    console.print(following)


if __name__ == "__main__":
    cli.run(main)
