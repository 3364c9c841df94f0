"""`python -m videodit_jax.sample`: videos from a prompt and scores, or from many, by a trained run or by the weights that come with the package."""
import dataclasses
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import UInt8

from core_jax import cli, mesh
from core_jax.files import refuse_overwriting, refuse_unwritable, stamp
from core_jax.mesh import MeshConfig
from core_jax.numbers import COUNT, refuse
from core_jax.words import counted
from videodit_jax import experts, plain, prompts
from videodit_jax.autoencoder import SIZES
from videodit_jax.autoencoder.codec import Codec
from videodit_jax.autoencoder.load import latents_of
from videodit_jax.conditioning import SCORES
from videodit_jax.config import FRAME_RATE, TrainConfig
from videodit_jax.experts import Expert
from videodit_jax.flow import Guidance, Solver
from videodit_jax.given import first_frame, then_gray
from videodit_jax.lora import Changes, read
from videodit_jax.maker import Asked, Maker
from videodit_jax.media import write_samples
from videodit_jax.model import abstract_model
from videodit_jax.picture import PictureEncoder
from videodit_jax.prompts import Row
from videodit_jax.reading import by_name, flag_of, image_encoder_of, texts_of, warn_of_prompts, warn_out_of_range
from videodit_jax.run import EXPERTS, PRETRAINED, version
from videodit_jax.sampler import Sampler

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Sample videos from a prompt and scores; what is not given is left to the model."""

    run: tuple[str, ...] = (str(PRETRAINED),)
    """folder of a run, or of exported weights, or of two experts, or both of these; by default the `tiny` model that comes with the package"""
    prompt: str = ""
    """what the video shows"""
    prompts: str | None = None
    """many prompts in the place of --prompt: a text file with one a line, or a table (.csv, .parquet) with the column caption and scores"""
    negative_prompt: str = ""
    """what guidance by the text leads away from; by default nothing in particular"""
    motion: float | None = None
    """motion score: how far things move; scores are in the units of the run's training data, and unknown if not given"""
    aesthetic: float | None = None
    """aesthetic score: how good it looks"""
    clarity: float | None = None
    """clarity score: how sharp it is"""
    vtss: float | None = None
    """Koala-36M's suitability score"""
    score: tuple[str, ...] = ()
    """further scores that the run was trained with, as NAME=NUMBER"""
    autoencoder: str | None = None
    """directory of the autoencoder, for a run on latents; by default the one that it was trained with"""
    text_encoder: str | None = None
    """directory of the text encoder, for a run on features of captions; by default the one that it was trained with"""
    image_encoder: str | None = None
    """directory of the image encoder, for a run on features of pictures; by default the one that it was trained with"""
    lora: tuple[str, ...] = ()
    """LoRA files to merge into the weights, of two experts as high=FILE or low=FILE: of videodit_jax.export, diffusers, Wan or musubi-tuner"""
    lora_scale: tuple[float, ...] = ()
    """factor of each LoRA file; by default 1"""
    image: str | None = None
    """file of the first frame; for a run that was trained with --model.given, as TI2V-5B is"""
    n: int = 8
    """number of videos, of --prompts of each"""
    out: str = "sample.mp4"
    """the video (.mp4), or several side by side and each in a folder of this name, with a table; of --prompts that folder alone"""
    seed: int = 0
    """seed of the first video; each further one has the next seed"""
    steps: int | None = None
    """steps of the solver; by default the run's own number"""
    solver: Solver | None = None
    """solver; by default the run's own. heun takes two evaluations a step, euler and unipc one"""
    text_guidance: tuple[float, ...] = ()
    """scale of guidance by the prompt, 1: as trained; of two experts one for both or one for each; by default the run's own"""
    score_guidance: float | None = None
    """scale of guidance by the scores, likewise"""
    fps: float | None = None
    """frames a second of the files; by default those of the run's clips, or 8"""
    frames: int | None = None
    """frames of a video; by default as many as the run's clips have"""
    size: str | None = None
    """height x width of a video in pixels; by default that of the run's clips. Sizes that a model never saw may come out worse"""
    mesh: MeshConfig = MeshConfig()


def given_scores(config: SampleConfig) -> dict[str, float]:
    """Those that the flags give. Raises ValueError for one that is no number."""
    scores = {name: getattr(config, name) for name in SCORES if getattr(config, name) is not None}
    for text in config.score:
        name, _, number = text.partition("=")
        try:
            scores[name] = float(number)
        except ValueError as error:
            raise ValueError(f"--score {text}: NAME=NUMBER is wanted") from error
    for name, value in scores.items():
        if not math.isfinite(value):
            raise ValueError(f"{flag_of(name, value)}: a number is wanted; without the flag the score is unknown")
    return scores


