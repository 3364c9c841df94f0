"""`python -m videodit_jax.convert`: Wan 2.1's text-to-video transformer, or that of Wan 2.2's TI2V-5B, of a directory in diffusers' format, as weights
that `sample` and `train` read.

Metric scores, which Wan does not know, change nothing until they are trained. What Wan reads where there is no caption is the feature of an
empty one.
"""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from core_jax import cli, mesh
from core_jax.directory import held_config, on_disk, stream
from core_jax.files import read_kept, whole
from core_jax.mesh import MeshConfig
from core_jax.tensors import Tensors
from core_jax.weights import named
from videodit_jax.autoencoder import SIZES
from videodit_jax.autoencoder.load import STEM
from videodit_jax.conditioning import ScoreEmbedding, ScoreStatistics
from videodit_jax.config import TrainConfig
from videodit_jax.export import refuse_place, write
from videodit_jax.flow import Solver
from videodit_jax.model import ModelConfig, VideoDiT
from videodit_jax.names import theirs, turned
from videodit_jax.presets import preset
from videodit_jax.run import Run
from videodit_jax.text import Reads, TextConfig
from videodit_jax.umt5 import WORDS
from videodit_jax.umt5.encoder import TextEncoder

def read_config(directory: epath.PathLike) -> ModelConfig:
    """The sizes of a WanTransformer3DModel.

    Raises:
      ValueError: there is no config.json, it is of something else, or of a Wan that reads images (its cross-attention to them is not here).
    """
    with held_config(directory, "transformer", "a WanTransformer3DModel as diffusers writes it") as held:
        kind, heads, channels = held["_class_name"], held["num_attention_heads"], (held["in_channels"], held["out_channels"])
        config = ModelConfig(
            width=heads * held["attention_head_dim"], layers=held["num_layers"], heads=heads, mlp=held["ffn_dim"], patch=tuple(held["patch_size"]),
            channels=channels[0], frequencies=held["freq_dim"], text=TextConfig(WORDS, held["text_dim"], Reads.FEATURES),
        )  # fmt: skip
        known = held.get("cross_attn_norm", True), held.get("qk_norm", "rms_norm_across_heads"), held.get("eps", 1e-6), held.get("image_dim"), held.get("added_kv_proj_dim")
    wanted = [(one.channels, one.channels) for one in SIZES.values()]
    if channels not in wanted or (kind, *known) != ("WanTransformer3DModel", True, "rms_norm_across_heads", 1e-6, None, None):
        raise ValueError(
            f"{directory}/config.json describes a {kind} with {channels[0]} channels in and {channels[1]} out, and a text-to-video transformer of Wan is "
            f"wanted: {' or '.join(f'{one} and {other}' for one, other in wanted)}, no image conditions"
        )
    return config


def load(directory: epath.PathLike, config: ModelConfig, none: np.ndarray, *, on: Mesh | None = None, dtype: jnp.dtype = jnp.float32) -> VideoDiT:
    """The transformer's weights in our model.

    Args:
      none: (C,), the feature of an empty caption.
      dtype: of the weights.

    Raises:
      ValueError: what `core_jax.directory.stream` refuses.
    """
    shapes = jax.eval_shape(lambda: VideoDiT(config, rngs=nnx.Rngs(0)))
    scores = ScoreEmbedding(len(config.scores), config.frequencies, config.width, rngs=nnx.Rngs(0))
    given = {f"scores.{name}": np.asarray(array, dtype) for name, array in named(scores).items()} | {"text.none": np.asarray(none, dtype)}
    return stream(Tensors(directory, STEM), shapes, theirs, functools.partial(turned, config), given=given, mesh=on, dtype=dtype)


def settings(directory: epath.Path, model: ModelConfig, out: str) -> TrainConfig:
    """Of a run that goes on from these weights: Wan's size nearest to them, its shift of times, captions and latents of the pipeline's own
    encoders, and diffusers' sampler. Samples are not steered by scores, which nobody trained."""
    (latents,) = [name for name, one in SIZES.items() if one.channels == model.channels]
    size, fps = ("5b", 24.0) if latents == "wan2.2" else ("14b" if model.width > 3072 else "1.3b", 16.0)
    base = preset(size, autoencoder=latents, text_encoder=str(whole(directory)))
    held = read_kept(directory / "scheduler" / "scheduler_config.json")
    flow = dataclasses.replace(base.flow, shift=held.get("flow_shift") or held.get("shift") or base.flow.shift)
    sampling = dataclasses.replace(base.sampling, steps=50, solver=Solver.UNIPC, guidance=dataclasses.replace(base.sampling.guidance, scores=1.0))
    model = dataclasses.replace(model, remat=base.model.remat)
    return dataclasses.replace(base, out=out, autoencoder=str(whole(directory)), fps=fps, model=model, flow=flow, sampling=sampling)


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Convert Wan 2.1's text-to-video transformer, or that of Wan 2.2's TI2V-5B."""

    pipeline: str
    """directory of the pipeline in diffusers' format: transformer, text_encoder, tokenizer, scheduler and vae"""
    out: str
    """folder for config.json and weights.safetensors (above 5 GB several files and their index)"""
    half: bool = False
    """store the weights in float16, half the size; computation stays in float32"""


def main(args: list[str]) -> None:
    config = cli.parse(ConvertConfig, args, "videodit_jax.convert")
    mesh.start(config)
    directory, out = on_disk(config.pipeline), epath.Path(config.out)
    refuse_place(out)
    if (directory / "transformer_2").exists():
        raise ValueError(f"{directory} holds two transformers, one for noisier videos, as Wan 2.2's A14B does: a pipeline with one is wanted")
    model = read_config(directory / "transformer")
    if read_kept(directory / "model_index.json").get("expand_timesteps"):  # tokens have times of their own: it was trained on first frames as well
        model = dataclasses.replace(model, given=True, in_place=True)
    on = mesh.build(MeshConfig(data=1, fsdp=-1))  # a device holds its share: the whole of a large model fits none
    (none,) = TextEncoder(directory, on, jnp.bfloat16, model.text.words)([""])
    if none.shape[1] != model.text.width:
        raise ValueError(f"{directory}: the text encoder gives {none.shape[1]} features a token, and the transformer reads {model.text.width}")
    run = Run(settings(directory, model, config.out), ScoreStatistics({name: () for name in model.scores}), "none")
    write(out, run, load(directory / "transformer", model, none[0], on=on, dtype=jnp.float16 if config.half else jnp.float32), "--prompt", "…")


if __name__ == "__main__":
    cli.run(main)
