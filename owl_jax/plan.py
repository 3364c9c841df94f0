"""`python -m owl_jax.plan`: compiles a world model for a TPU slice, on a machine without one: a stage's step, or the loop that films.

Does it fit, what lies in memory, what is sent along which mesh axis, floors and an estimate. All of it comes from the compiler and from
data sheets: no weights and no data are read, and nothing is measured.
"""
import dataclasses
import enum
import sys
from typing import Any

import jax
import tyro
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from core_jax import cli, mesh
from core_jax.chips import GIB
from core_jax.lmm.config import SEVEN_BILLION, LMMConfig
from core_jax.lmm.fresh import fresh_config
from core_jax.mesh import MeshConfig
from core_jax.pod import topology
from core_jax.pod.compiled import Misfit
from core_jax.pod.plan import MISFIT, Plan, local_bytes, memory, plan as plan_work, show, show_fit
from core_jax.settings import replaced
from core_jax.sharding import refuse_undivided
from core_jax.words import counted
from owl_jax import shapes
from owl_jax.stages import PRESETS, SMALL_DECODER, SMALL_TOWER, Stage, TrainConfig
from videodit_jax.config import TrainConfig as FilmConfig
from videodit_jax.plan import on_tpu
from videodit_jax.presets import preset as film_preset


class Of(enum.Enum):
    """What is compiled."""

    ALIGN = "align"
    FILM = "film"
    WORLD = "world"
    """the step of a stage"""
    GENERATE = "generate"
    """the programs that film a clip"""


PARTS: dict[str, tuple[LMMConfig, str]] = {"stories": (fresh_config(SMALL_DECODER, SMALL_TOWER), "stories"), "7b": (SEVEN_BILLION, "1.3b")}
"""of each preset of owl_jax.train: the language model's sizes, and the preset of the film model"""


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Compile a world model's training or generation for a TPU slice. What is not given is as the preset has it."""

    of: Of
    """the step of a stage of training (align, film, world), or generate: the programs that film a clip"""
    preset: str = "7b"
    """preset of owl_jax.train: 7b, or stories"""
    topology: str = "v5p-16"
    """the slice: v5p:2x2x2, or v5p-16 as Cloud TPU counts"""
    video: str | None = None
    """film model: a preset of videodit_jax.train, with first frames given"""
    frames: int | None = None
    """frames of a clip"""
    size: str | None = None
    """height x width of a clip, in pixels"""
    batch: int | None = None
    """films a step; in generation films side by side, 1 by default"""
    clips: int | None = None
    """clips of each film, in one sequence"""
    filmed: int | None = None
    """how many of those clips the film model learns from in a step"""
    mesh: MeshConfig = MeshConfig(data=1, fsdp=-1)
    json: str | None = None
    """also write the figures here"""


GENERATION = MeshConfig(data=1, context=-1, tensor=4)
"""the mesh of one film: every device works on each of its tokens"""


def parse(args: list[str]) -> PlanConfig:
    """The command line; generation has another mesh by default.

    Raises:
      ValueError: no preset of this name.
    """
    default = PlanConfig(tyro.MISSING, mesh=GENERATION if cli.given(args, "--of", "") == Of.GENERATE.value else PlanConfig.mesh)
    config = cli.parse(PlanConfig, args, "owl_jax.plan", default=default)
    if config.preset not in PRESETS:
        raise ValueError(f"no preset named {config.preset!r}; there are {', '.join(PRESETS)}")
    return config


def settings(config: PlanConfig) -> tuple[TrainConfig, FilmConfig, LMMConfig]:
    """The stage, in generation the last one, the film model and the language model."""
    lmm, video = PARTS[config.preset]
    film = on_tpu(film_preset(config.video or video))
    film = replaced(dataclasses.replace(film, model=dataclasses.replace(film.model, given=True)), frames=config.frames, size=config.size)
    stage = Stage.WORLD if config.of is Of.GENERATE else Stage(config.of.value)
    return replaced(PRESETS[config.preset](stage), batch=config.batch, clips=config.clips, filmed=config.filmed), film, lmm


def build_mesh(config: PlanConfig, batch: int, which: topology.Slice) -> Mesh:
    """Raises ValueError where the mesh does not fit the slice, or does not divide the batch."""
    on = mesh.build(config.mesh, which.devices())
    refuse_undivided("--batch", batch, on)
    return on


def plan_step(config: PlanConfig, which: topology.Slice) -> Plan:
    """Compiles a stage's step.

    Raises:
      ValueError: the mesh does not fit the slice, or does not divide the batch or the model.
    """
    stage, film, lmm = settings(config)
    on = build_mesh(config, stage.batch, which)
    with jax.set_mesh(on):
        return plan_work(shapes.training(stage, film, lmm, on), which, on)


