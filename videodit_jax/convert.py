"""`python -m videodit_jax.convert`: the transformer of a Wan 2.1, or those of a Wan 2.2, of a directory in diffusers' format, as weights that `sample`
and `train` read: one folder, or of A14B's two experts one for each in it.

Metric scores, which Wan does not know, change nothing until they are trained. What Wan reads where there is no caption is the feature of an
empty one.
"""
import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from core_jax import cli, mesh
from core_jax.directory import held_config, on_disk, stream
from core_jax.files import read_kept, whole
from core_jax.mesh import MeshConfig
from core_jax.rngs import Rngs
from core_jax.tensors import Tensors
from core_jax.weights import named
from videodit_jax.autoencoder import FRAMES, SIZES
from videodit_jax.autoencoder.load import STEM
from videodit_jax.conditioning import ScoreEmbedding, ScoreStatistics
from videodit_jax.config import SamplingConfig, TrainConfig
from videodit_jax.export import refuse_place, write
from videodit_jax.flow import Guidance, Solver
from videodit_jax.model import ModelConfig, VideoDiT, abstract_model
from videodit_jax.names import UNUSED, theirs, turned
from videodit_jax.picture import VIT_H, features_of
from videodit_jax.presets import preset
from videodit_jax.run import EXPERTS, Run
from videodit_jax.text import Reads, TextConfig
from videodit_jax.umt5 import WORDS
from videodit_jax.umt5.encoder import TextEncoder

GUIDANCE = {False: (4.0, 3.0), True: (3.5, 3.5)}
"""by text, of the expert of noisier videos and the other one, by whether a picture is given, in 40 steps: as Wan's own code has it"""


def read_config(directory: epath.PathLike) -> ModelConfig:
    """The sizes of a WanTransformer3DModel.

    Raises:
      ValueError: there is no config.json, or it is of something else.
    """
    with held_config(directory, "transformer", "a WanTransformer3DModel as diffusers writes it") as held:
        kind, heads, channels = held["_class_name"], held["num_attention_heads"], (held["in_channels"], held["out_channels"])
        gray, features = channels[0] > channels[1], held.get("image_dim") or 0
        config = ModelConfig(
            width=heads * held["attention_head_dim"], layers=held["num_layers"], heads=heads, mlp=held["ffn_dim"], patch=tuple(held["patch_size"]),
            channels=channels[1], given=gray, gray=gray, picture=(features_of(VIT_H)[0], features) if features and gray else (0, 0), frequencies=held["freq_dim"],
            text=TextConfig(WORDS, held["text_dim"], Reads.FEATURES),
        )  # fmt: skip
        known = held.get("cross_attn_norm", True), held.get("qk_norm", "rms_norm_across_heads"), held.get("eps", 1e-6)
        read = held.get("added_kv_proj_dim"), held.get("pos_embed_seq_len")
    wanted = [(one.channels, one.channels) for one in SIZES.values()] + [(2 * SIZES["wan2.1"].channels + FRAMES, SIZES["wan2.1"].channels)]
    if channels not in wanted or (kind, *known) != ("WanTransformer3DModel", True, "rms_norm_across_heads", 1e-6):
        raise ValueError(
            f"{directory}/config.json describes a {kind} with {channels[0]} channels in and {channels[1]} out, and a transformer of Wan 2.1 or 2.2 is "
            f"wanted: {' or '.join(f'{one} and {other}' for one, other in wanted)}"
        )
    if read != (config.width if any(config.picture) else None, None) or bool(features) != any(config.picture):
        raise ValueError(
            f"{directory}/config.json describes a Wan that reads features of an image in another way than Wan 2.1's image-to-video does: with an image_dim "
            f"of {features or None}, an added_kv_proj_dim of {read[0]} and a pos_embed_seq_len of {read[1]}"
        )
    return config


def _seen(directory: epath.Path, model: ModelConfig) -> tuple[int, int]:
    """Tokens and width of what the pipeline's image encoder makes. Raises ValueError: the transformer does not read these, or there is none."""
    made = features_of(directory)
    if made[1] != model.picture[1]:
        raise ValueError(f"{directory}: the image encoder gives {made[1]} features a token, and the transformer reads {model.picture[1]}")
    return made


def load(directory: epath.PathLike, config: ModelConfig, none: np.ndarray, *, on: Mesh | None = None, dtype: jnp.dtype = jnp.float32) -> VideoDiT:
    """The transformer's weights in our model.

    Args:
      none: (C,), the feature of an empty caption.
      dtype: of the weights.

    Raises:
      ValueError: what `core_jax.directory.stream` refuses.
    """
    shapes = abstract_model(config)
    scores = ScoreEmbedding(len(config.scores), config.frequencies, config.width, rngs=Rngs(0))
    given = {f"scores.{name}": np.asarray(array, dtype) for name, array in named(scores).items()} | {"text.none": np.asarray(none, dtype)}
    turn = functools.partial(turned, config)
    return stream(Tensors(directory, STEM), shapes, theirs, turn, unused=UNUSED, given=given, mesh=on, dtype=dtype)