def warn_of_guidance(config: SampleConfig, guidances: Sequence[Guidance], known: bool) -> None:
    """Says so where a flag asks for guidance that leads nowhere; `known`: whether a score is given that the run knows."""
    if config.negative_prompt and all(guidance.text == 1 for guidance in guidances):
        log.warning("warning: --negative-prompt does nothing: --text-guidance is 1, and only others lead away from it")
    if config.score_guidance is not None and not known:
        log.warning(f"warning: --score-guidance {config.score_guidance:g} does nothing: no score is given that this run has seen")


def first_frames(config: SampleConfig, trained: TrainConfig) -> UInt8[np.ndarray, "1 1 H W 3"] | None:
    """The image of all videos; None without one.

    Raises:
      ValueError: it cannot be read, or the run was not trained with given frames.
    """
    if config.image is None and trained.model.gray:
        raise ValueError(f"{config.run[0]} makes videos of a picture: give --image, its file")
    if config.image is None:
        return None
    if not trained.model.given:
        raise ValueError(f"--image {config.image}: {config.run[0]} was trained without given frames; train with --model.given for that")
    image, notice = first_frame(config.image, *trained.video[1:])
    if notice:
        log.warning(notice)
    return image[None, None]


def expert_and_file(lora: str) -> tuple[str | None, str]:
    """What --lora gives."""
    return re.fullmatch(rf"(?:({'|'.join(EXPERTS)})=)?(.*)", lora).groups()


def loras(config: SampleConfig, sampled: Sequence[Expert]) -> list[list[Changes]]:
    """What the files of --lora add to each who samples. Raises ValueError: one does not fit its model, or there is not a scale for each."""
    scales = config.lora_scale or (1.0,) * len(config.lora)
    if len(scales) != len(config.lora) or not all(map(math.isfinite, scales)):
        said = " ".join(f"{scale:g}" for scale in scales)
        raise ValueError(f"--lora-scale {said}: a number for each of the {counted(len(config.lora), 'file')} of --lora is wanted")
    found: list[list[Changes]] = [[] for _ in sampled]
    for given, scale in zip(config.lora, scales):
        name, file = expert_and_file(given)
        if name and not sampled[0].name:
            raise ValueError(f"--lora {given}: {sampled[0].folder} is one model, not two experts")
        if sampled[0].name and not name:
            raise ValueError(f"--lora {given}: which of the two experts it is for is said by {' or '.join(f'{one}={file}' for one in EXPERTS)}")
        for one, changes in zip(sampled, found):
            if one.name == (name or ""):
                changes.append(read(file, scale, abstract_model(one.config.model)))
    return found


def codec_of(config: SampleConfig, trained: TrainConfig, on: Mesh) -> Codec | None:
    """What makes pixels of a run's latents; None where it makes pixels itself. Raises ValueError: it is not given, not needed, or makes others."""
    given = config.autoencoder or trained.autoencoder
    if config.autoencoder and not trained.autoencoder:
        raise ValueError(f"--autoencoder {config.autoencoder}: {config.run[0]} makes pixels itself")
    if given in SIZES:
        raise ValueError(f"{config.run[0]} makes latents of {given}: give --autoencoder, a directory of its weights")
    if given and not epath.Path(given).exists():
        raise ValueError(f"there is no folder {given}: give --autoencoder, a directory of the weights whose latents {config.run[0]} makes")
    if given and (held := latents_of(given)) != trained.latents:
        raise ValueError(f"{given} holds an autoencoder of {held.channels} channels, and {config.run[0]} makes latents of {trained.latents.channels}")
    return Codec(given, on, trained.dtype.jax) if given else None


def refuse_place(config: SampleConfig) -> epath.Path:
    """Where the files go, without an ending. Raises ValueError: they cannot go there."""
    out = epath.Path(config.out)
    stem = out.with_suffix("") if out.suffix == ".mp4" else out
    if config.prompts and config.prompt:
        raise ValueError(f"--prompts {config.prompts} stands in the place of --prompt: give one of them")
    if config.prompts:
        refuse_unwritable("--out", stem / plain.TABLE)
        return stem
    if out.suffix != ".mp4":
        raise ValueError(f"--out {config.out}: a name that ends in .mp4 is wanted; a GIF and a contact sheet (PNG) come beside it")
    refuse_unwritable("--out", out)
    if config.n > 1:
        plain.refuse_others(stem)
    refuse_overwriting("--image", config.image, [out.with_suffix(".gif"), out.with_suffix(".png")])
    return stem


