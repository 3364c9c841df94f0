"""`python -m koala_jax.plan`: compiles captioning with a large model for a TPU slice, on a machine without one: does it fit?

What is compiled is the program that `koala_jax.caption` runs for one batch: tower, prefill and the loop of decoding. Nothing is measured.
"""
import dataclasses
import math
import sys

import jax
import jax.numpy as jnp

from core_jax import cli, mesh
from core_jax.lmm.config import SEVEN_BILLION, DecoderConfig, LMMConfig, TowerConfig
from core_jax.lmm.flops import decoder_flops, vision_flops
from core_jax.lmm.generate import answers
from core_jax.lmm.load import abstract
from core_jax.lmm.model import Inputs
from core_jax.mesh import MeshConfig
from core_jax.numbers import COUNT, refuse
from core_jax.pod import topology
from core_jax.pod.plan import MISFIT, Plan, Work, plan as plan_work, show
from core_jax.sharding import batch_sharding, refuse_undivided, shardings
from core_jax.words import counted


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Compile captioning with a LLaVA-OneVision of these sizes (7B's by default) for a TPU slice, in bf16."""

    topology: str = "v5e-8"
    """the slice: v5e-8 as Cloud TPU names it, or v5e:2x4"""
    decoder: DecoderConfig = SEVEN_BILLION.decoder
    tower: TowerConfig = SEVEN_BILLION.tower
    frames: int = 8
    """frames of a clip, 196 tokens each"""
    prompt: int = 2048
    """tokens of the padded prompt, the frames' included"""
    most: int = 128
    """length of an answer, in tokens"""
    batch: int = 8
    """clips in the batch"""
    mesh: MeshConfig = MeshConfig(tensor=4)
    """fsdp would gather every weight anew for each token of an answer"""
    json: str | None = None
    """also write the figures here"""

    def __post_init__(self):
        refuse(self, {COUNT: "frames prompt most batch"})
        if self.prompt <= (seen := self.frames * math.ceil(self.tower.grid / 2) ** 2):
            raise ValueError(f"--prompt {self.prompt}: {self.frames} frames are {seen} tokens, and more are needed")


def plan(config: PlanConfig, which: topology.Slice) -> Plan:
    """Compiles captioning for a slice.

    Raises:
      ValueError: the mesh does not fit the slice, or does not divide the batch or the model.
    """
    model = LMMConfig(config.decoder, config.tower, SEVEN_BILLION.packing)
    on = mesh.build(config.mesh, which.devices())
    rows, tile, S = batch_sharding(on), config.tower.tile, config.prompt
    refuse_undivided("--batch", config.batch, on)

    def array(shape: tuple[int, ...], kind) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.batch, *shape), kind, sharding=rows)

    inputs = Inputs(
        array((S,), jnp.int32), array((S,), bool), array((config.frames, tile, tile, 3), jnp.float32), array((S, 4), jnp.int32),
        array((S, 4), jnp.float32),
    )  # fmt: skip
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.batch))
    weights = abstract(model)
    weights = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=place), weights, shardings(weights, on))
    prefill = vision_flops(config.tower, config.decoder.width, config.frames) + decoder_flops(config.decoder, S, logits=1)
    answer = decoder_flops(config.decoder, config.most - 1, seen=S, logits=config.most - 1)
    both = prefill + answer
    flops = {"total": config.batch * both.forward, "attention": config.batch * both.attention, "executed": config.batch * both.forward}
    with jax.set_mesh(on):
        lowered = answers.lower(weights, inputs, keys, most=config.most, temperature=0.0, dtype=jnp.bfloat16)
        return plan_work(Work(lowered, {"weights": weights}, flops, reads=config.most, makes="batch"), which, on)


def main(args: list[str]) -> None:
    cli.on_cpu()
    config, console = cli.parse(PlanConfig, args, "koala_jax.plan"), cli.console()
    which = topology.parse(config.topology)
    console.print(f"compiling for {which}")
    found = plan(config, which)
    title = f"captions of {counted(config.batch, 'clip')} of {counted(config.frames, 'frame')}, {config.prompt:,} tokens each, answers of {config.most},"
    show(found, title, console)
    console.save(config.json, {"batch": config.batch, "prompt": config.prompt, "most": config.most} | found.json())
    if found.misfit:
        console.print("next: a larger slice, a smaller --batch, or other sizes of --mesh")
        sys.exit(MISFIT)
    shape = " ".join(f"--model.mesh.{axis} {size}" for axis, size in found.mesh.items())
    flags = f"--frames {config.frames} --model.half --model.most {config.most} --model.batch {config.batch} {shape}"
    console.print(f"next, on the slice: python -m koala_jax.caption CLIPS --model.directory DIR {flags}")


if __name__ == "__main__":
    cli.run(main)
