"""`python -m videodit_jax.published`: the planner's estimate against steps that others measured on real TPUs, with its error.

Each row is put together as maxdiffusion does it: jax's splash attention with gathered keys and the tiles of the configuration of the time,
its recomputation, parameters cut over the axis that cuts the tokens. What differs is left as it is: our fp32 state with a running average
(theirs is bf16 without), our text length. Beside it stands our own step for the same clips on the same slice, by the same estimator
(core_jax/pod/estimate.py). Its form was decided by the first four rows, and its number STEP by the third of them.
"""
import contextlib
import dataclasses
import math
from collections.abc import Iterator

from rich.table import Table

from core_jax import cli
from core_jax.attention.tiles import Tile
from core_jax.files import refuse_unwritable, write_bytes
from core_jax.mesh import MeshConfig
from core_jax.pod.estimate import PRODUCTS, STEP, Estimate, share
from core_jax.pod.plan import Plan
from core_jax.pod.topology import parse
from core_jax.remat import Remat
from core_jax.sharding import RULES, Rules
from core_jax.words import markdown
from videodit_jax import model
from videodit_jax.config import TrainConfig
from videodit_jax.kernel import figures
from videodit_jax.peers import Call, Kernel, Splash, splash_in_a_model
from videodit_jax.plan import plan
from videodit_jax.presets import preset
from videodit_jax.search import Of

VALID = 0.25
"""largest error with which an estimate counts as validated"""


OVER_CONTEXT = Rules(parameters=("fsdp", "context"))
"""maxdiffusion's "embed" lies over both"""


@dataclasses.dataclass(frozen=True)
class Published:
    """One measured step."""

    name: str
    topology: str
    seconds: float
    batch: int
    mesh: MeshConfig
    remat: Remat
    blocks: Splash
    """of their attention, by the configuration of the time"""
    stands_in: bool = False
    """for a kernel of theirs that is not public: the estimate is no check of the estimator"""
    of: Of = Of.TRAIN
    """a step of training; or one of sampling, which evaluates the model with the prompt and without it"""

    def config(self, remat: Remat) -> TrainConfig:
        """Wan 14B at 81 frames of 720×1280, which its autoencoder makes 75,600 tokens: 84 frames in our patches of 4×16×16."""
        base = preset("14b")
        own, guidance = dataclasses.replace(base.model, remat=remat), dataclasses.replace(base.sampling.guidance, scores=base.sampling.guidance.text)
        one = dataclasses.replace(base.sampling, steps=1, guidance=guidance)
        return dataclasses.replace(base, frames=84, batch=self.batch, mesh=self.mesh, model=own, sampling=one)

    def ours(self) -> TrainConfig:
        """Our step for the same clips: where they have copies of the model, ours is cut."""
        pieces = dataclasses.replace(self.mesh, data=1, fsdp=self.mesh.data * self.mesh.fsdp)
        return dataclasses.replace(self.config(OURS if self.of is Of.TRAIN else Remat.NONE), mesh=pieces)


OURS = Remat.ATTENTION
"""what our training step computes again on any of these slices: the least that fits"""
ALL = MeshConfig(data=1, fsdp=16, context=4)
PUBLISHED = (
    # README of AI-Hypercomputer/maxdiffusion, "Training", October 2025: one clip over four chips, whose tokens are cut; "FULL remat"
    Published("maxdiffusion, Wan 2.1 14B", "v5p-8", 36.0, 1, MeshConfig(data=1, context=4), Remat.FULL, Splash(1024, 1024, 256, fused=False)),
    # AI-Hypercomputer/maxdiffusion, pull request 487: attention's output and log-sum-exp saved, kernels of its own; 0.25 clips a device
    Published("maxdiffusion PR 487, Wan 2.2 14B", "tpu7x-64", 13.57, 16, ALL, Remat.ATTENTION, Splash(1024, 2048, 1024), stands_in=True),
    # the same, before these kernels and with all recomputed; the defaults of base_wan_27b.yml
    Published("maxdiffusion PR 470, Wan 2.2 14B", "tpu7x-64", 39.70, 16, ALL, Remat.FULL, Splash(512, 512, 512, fused=False)),
    # AI-Hypercomputer/tpu-recipes, training/ironwood, with maxdiffusion's tag v3: 32 clips over 64 chips, each over four devices
    Published("tpu-recipes, Wan 2.1 14B", "tpu7x-128", 24.58, 32, MeshConfig(data=32, context=4), Remat.FULL, Splash(2048, 2048, 512)),
    # AI-Hypercomputer/maxdiffusion, pull request 376: 40 steps in 533.7 s, with text and decoding; their tiles of 3,024 queries are 3,072 here
    Published("maxdiffusion PR 376, sampling Wan 2.2 14B", "v6e-8", 13.34, 2, MeshConfig(data=2, context=4), Remat.NONE, Splash(3072, 2048, 1024), of=Of.SAMPLE),
)
PEER = Published("the 14b preset's own slice", "v5p-128", float("nan"), 16, ALL, Remat.FULL, Splash(1024, 2048, 1024, fused=False))
"""nobody has published this one: our step against theirs, not against the clock"""