def settings_of(config: SampleConfig, sampled: Sequence[Expert], rows: Sequence[Row], fps: float) -> dict[str, Any]:
    """What the videos of a folder depend on, as JSON; a file that has changed is another one."""
    one, guidances = sampled[0].config, [expert.config.sampling.guidance for expert in sampled]
    named = [expert_and_file(lora)[1] for lora in config.lora] + [config.image] * bool(config.image)
    return {
        "run": [str(expert.folder) for expert in sampled], "weights": [version(expert.folder) for expert in sampled], "prompts": prompts.digest(rows),
        "n": config.n, "seed": config.seed, "negative_prompt": config.negative_prompt, "steps": one.sampling.steps, "solver": one.sampling.solver.value,
        "text_guidance": [guidance.text for guidance in guidances], "score_guidance": [guidance.scores for guidance in guidances],
        "video": one.video, "fps": fps, "image": config.image, "lora": config.lora, "lora_scale": config.lora_scale, "files": list(map(stamp, named)),
        "autoencoder": config.autoencoder or one.autoencoder, "text_encoder": config.text_encoder or one.text_encoder,
        "image_encoder": config.image_encoder or one.image_encoder,
    }  # fmt: skip


def sample(config: SampleConfig) -> list[epath.Path]:
    """Samples `n` videos, of each of many prompts if they are given, and writes them; returns the files, but for those of many prompts."""
    if config.n < 1:
        raise ValueError(f"--n {config.n}: at least one video is needed")
    stem = refuse_place(config)
    if not 0 <= config.seed <= 2**32 - config.n:
        raise ValueError(f"--seed {config.seed}: a number from 0 to {2**32 - config.n} is wanted for {config.n} videos")
    refuse(config, {COUNT: "steps frames", FRAME_RATE: "fps"})
    scores = given_scores(config)
    mesh.start(config)
    sampled = experts.read(
        config.run, steps=config.steps, solver=config.solver, text_guidance=config.text_guidance, score_guidance=config.score_guidance,
        frames=config.frames, size=config.size,
    )  # fmt: skip
    trained, statistics = sampled[0].config, [one.run.statistics for one in sampled]
    fps = config.fps or trained.fps or 8
    rows = prompts.read(config.prompts, statistics[0].quantiles) if config.prompts else [(config.prompt, {})]
    rows = [(prompt, scores | own) for prompt, own in rows]
    files = loras(config, sampled)
    first = first_frames(config, trained)
    on = mesh.build(config.mesh)
    codec = codec_of(config, trained, on)
    seen_by = image_encoder_of(trained, config.image_encoder, config.run[0])
    known = by_name(own for _, own in rows)
    for i, one in enumerate(statistics):
        one.vector(dict.fromkeys(known, 0.0))
        if one not in statistics[:i]:
            warn_out_of_range(one, known)
    warn_of_prompts(trained, [*dict.fromkeys([*(prompt for prompt, _ in rows), config.negative_prompt])])
    warn_of_guidance(config, [one.config.sampling.guidance for one in sampled], any(one.range(name) for one in statistics for name in known))
    if config.prompts:
        asked, settings = prompts.asked(rows, config.n, config.seed), settings_of(config, sampled, rows, fps)
        if jax.process_index() == 0:
            prompts.refuse_other(stem, settings)
        todo = prompts.unfinished(stem, asked)
    else:
        asked = todo = [Asked(config.prompt, scores, seed, f"{seed:04}.mp4") for seed in range(config.seed, config.seed + config.n)]
    picture = PictureEncoder(seen_by, on)(first[0]) if seen_by and todo else None
    texts = texts_of(trained, config.text_encoder, config.run[0], on, [*dict.fromkeys([*(one.prompt for one in todo), config.negative_prompt])]) if todo else {}
    if codec and first is not None:
        first = codec.encode(then_gray(first, trained.frames) if trained.model.gray else first)
    batch = 1 if codec else min(len(asked), Sampler.batch)  # of large ones each device holds one
    make = Maker(sampled, files, on, codec, first, picture, texts, config.negative_prompt, batch)
    with jax.set_mesh(on):
        if config.prompts:
            if jax.process_index() == 0:
                prompts.begin(stem, settings)
            prompts.fill(stem, asked, todo, make, fps)
            return []
        videos = make(asked)
    if jax.process_index():
        return []
    paths = write_samples(stem, videos, [one.label for one in asked], fps)
    return paths + plain.replace(stem, videos if config.n > 1 else [], [one.row for one in asked], fps)


def main(args: list[str]) -> None:
    config = cli.parse(SampleConfig, args, "videodit_jax.sample")
    if paths := sample(config):
        alone = paths[-1] if config.n > 1 else next(path for path in paths if path.suffix == ".mp4")
        print(f"wrote {', '.join(map(str, paths))}; next: {cli.command('videodit_jax.evaluate', alone)}")


if __name__ == "__main__":
    cli.run(main)