def boundary_of(directory: epath.Path) -> float | None:
    """The time where the first of a pipeline's two transformers ends and the second begins; None of one transformer. Raises ValueError: it is no time."""
    index = read_kept(directory / "model_index.json")
    if not any(index.get("transformer_2") or ()) and not (directory / "transformer_2").exists():
        return None
    boundary = index.get("boundary_ratio")
    if not isinstance(boundary, float) or not 0 < boundary < 1:
        raise ValueError(f"{directory}/model_index.json gives a boundary_ratio of {boundary}, and of two transformers one between 0 and 1 is wanted")
    return boundary


def settings(directory: epath.Path, model: ModelConfig, between: tuple[float, float] = (0.0, 1.0)) -> TrainConfig:
    """Of a run that goes on from these weights: Wan's size nearest to them, its shift of times, captions and latents of the pipeline's own
    encoders, and diffusers' sampler. Samples are not steered by scores, which nobody trained.

    Args:
      between: the times of an expert.
    """
    (latents,) = [name for name, one in SIZES.items() if one.channels == model.channels]
    size, fps = ("5b", 24.0) if latents == "wan2.2" else ("14b" if model.width > 3072 else "1.3b", 16.0)
    base = preset(size, autoencoder=latents, text_encoder=str(whole(directory)))
    held = read_kept(directory / "scheduler" / "scheduler_config.json")
    flow = dataclasses.replace(base.flow, shift=held.get("flow_shift") or held.get("shift") or base.flow.shift, between=between)
    text = GUIDANCE[model.given][between[0] == 0] if flow.expert else base.sampling.guidance.text
    sampling = SamplingConfig(40 if flow.expert else 50, Solver.UNIPC, Guidance(text, 1.0))
    model = dataclasses.replace(model, remat=base.model.remat)
    given, by = 1.0 if model.gray else base.given_part, str(whole(directory))
    own = {"image_encoder": by} if any(model.picture) else {}
    return dataclasses.replace(base, autoencoder=by, fps=fps, given_part=given, model=model, flow=flow, sampling=sampling, **own)


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Convert the transformer of a Wan 2.1, or those of a Wan 2.2."""

    pipeline: str
    """directory of the pipeline in diffusers' format: transformer (and transformer_2), text_encoder, tokenizer, scheduler, vae (and image_encoder)"""
    out: str
    """folder for config.json and weights.safetensors (above 5 GB several files and their index); of two experts for the folders high and low"""
    half: bool = False
    """store the weights in float16, half the size; computation stays in float32"""


def main(args: list[str]) -> None:
    config = cli.parse(ConvertConfig, args, "videodit_jax.convert")
    mesh.start(config)
    directory, out = on_disk(config.pipeline), epath.Path(config.out)
    boundary = boundary_of(directory)
    if boundary is None:
        parts = {"transformer": (out, (0.0, 1.0))}
    else:
        high, low = EXPERTS
        parts = {"transformer": (out / high, (boundary, 1.0)), "transformer_2": (out / low, (0.0, boundary))}
    models = {name: read_config(directory / name) for name in parts}
    for place, _ in parts.values():
        refuse_place(place)
    if read_kept(directory / "model_index.json").get("expand_timesteps"):  # tokens have times of their own: it was trained on first frames as well
        models = {name: dataclasses.replace(model, given=True, in_place=True) for name, model in models.items()}
    if any(models["transformer"].picture):
        models = {name: dataclasses.replace(model, picture=_seen(directory, model)) for name, model in models.items()}
    model = models["transformer"]
    on = mesh.build(MeshConfig(data=1, fsdp=-1))  # a device holds its share: the whole of a large model fits none
    (none,) = TextEncoder(directory, on, jnp.bfloat16, model.text.words)([""])
    if none.shape[1] != model.text.width:
        raise ValueError(f"{directory}: the text encoder gives {none.shape[1]} features a token, and the transformer reads {model.text.width}")
    following = cli.command("videodit_jax.sample", "--run", config.out, "--prompt", "…", *["--image", "PICTURE"] * model.gray)
    for name, (place, between) in parts.items():
        run = Run(settings(directory, models[name], between), ScoreStatistics({score: () for score in model.scores}), "none")
        weights = load(directory / name, models[name], none[0], on=on, dtype=jnp.float16 if config.half else jnp.float32)
        write(place, run, weights, following if name == [*parts][-1] else "")
        del weights  # before the next ones are read


if __name__ == "__main__":
    cli.run(main)
