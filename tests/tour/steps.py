"""The tour's table: each step's command and what it hands over."""
import dataclasses
import shlex


@dataclasses.dataclass(frozen=True)
class Step:
    """One command."""

    name: str
    command: str
    """{out} stands for the tour's folder, {videos} for that of the raw videos"""
    makes: dict[str, str]
    """each file, below OUT, that the next steps or a reader take from it, and what it is"""

    def words(self, out: str, videos: str) -> list[str]:
        return [word.format(out=out, videos=videos) for word in shlex.split(self.command)]


STEPS = (
    Step(
        "split", "python -m koala_jax.split {videos} --out {out}/shots --shortest 4.5 --longest 9",
        {"shots/index.html": "every transition that was found, on contact sheets", "shots/clips.csv": "the shots", "shots/clips": "their clips"},
    ),
    Step(
        "score", "python -m koala_jax.score {out}/shots/clips --out {out}/scores.parquet",
        {"scores.parquet": "each clip's motion, clarity and further scores"},
    ),
    Step(
        "look", "python -m koala_jax.score_report {out}/scores.parquet --columns motion held_frames clarity quality --keep 'motion > p10' "
        "'held_frames < 0.5' --out {out}/scores.html",
        {"scores.html": "how these scores lie, with clips from least to most, and what each rule of the next step drops"},
    ),
    Step(
        "filter", "python -m koala_jax.filter {out}/scores.parquet --keep 'motion > p10' 'held_frames < 0.5' --out {out}/kept.parquet --json {out}/filter.json",
        {"kept.parquet": "the clips that stay, with their scores", "filter.json": "what each rule costs"},
    ),
    Step(
        "caption", "python -m koala_jax.caption {out}/kept.parquet --backend template --out {out}/captions.parquet --report {out}/captions.html",
        {"captions.parquet": "these clips with captions made of their scores alone, for want of a captioner's weights",
         "captions.html": "frames and captions side by side"},
    ),
    Step(
        "train", "python -m videodit_jax.train --preset stories --data {out}/captions.parquet --out {out}/video --steps 300 --model.wiener "
        "--model.text.words 32",
        {"video/config.json": "the run of a Video DiT on the kept clips and their scores, which takes first frames too",
         "video/samples/step_000300.png": "its samples", "video/samples/step_000300.gif": "the same, moving"},
    ),
    Step(
        "sweep", "python -m scaling_jax.sweep --preset stories --data stories --flops whole --sizes 1 2 3 --budgets 5e9 1e10 2e10 "
        "--lrs 2e-3 4e-3 8e-3 --batches 4 8 16 --warmup 5 --eval-examples 128 --out {out}/sweep",
        {"sweep/runs.csv": "held-out losses of 27 trials on `stories`, each at three budgets"},
    ),
    Step(
        "fit", "python -m scaling_jax.fit {out}/sweep/runs.csv --preset stories --flops whole --json {out}/laws.json",
        {"laws.json": "the scaling laws of that table, with intervals"},
    ),
    Step(
        "plot", "python -m scaling_jax.plot {out}/sweep/runs.csv --preset stories --flops whole --laws {out}/laws.json --out {out}/figures",
        {"figures/figures.html": "the laws' curves, to hover over", "figures/hyper.png": "loss against learning rate and batch"},
    ),
    Step(
        "predict", "python -m scaling_jax.predict --compute 2e11 --laws {out}/laws.json --preset stories --data stories --write-config {out}/run.sh "
        "--json {out}/predicted.json",
        {"run.sh": "the train command that the laws recommend for ten times the sweep's largest budget", "predicted.json": "the recommendation"},
    ),
    Step(
        "run", "sh {out}/run.sh --out {out}/recommended",
        {"recommended/config.json": "the recommended run, a film model that goes on from given frames"},
    ),
    Step(
        "sample", "python -m videodit_jax.sample --run {out}/recommended --prompt 'in the grey room a red circle comes in from the left' --out {out}/sample.mp4",
        {"sample.mp4": "what the recommended run makes of a prompt", "sample.png": "the same on a sheet", "sample.gif": "the same, moving"},
    ),
    Step(
        "align", "python -m owl_jax.train --stage align --film {out}/recommended --out {out}/owl --steps 100 --batch 8",
        {"owl/align/checkpoints/100": "states that tell the film model what captions tell it"},
    ),
    Step(
        "film", "python -m owl_jax.train --stage film --film {out}/recommended --out {out}/owl --steps 50",
        {"owl/film/checkpoints/50": "states and film model, trained together"},
    ),
    Step(
        "world", "python -m owl_jax.train --stage world --film {out}/recommended --out {out}/owl --steps 50",
        {"owl/world/checkpoints/50": "the world model, trained on whole films"},
    ),
    Step(
        "generate", "python -m owl_jax.generate --run {out}/owl --prompt 'in the grey room a red circle comes in from the left' --seconds 24 "
        "--out {out}/film.mp4 --json {out}/film.json",
        {"film.mp4": "24 seconds of film", "film.gif": "the same", "film.storyboard.png": "its key frames with what was said",
         "film.storyboard.html": "the same as a page", "film.json": "what was said in each clip"},
    ),
)  # fmt: skip