@contextlib.contextmanager
def their_attention(blocks: Splash) -> Iterator[None]:
    """Within it, the Video DiT calls jax's splash attention."""
    ours, model.attention = model.attention, splash_in_a_model(blocks)
    try:
        yield
    finally:
        model.attention = ours


@dataclasses.dataclass(frozen=True)
class Args:
    """Compile steps that others measured on TPUs, and compare the estimates with their figures."""

    json: str | None = None
    """also write the figures here"""
    out: str | None = None
    """also write the table here, as markdown"""


def by_schedule(theirs: Plan, blocks: Splash) -> Estimate:
    """Their estimate with splash attention as the compiler schedules it with these tiles."""
    chip = theirs.which.chip
    passes = figures(Call(chip.name, 75_600, 128, Kernel.SPLASH, Tile(blocks.q, blocks.k), blocks))
    repeated = 1.0 if blocks.fused else 5 / 7  # two backward kernels multiply seven times, of which the share of peak counts five
    counted = {"splash_mha_fwd": ("forward", 1.0), "splash_mha_dkv": ("backward", repeated), "splash_mha_dq": ("backward", repeated)}
    attention = 0.0
    for (name, dim), (flops, steps) in theirs.estimate.kernels.items():
        where, part = counted.get(name, (None, 1.0))
        if where:
            products = PRODUCTS[name] + (blocks.fused and where == "backward")
            of_peak, steps = passes[where]["peak_share"], flops / (products * 2 * blocks.q * blocks.k * dim)
        else:
            of_peak = share(chip, name, dim)
        attention += part * flops / (of_peak * chip.peak) + STEP * steps
    return dataclasses.replace(theirs.estimate, attention=attention)


def row(one: Published, theirs: Plan, ours: Plan) -> dict:
    """The figures of one comparison; without an error where the step does not fit or nobody measured it."""
    made, own = (None if found.misfit else found.estimate.step for found in (theirs, ours))
    measured = None if math.isnan(one.seconds) else one.seconds
    error = made / measured - 1 if made and measured else None
    return {
        "name": one.name, "topology": str(parse(one.topology)), "remat": one.remat.value, "measured_seconds": measured,
        "estimated_seconds": made, "error": error, "valid": error is not None and abs(error) <= VALID,
        "splash": dataclasses.asdict(one.blocks), "stands_in": one.stands_in,
        "ours_remat": one.ours().model.remat.value, "ours_estimated_seconds": own, "ratio": made / own if made and own else None,
        "misfit": next((str(found.misfit) for found in (theirs, ours) if found.misfit), None),
    }  # fmt: skip


HEAD = ("step", "slice", "recomputed", "measured, s", "estimated, s", "error", "ours recomputes", "ours, estimated, s", "theirs / ours")


def cells(figures: dict) -> tuple[str, ...]:
    def number(name: str, form: str) -> str:
        return "" if figures[name] is None else format(figures[name], form)

    return (
        figures["name"], figures["topology"], figures["remat"], number("measured_seconds", ".2f"), figures["misfit"] or number("estimated_seconds", ".1f"),
        number("error", "+.0%"), figures["ours_remat"], number("ours_estimated_seconds", ".1f"), number("ratio", ".2f"),
    )  # fmt: skip


def main(args: list[str]) -> None:
    cli.on_cpu()
    asked, console = cli.parse(Args, args, "videodit_jax.published"), cli.console()
    if asked.out:
        refuse_unwritable("--out", asked.out)
    rows, table = [], Table(*HEAD)
    for one in (*PUBLISHED, PEER):
        console.print(f"compiling {one.name} for {one.topology}, theirs and ours")
        which = parse(one.topology)
        with their_attention(one.blocks):
            theirs = plan(one.config(one.remat), which, one.of, OVER_CONTEXT)
        if not theirs.misfit:
            theirs = dataclasses.replace(theirs, estimate=by_schedule(theirs, one.blocks))
        rows.append(row(one, theirs, plan(one.ours(), which, one.of, OVER_CONTEXT if one.mesh.context == which.chips else RULES)))
        table.add_row(*cells(rows[-1]))
    console.print(table)
    if asked.out:
        write_bytes(asked.out, markdown(HEAD, *map(cells, rows)).encode())
        console.print(f"wrote {asked.out}")
    console.save(asked.json, {"steps": rows})


if __name__ == "__main__":
    cli.run(main)
