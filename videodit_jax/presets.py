"""Named runs: all defaults of `train` at once. SLICES has the TPU slice that each is meant for, docs/slices.md what the compiler says of it there."""
import dataclasses
from collections.abc import Callable

from core_jax.mesh import MeshConfig
from core_jax.remat import Remat
from videodit_jax.autoencoder import FRAMES
from videodit_jax.autoencoder.load import latents_of
from videodit_jax.config import Method, OptimizerConfig, SamplingConfig, Schedule, TrainConfig
from videodit_jax.flow import FlowConfig, Guidance, Target
from videodit_jax.model import ModelConfig
from videodit_jax.picture import features_of
from videodit_jax.text import Reads, TextConfig
from videodit_jax.umt5 import WIDTH, WORDS


def tiny() -> TrainConfig:
    """A laptop CPU in minutes: coloured shapes, 8 frames of 16×16 as 16 tokens, each of which spans the whole clip in time.

    Seen on two cores, with Muon: 1,100 steps in less than 5 minutes give motion control ρ 0.88, colour and direction 100 %, size 88 %, shape 69 %.
    With noise drawn by pixel, as it was earlier, 4,000 steps gave ρ 0.96, direction 100 %, size and shape 98 %. With AdamW, 1,900 steps in the
    same time as 1,400 of Muon gave ρ 0.88, direction 45 %, shape 36 %; 5,000 gave ρ 0.98, direction 100 %, shape 83 %.
    """
    return TrainConfig(
        preset="tiny",
        out="runs/tiny",
        steps=1100,
        batch=32,
        frames=8,
        size="16x16",
        eval_every=550,
        sample_every=550,
        checkpoint_every=500,
        model=ModelConfig(
            width=256, layers=3, heads=4, mlp=512, patch=(8, 4, 4), absolute=True, frequencies=128,
            text=TextConfig(words=10, width=64), unroll=3,
        ),
        flow=FlowConfig(target=Target.X0, std=1.2),
        optimizer=OptimizerConfig(Method.MUON, learning_rate=3e-3, schedule=Schedule.WSD, decay=0.5, warmup=100, b2=0.99, ema=0.995),
        sampling=SamplingConfig(steps=16, guidance=Guidance(text=2.0, scores=1.5)),
    )


def stories() -> TrainConfig:
    """A laptop CPU in minutes: `tiny` for clips of `stories`, 9 frames of 16×16 whose first frames may be given; owl_jax films with it.

    A shape that a caption asks for must be known where the noise hides it, above t = 0.85 or so: there a shift of 3 has 30 % of the times,
    none has 7 %. And a first frame that shows it leaves the caption nothing to say, so fewer clips have one.
    """
    base = tiny()
    flow = dataclasses.replace(base.flow, shift=3.0)
    sampling = dataclasses.replace(base.sampling, guidance=Guidance(text=1.0, scores=1.5))
    model = dataclasses.replace(base.model, patch=(9, 4, 4), given=True, text=TextConfig(words=16, width=64))
    return dataclasses.replace(
        base, preset="stories", data="stories", out="runs/stories", steps=4000, eval_every=1000, sample_every=1000, frames=9, fps=4.0, given_part=0.4,
        model=model, flow=flow, sampling=sampling,
    )  # fmt: skip


def _video(
    name: str, width: int, layers: int, heads: int, mlp: int, *, frames: int, size: str, batch: int, mesh: MeshConfig, save: int = 100
) -> TrainConfig:
    """Real video in pixels: patches of 4×16×16, the tokens of a 4×8×8 autoencoder under Wan's 1×2×2 patches.

    Args:
      save: steps between checkpoints. A slice that is taken away without notice costs these; of the sizes that take 10 to 20 s a step
        100 are half an hour.
    """
    return TrainConfig(
        preset=name,
        data="videos",
        out=f"runs/{name}",
        steps=100_000,
        batch=batch,
        frames=frames,
        size=size,
        eval_every=2000,
        sample_every=2000,
        checkpoint_every=save,
        model=ModelConfig(
            width=width, layers=layers, heads=heads, mlp=mlp, patch=(4, 16, 16), remat=Remat.ATTENTION,
            text=TextConfig(words=256, width=512),
        ),
        flow=FlowConfig(target=Target.X0, shift=3.0),
        optimizer=OptimizerConfig(schedule=Schedule.CONSTANT),
        mesh=mesh,
        sampling=SamplingConfig(steps=40, guidance=Guidance(text=5.0, scores=2.0)),
    )