@dataclasses.dataclass(frozen=True)
class LoopPlan:
    """The programs that film a clip, one after the other, with what stays on the devices between them."""

    programs: dict[str, Plan]
    held: dict[str, int]
    """bytes of one device"""

    @property
    def hbm(self) -> dict[str, int]:
        """Bytes of one device, by part."""
        at_work = max(map(working, self.programs.values()))
        limit = next(iter(self.programs.values())).which.chip.hbm
        return self.held | {"at work": at_work, "total": sum(self.held.values()) + at_work, "limit": limit}

    @property
    def misfit(self) -> Misfit | None:
        if alone := [one.misfit for one in self.programs.values() if one.misfit]:
            return max(alone, key=lambda one: one.needed)
        return Misfit(self.hbm["total"], self.hbm["limit"]) if self.hbm["total"] > self.hbm["limit"] else None

    @property
    def seconds(self) -> float:
        """Estimated, of one clip."""
        return sum(one.estimate.step for one in self.programs.values())

    def json(self) -> dict[str, Any]:
        programs = {name: one.json() for name, one in self.programs.items()}
        if self.misfit:
            return {"fits": False, "needed_bytes": self.misfit.needed, "limit_bytes": self.misfit.available, "programs": programs}
        return {"fits": True, "hbm_bytes": self.hbm, "estimated_clip_seconds": self.seconds, "programs": programs}


def working(one: Plan) -> int:
    """Bytes of one device that a program needs beside its arguments."""
    return one.hbm["total"] - one.hbm["batch and padding"] if one.hbm else 0


def plan_loop(config: PlanConfig, which: topology.Slice, console: Console) -> LoopPlan:
    """Compiles the programs of generation.

    Raises:
      ValueError: as `plan_step`; or the language model's context does not hold a film's window.
    """
    stage, film, lmm = settings(config)
    films = config.batch or 1
    on = build_mesh(config, films, which)
    with jax.set_mesh(on):
        held, programs = shapes.loop(stage, film, lmm, films, on)
        plans = {}
        for name, work in programs.items():
            plans[name] = plan_work(work, which, on)
            console.print(f"compiled {name} in {plans[name].seconds:.0f} s")
    return LoopPlan(plans, {name: local_bytes(tree) for name, tree in held.items()})


def show_loop(found: LoopPlan, title: str, console: Console) -> None:
    """The programs as one table, the memory as another."""
    one = next(iter(found.programs.values()))
    show_fit(title, one.which, one.mesh, found.misfit, console)
    rows = Table("program")
    for name in ("at work, GiB", "model FLOPs", "largest floor, s", "of", "estimate, s"):
        rows.add_column(name, justify="left" if name == "of" else "right")
    for name, one in found.programs.items():
        if one.misfit:
            rows.add_row(name, f"{one.misfit.needed / GIB:.2f} with its arguments")
            continue
        times = one.estimate
        rows.add_row(
            name, f"{working(one) / GIB:.2f}", f"{one.model_flops['total']:.3g}", f"{times.floors[times.binds]:.3g}", times.binds, f"{times.step:.3g}"
        )
    console.print(rows)
    if any(one.misfit for one in found.programs.values()):
        return
    console.print(memory(found.hbm))
    console.print(f"a clip, by the estimate, not validated: {found.seconds:.3g} s of the devices")


def main(args: list[str]) -> None:
    cli.on_cpu()
    config, console = parse(args), cli.console()
    which, (stage, film, _) = topology.parse(config.topology), settings(config)
    clip = f"{film.frames} frames of {film.size}"
    console.print(f"compiling {config.of.value} of {config.preset} for {which}")
    if config.of is Of.GENERATE:
        found = plan_loop(config, which, console)
        show_loop(found, f"{config.preset}, {counted(config.batch or 1, 'film')}, clips of {clip},", console)
        shape = next(iter(found.programs.values())).mesh
        following = f"owl_jax.generate --run {stage.out} --image first.png --prompt TEXT"
    else:
        found = plan_step(config, which)
        show(found, f"{config.preset}, stage {config.of.value}, {counted(stage.batch, 'film')} of {counted(stage.clips, 'clip')}, {clip},", console)
        shape = found.mesh
        following = f"owl_jax.train --stage {config.of.value} --preset {config.preset} --batch {stage.batch} --clips {stage.clips} --filmed {stage.filmed}"
    head = {"preset": config.preset, "of": config.of.value, "batch": config.batch, "video": list(film.video)}
    console.save(config.json, head | {"topology": str(which), "mesh": shape} | found.json())
    if found.misfit:
        console.print("next: a larger slice, a smaller --batch, fewer --frames, or other sizes of --mesh")
        sys.exit(MISFIT)
    axes = " ".join(f"--mesh.{axis} {size}" for axis, size in shape.items())
    console.print(f"next, on the slice: python -m {following} {axes}")


if __name__ == "__main__":
    cli.run(main)
