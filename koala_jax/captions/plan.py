"""`python -m koala_jax.captions.plan`: compiles captioning with a large model for a TPU slice that need not be there: does it fit?

What is compiled is the program that `koala_jax.caption` runs for one batch: tower, prefill and the loop of decoding. Nothing is measured.
"""
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from core_jax import cli, mesh
from core_jax.chips import GIB
from core_jax.files import write_json
from core_jax.lmm.config import DecoderConfig, LMMConfig, PackingConfig, TowerConfig
from core_jax.lmm.generate import _generate
from core_jax.lmm.load import abstract
from core_jax.lmm.model import Inputs
from core_jax.mesh import MeshConfig
from core_jax.pod import compiled, topology
from core_jax.sharding import batch_sharding, shardings
from core_jax.weights import count


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Compile captioning with a LLaVA-OneVision of these sizes (7B's by default), in bf16."""

    topology: str = "v5e-8"
    """the slice, as Cloud TPU names it"""
    width: int = 3584
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4
    mlp: int = 18_944
    vocabulary: int = 152_064
    tower_layers: int = 26
    frames: int = 8
    """of a clip: 196 tokens each"""
    prompt: int = 2048
    """tokens of the prompt's bucket, the frames' among them"""
    most: int = 128
    """tokens of an answer"""
    batch: int = 8
    mesh: MeshConfig = MeshConfig(data=1, fsdp=2, tensor=4)
    json: str | None = None
    """also write the figures to this file"""

    @property
    def model(self) -> LMMConfig:
        decoder = DecoderConfig(
            self.vocabulary, self.width, self.layers, self.heads, self.kv_heads, self.mlp, rope_base=1e6, context=32_768,
        )  # fmt: skip
        tower = TowerConfig(tile=384, patch=14, width=1152, layers=self.tower_layers, heads=16, mlp=4304)
        return LMMConfig(decoder, tower, PackingConfig(resolutions=((384, 384),)))


def plan(config: PlanConfig) -> dict:
    """The figures: bytes of one device by what they are for, or what is missing."""
    which, begun, model = topology.parse(config.topology), time.monotonic(), abstract(config.model)
    on = mesh.build(config.mesh, which.devices())
    rows = batch_sharding(on)
    tile = config.model.tower.tile
    array = lambda shape, kind: jax.ShapeDtypeStruct((config.batch, *shape), kind, sharding=rows)
    four = (config.prompt, 4)
    inputs = Inputs(
        array((config.prompt,), jnp.int32), array((config.prompt,), bool), array((config.frames, tile, tile, 3), jnp.float32),
        array(four, jnp.int32), array(four, jnp.float32),
    )  # fmt: skip
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), config.batch))
    weights = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=place), model, shardings(model, on))
    with jax.set_mesh(on):
        lowered = _generate.lower(weights, inputs, keys, most=config.most, temperature=0.0, dtype=jnp.bfloat16)
        result = compiled.compile(lowered, f"{which} {dict(on.shape)}")
    figures = {"topology": str(which), "mesh": dict(on.shape), "parameters": count(model), "compile seconds": time.monotonic() - begun}
    if isinstance(result, compiled.Misfit):
        return figures | {"fits": False, "needed": result.needed, "limit": result.available}
    held = sum(int(np.prod(x.sharding.shard_shape(x.shape))) * 2 for x in jax.tree.leaves(weights))
    return figures | {"fits": True, "weights": held, "all": result.bytes, "limit": which.chip.hbm}


def main(args: list[str]) -> None:
    config = cli.parse(PlanConfig, args, "koala_jax.captions.plan")
    figures, console = plan(config), Console()
    sizes = ("weights", "all", "needed", "limit")
    for name, value in figures.items():
        console.print(f"{name}: {value / GIB:.2f} GiB a device" if name in sizes else f"{name}: {value}", highlight=False)
    if config.json:
        write_json(config.json, figures)


if __name__ == "__main__":
    cli.run(main)
