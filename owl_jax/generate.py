"""`python -m owl_jax.generate --run DIR --image first.png --prompt "…" --seconds 24`: a film of any length, and its storyboard."""
import contextlib
import dataclasses
import hashlib
import sys

import jax
import numpy as np
from etils import epath
from rich.console import Console

from core_jax import cli, mesh
from core_jax.files import refuse_overwriting, refuse_unwritable, write_json
from core_jax.mesh import MeshConfig
from core_jax.numbers import COUNT, FROM_0, POSITIVE, refuse
from core_jax.settings import replaced, to_json
from core_jax.video_out import write_video
from core_jax.words import counted
from owl_jax import run, storyboard, world
from owl_jax.config import Caption, ContextConfig
from owl_jax.films import FPS
from owl_jax.parts import Parts
from owl_jax.sequence import Pieces
from owl_jax.stages import Stage
from owl_jax.world import World
from videodit_jax.config import TrainConfig as FilmConfig
from videodit_jax.given import first_frame
from videodit_jax.media import write_gif
from videodit_jax.reading import warn_out_of_range
from videodit_jax.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """Film a world: a video of any length. Rerun the same command to go on with a film that was interrupted."""

    run: str = "runs/owl"
    """folder of a world model"""
    prompt: str = ""
    """what happens at first"""
    image: str | None = None
    """file of the first frame; without one the film model makes it from the prompt"""
    seconds: float = 24.0
    """length of the film, rounded up to whole clips"""
    dynamics: str | None = None
    """text file with what happens in each clip after the first, a line a clip; then the model goes on by itself. "cut: …" begins a new scene"""
    silent: bool = False
    """film states alone, without dynamics"""
    cut_every: int | None = None
    """begin a new scene every so many clips"""
    interactive: bool = False
    """ask in the terminal what happens next, clip after clip; an empty line lets the model decide, q ends. A continued film keeps what was said"""
    motion: float | None = None
    """how far things move, in the unit of the film model's scores; unknown if not given"""
    stage: Stage | None = None
    """stage whose model is used; by default the last one that has ended"""
    out: str = "film.mp4"
    """the film; a storyboard (PNG, HTML) and, up to 60 s, a GIF are written beside it, and until it is whole its clips in a folder"""
    seed: int = 0
    """seed of the film"""
    steps: int | None = None
    """steps of the solver; by default the film model's own number"""
    guidance: float | None = None
    """scale of guidance by the state; by default the film model's own for text"""
    temperature: float = 1.0
    """temperature of the model's own texts: 1 draws them from its distribution, 0 takes the likeliest, whatever the seed"""
    context: ContextConfig = ContextConfig()
    mesh: MeshConfig = MeshConfig()
    json: str | None = None
    """write the texts and figures of the film here"""

    def __post_init__(self):
        refuse(self, {POSITIVE: "seconds", COUNT: "steps cut_every", FROM_0: "temperature"})
        refuse_unwritable("--out", self.out, ".mp4")
        for flag, path in (("--image", self.image), ("--dynamics", self.dynamics)):
            refuse_overwriting(flag, path, [self.json, *(self.out[:-4] + end for end in (".mp4", ".gif", ".storyboard.png", ".storyboard.html"))])
        if sum([self.dynamics is not None, self.silent, self.interactive]) > 1:
            raise ValueError("--dynamics, --silent and --interactive exclude each other")
        if self.motion is not None and not np.isfinite(self.motion):
            raise ValueError(f"--motion {self.motion}: a number is wanted; without the flag the score is unknown")


def clip_seconds(film: FilmConfig) -> float:
    """How long a clip lasts, without the frame that it shares with the next."""
    return (film.frames - 1) / (film.fps or FPS)


def refuse_long(text: str, pieces: Pieces, where: str) -> None:
    """Raises ValueError for a text of more tokens than the model takes."""
    tokens, most = len(pieces.tokenizer.plain(text)), pieces.config.words
    if tokens > most:
        raise ValueError(f"{where} has {tokens} tokens, and the model takes {most}: {text!r}")