def _scaling(name: str, layers: int) -> TrainConfig:
    """One of the six sizes of the scaling-law paper (arXiv 2411.17470; depth and width inferred, d = 128·layers): 16 frames
    of 256×256 as 1,024 tokens. The paper's autoencoder makes 1,280 of 17 frames."""
    d = 128 * layers
    return _video(name, d, layers, d // 128, 4 * d, frames=16, size="256x256", batch=128, mesh=MeshConfig(fsdp=-1, data=1), save=1000)


def wan_1b() -> TrainConfig:
    """Wan 2.1 1.3B's sizes: width 1,536, 30 layers; 80 frames of 480×832, 31,200 tokens."""
    return _video("1.3b", 1536, 30, 12, 8960, frames=80, size="480x832", batch=32, mesh=MeshConfig(fsdp=-1, data=1))


def wan_5b() -> TrainConfig:
    """Wan 2.2 TI2V-5B's sizes: width 3,072, 30 layers; 120 frames of 704×1280, 105,600 tokens, of its own latents (`--autoencoder wan2.2`) 27,280."""
    return _video("5b", 3072, 30, 24, 14336, frames=120, size="704x1280", batch=32, mesh=MeshConfig(fsdp=-1, data=1))


def wan_14b() -> TrainConfig:
    """Wan 2.1 14B's sizes: width 5,120, 40 layers; 80 frames of 720×1280, 72,000 tokens."""
    return _video("14b", 5120, 40, 40, 13824, frames=80, size="720x1280", batch=16, mesh=MeshConfig(data=1, fsdp=-1, context=4))


def movie_gen_30b() -> TrainConfig:
    """Movie Gen's size (arXiv 2410.13720): width 6,144, 48 layers, its three MLP matrices' size in two; 80 frames of 720×1280, 72,000 tokens."""
    return _video("30b", 6144, 48, 48, 24576, frames=80, size="720x1280", batch=16, mesh=MeshConfig(data=1, fsdp=-1, context=4, tensor=2))


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "tiny": tiny,
    "stories": stories,
    **{
        name: lambda name=name, layers=layers: _scaling(name, layers)
        for name, layers in (("0.017b", 4), ("0.057b", 6), ("0.13b", 8), ("0.26b", 10), ("0.72b", 14), ("1.07b", 16))
    },
    "1.3b": wan_1b,
    "5b": wan_5b,
    "14b": wan_14b,
    "30b": movie_gen_30b,
}

SLICES = {
    "tiny": "v5e-4",
    "stories": "v5e-4",
    **dict.fromkeys(("0.017b", "0.057b", "0.13b", "0.26b", "0.72b", "1.07b"), "v5e-16"),
    "1.3b": "v5p-32",
    "5b": "v5p-64",
    "14b": "v5p-128",
    "30b": "v5p-256",
}
"""the slice that each is meant for; docs/slices_large.md has others"""


def on_latents(config: TrainConfig, autoencoder: str, text_encoder: str | None, image_encoder: str | None) -> TrainConfig:
    """The preset on latents, as Wan has it: patches of 1×2×2 latents in place of 4×16×16 pixels, a frame more, and v as target. Of Wan 2.1's latents
    these are as many tokens, of Wan 2.2's a quarter, which must divide the size: 704 rows in place of 720. `tiny` and `stories` are at 64×64, since
    an eighth of 16 pixels would be too little. With a text encoder captions are features of UMT5-XXL. With an image encoder it is Wan 2.1's
    image-to-video.

    Raises:
      ValueError: the autoencoder, or the image encoder, is a directory without one.
    """
    text, latents = TextConfig(WORDS, WIDTH, Reads.FEATURES) if text_encoder else config.model.text, latents_of(autoencoder)
    model = dataclasses.replace(config.model, channels=latents.channels, patch=(1, 2, 2), text=text)
    step = 2 * latents.pixels
    frames, size = config.frames // FRAMES * FRAMES + 1, "x".join(str(max(side // step * step, 64)) for side in config.video[1:])
    flow = dataclasses.replace(config.flow, target=Target.V)
    changed = dict(autoencoder=autoencoder, text_encoder=text_encoder, data="latents", frames=frames, size=size, model=model, flow=flow)
    if image_encoder:
        changed["model"] = dataclasses.replace(model, given=True, gray=True, picture=features_of(image_encoder))
        changed |= {"image_encoder": image_encoder, "given_part": 1.0}
    return dataclasses.replace(config, **changed)


def preset(
    name: str, data: str | None = None, autoencoder: str | None = None, text_encoder: str | None = None, image_encoder: str | None = None
) -> TrainConfig:
    """The named preset, for its own data or for others, or for the latents of an autoencoder and the features of a text and an image encoder.

    On videos `tiny` has a Wiener filter beside its blocks: in 200 steps on real clips it brings the held-out loss at t = 0.1 from
    0.022 to 0.003 (a linear predictor has 0.004). On `shapes` it does without: with the filter, direction was right in 20 to 60 % of
    the clips after 1,900 steps of AdamW instead of 80 to 90 %.

    Raises:
      ValueError: there is none of this name, or what `on_latents` refuses.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset named {name!r}; there are {', '.join(PRESETS)}")
    config = PRESETS[name]()
    if autoencoder:
        return on_latents(config, autoencoder, text_encoder, image_encoder)
    if name == "tiny" and data not in (None, "shapes"):
        return dataclasses.replace(config, data=data, model=dataclasses.replace(config.model, wiener=True))
    return config
