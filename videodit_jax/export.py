"""`python -m videodit_jax.export`: the averaged weights of a run as one safetensors file, with the config that sampling needs."""
import dataclasses

import jax
import jax.numpy as jnp
from etils import epath

from core_jax import cli, mesh
from core_jax.mesh import MeshConfig
from core_jax.weights import count, fetch, save_file
from videodit_jax.run import WEIGHTS, Run, load_model, to_sample


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Export a run's averaged (EMA) weights."""

    run: str
    """folder of the run"""
    out: str
    """folder for config.json and weights.safetensors"""
    half: bool = False
    """store the weights in float16, half the size; they are computed with in float32 all the same"""


def main(args: list[str]) -> None:
    config = cli.parse(ExportConfig, args, "videodit_jax.export")
    mesh.start()
    run, out = Run.read(config.run), epath.Path(config.out)
    if (out / "checkpoints").exists():
        raise ValueError(f"{out} holds a run with checkpoints; export into another folder")
    on = mesh.build(MeshConfig(data=1, fsdp=-1))  # a device holds its share: the whole of a large model fits none
    with jax.set_mesh(on):
        model = load_model(config.run, run, on)
        model = jax.tree.map(lambda x: fetch(x.astype(jnp.float16) if config.half else x), model)
    if jax.process_index():
        return
    save_file(out / WEIGHTS, model)
    dataclasses.replace(run, config=dataclasses.replace(run.config, out=config.out)).write(out)
    print(f"wrote {out / WEIGHTS} ({count(model) / 1e6:.2f}M parameters); next: {to_sample(out, run.config)}")


if __name__ == "__main__":
    cli.run(main)