def lines_of(config: GenerateConfig, clips: int, pieces: Pieces) -> list[str]:
    """The file's lines.

    Raises:
      ValueError: there is no such file, there are more lines than clips to follow them, or one is too long.
    """
    try:
        lines = [line.strip() for line in epath.Path(config.dynamics).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--dynamics {config.dynamics} cannot be read: {error}") from error
    if len(lines) > clips - 1:
        said = f"--dynamics {config.dynamics} has {counted(len(lines), 'line')}"
        raise ValueError(f"{said}, and a film of {config.seconds:g} s has {counted(clips - 1, 'clip')} after the first")
    for line in lines:
        refuse_long(line, pieces, f"a line of {config.dynamics}")
    return lines


class Quit(Exception):
    """No more clips are wanted: the film ends with those that are made."""


def asking(console: Console, parts: Parts):
    """Dynamics typed in a terminal; where an earlier run made the clip that follows, what it followed."""

    def dynamics(current: World, clip: int) -> list[str]:
        if said := parts.said(clip + 1):
            current.hear(said)
            return said
        while True:
            try:
                text = console.input("what happens next? ").strip()
            except EOFError as end:  # the terminal's own q
                raise Quit from end
            if text == "q":
                raise Quit
            if not text:
                return current.tell()
            try:
                refuse_long(text, current.pieces, "this")
            except ValueError as error:
                console.print(str(error))
                continue
            current.hear([text])
            return [text]

    return dynamics


def generate(config: GenerateConfig) -> None:
    """Films, and writes."""
    mesh.start(config, alone="films are made")
    on, console, out = mesh.build(config.mesh), cli.console(), epath.Path(config.out)
    trained = run.trained(config.run, config.stage)
    if trained.owl.caption is Caption.THIS and (config.dynamics or config.interactive):
        raise ValueError(
            f"{config.run} was trained with --owl.caption this, so its texts tell of the clip seen and none can ask for the next: leave "
            "--dynamics and --interactive out"
        )
    console.print(run.describe(trained))
    with jax.set_mesh(on):
        bare, pieces, film = run.build(trained, on, only_films=True)
        refuse_long(config.prompt, pieces, "--prompt")
        seconds = clip_seconds(film.config)
        clips = int(np.ceil(config.seconds / seconds - 1e-9))
        lines = lines_of(config, clips, pieces) if config.dynamics else []
        scores = None
        if config.motion is not None:
            scores = film.statistics.vector({"motion": config.motion})[None]
            warn_out_of_range(film.statistics, {"motion": [config.motion]})
        sampling = film.config.sampling
        sampling = replaced(sampling, steps=config.steps, guidance=replaced(sampling.guidance, text=config.guidance))
        image, notice = first_frame(config.image, *film.config.video[1:]) if config.image else (None, "")
        if notice:
            console.print(notice)
        settings = {name: value for name, value in to_json(config).items() if name not in ("out", "seconds", "dynamics", "mesh", "json")}
        settings |= {"run": run.key(trained), "sampling": to_json(sampling), "image": config.image and hashlib.sha256(image.tobytes()).hexdigest()}
        parts = Parts(out.parent / f".{out.stem}.clips", settings)
        image = parts.first() if image is None else image
        if image is None:
            sampler = Sampler(film.config, film.statistics, on, batch=1)
            image = sampler(bare.film, [config.prompt], [{}], [config.seed], sampling)[0, 0]
        owl = run.restored(trained, bare, on)
        del bare  # what a stage trained is now there twice
        current = World(owl, pieces, film.config, config.context, sampling, config.temperature)
        if untried := current.untried(trained.clips, clips):
            console.print(untried, style="yellow")
        parts.begin(image)
        given = world.told([lines]) if lines else world.foreseen
        dynamics = asking(console, parts) if config.interactive else world.silent if config.silent else given
        turns = world.run(
            current, image[None], [config.prompt], clips=clips, dynamics=dynamics, cut_every=config.cut_every, seed=config.seed,
            scores=scores, made_before=parts.made,
        )  # fmt: skip
        said, cuts, fps = [], [], film.config.fps or FPS
        with contextlib.suppress(Quit):
            for t, turn in enumerate(turns):
                parts.write(t, turn)
                said.append(turn.said[0] if turn.said else "")
                cuts.append(not turn.joined[0])
                console.print(f"clip {t + 1} of {clips}" + (f": {said[t]}" if said[t] else ""))
                if config.interactive:
                    write_video(out, parts.frames(t + 1), fps)
                    console.print(f"  wrote {out}, {(t + 1) * seconds:.0f} s")
    of_stories = trained.data == "stories" and trained.owl.caption is Caption.NEXT
    following = cli.command("owl_jax.evaluate", "--run", config.run) if of_stories else cli.command("videodit_jax.evaluate", out)
    finish(config, out, parts, said, cuts, seconds, fps, following)


def finish(
    config: GenerateConfig, out: epath.Path, parts: Parts, said: list[str], cuts: list[bool], seconds: float, fps: float, following: str
) -> None:
    """Writes the film, its GIF, its storyboard and the figures; then the clips are no longer needed. `following` is what to run next."""
    clips = len(said)
    write_video(out, parts.frames(clips), fps)
    written = [out]
    if clips * seconds <= 60:
        written.append(out.with_suffix(".gif"))
        scale = max(1, 144 // parts.read(0).shape[2])
        write_gif(written[-1], (frame.repeat(scale, 0).repeat(scale, 1) for frame in parts.frames(clips)), fps)
    written += storyboard.write(out.with_suffix(""), ((parts.read(t)[0], said[t], cuts[t]) for t in range(clips)), clips, seconds)
    if config.json:
        write_json(config.json, {"seconds": clips * seconds, "clips": [{"text": said[t], "cut": cuts[t]} for t in range(clips)]})
        written.append(config.json)
    parts.remove()
    cli.console().print(f"wrote {', '.join(map(str, written))}; next: {following}")


def main(args: list[str]) -> None:
    config = cli.parse(GenerateConfig, args, "owl_jax.generate")
    try:
        generate(config)
    except KeyboardInterrupt:
        sys.exit("stopped: the same command goes on from the clips that are made")


if __name__ == "__main__":
    cli.run(main)
