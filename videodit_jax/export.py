"""`python -m videodit_jax.export`: the averaged weights of a run as one safetensors file, with the config that sampling needs; or as diffusers reads
them, and so what LoRA learned alone."""
import dataclasses

import jax
import jax.numpy as jnp
from etils import epath
from jax.experimental import multihost_utils

from core_jax import cli, mesh
from core_jax.files import refuse_unwritable
from core_jax.mesh import MeshConfig
from core_jax.tensors import END, save_file
from core_jax.weights import count
from videodit_jax import lora, to_wan
from videodit_jax.config import LoRAConfig
from videodit_jax.model import VideoDiT
from videodit_jax.run import EXPERTS, WEIGHTS, Run, load_learned, load_model, named_by, to_sample


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Export a run's averaged (EMA) weights, which `sample`, `control` and `train --init` read."""

    run: str
    """folder of the run"""
    out: str
    """folder for config.json and weights.safetensors (above 5 GB several files and their index), or for pytorch_lora_weights.safetensors of LoRA"""
    diffusers: bool = False
    """write the whole weights as diffusers' WanTransformer3DModel reads them, into the folder transformer, of the second of two experts transformer_2"""
    merged: bool = False
    """for a run with LoRA, export the whole weights with what it learned, in place of what it learned alone"""
    half: bool = False
    """store the weights in float16, half the size; computation stays in float32"""


def refuse_place(out: epath.Path) -> None:
    """Raises ValueError: weights cannot be written there, or checkpoints lie there, which they would hide, or another library's config.json."""
    refuse_unwritable("--out", out / WEIGHTS)
    if (out / "config.json").exists():
        try:
            Run.read(out)
        except ValueError as error:
            raise ValueError(f"{out} holds the config.json of something else, which would be written over; take another folder") from error
    if (out / "checkpoints").exists():
        raise ValueError(f"{out} holds a run with checkpoints; take another folder")


def write(out: epath.Path, run: Run, model: VideoDiT, following: str) -> None:
    """Weights, in their dtype, and config; says so, and the command that follows. The first host writes, the others wait: where one leaves minutes
    before it, it takes it along."""
    weights = save_file(out / WEIGHTS, model)
    if jax.process_index() == 0:
        dataclasses.replace(run, config=dataclasses.replace(run.config, out=str(out), lora=LoRAConfig()), base="").write(out)
        print(f"wrote {weights} ({count(model) / 1e6:.2f}M parameters)" + f"; next: {following}" * bool(following))
    multihost_utils.sync_global_devices("weights are written")


def write_learned(out: epath.Path, run: Run, learned: VideoDiT, dtype: jnp.dtype) -> None:
    """What LoRA learned. The first host writes, the others wait."""
    lora.write(out / lora.FILE, run.config, learned, dtype)
    if jax.process_index() == 0:
        base = named_by(run.config.init)
        which = f"{EXPERTS[run.config.flow.between[1] < 1]}=" if run.config.flow.expert else ""
        following = "" if base.suffix == END else f"; next: {to_sample(base, run.config, '--lora', f'{which}{out / lora.FILE}')}"
        print(f"wrote {out / lora.FILE} ({count(learned) / 1e6:.3g}M parameters){following}")
    multihost_utils.sync_global_devices("what was learned is written")


def write_wan(out: epath.Path, run: Run, model: VideoDiT) -> None:
    """The weights as diffusers reads them. The first host writes, the others wait."""
    to_wan.write(out, run.config.model, model)
    if jax.process_index() == 0:
        print(
            f"wrote {out}, which diffusers' WanTransformer3DModel.from_pretrained reads; it is as videodit_jax.sample has it without scores, but for an "
            "empty prompt, of which diffusers reads the encoder's features, not what was learned"
        )
    multihost_utils.sync_global_devices("weights are written")


def main(args: list[str]) -> None:
    config = cli.parse(ExportConfig, args, "videodit_jax.export")
    mesh.start(config)
    run, out = Run.read(config.run), epath.Path(config.out)
    if config.merged and not run.config.lora.rank:
        raise ValueError(f"--merged goes with a run that was trained with --lora.rank, and {config.run} was not")
    if config.diffusers:
        if run.config.lora.rank and not config.merged:
            raise ValueError(f"--diffusers goes with --merged for a run with LoRA: what {config.run} learned alone is written as diffusers reads it anyway")
        to_wan.refuse_unlike(config.run, run.config)
        out /= "transformer_2" if run.config.flow.between[1] < 1 else "transformer"
        refuse_unwritable("--out", out / "config.json")
        if (out / "config.json").exists():
            raise ValueError(f"{out} holds a model already: take another folder")
    else:
        refuse_place(out)
    on = mesh.build(MeshConfig(data=1, fsdp=-1))  # a device holds its share: the whole of a large model fits none
    with jax.set_mesh(on):
        if run.config.lora.rank and not config.merged:
            return write_learned(out, run, load_learned(config.run, run, on), jnp.float16 if config.half else jnp.float32)
        model = load_model(config.run, run, on)
        model = jax.tree.map(lambda x: x.astype(jnp.float16), model) if config.half else model
        return write_wan(out, run, model) if config.diffusers else write(out, run, model, to_sample(out, run.config))


if __name__ == "__main__":
    cli.run(main)
