"""Everything that defines a run, as typed dataclasses; the command line of `train` is derived from them."""
import dataclasses
import enum
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from core_jax import lora
from core_jax.cores import cores
from core_jax.mesh import MeshConfig
from core_jax.numbers import BELOW_1, COUNT, FROM_0, POSITIVE, SEED, SHARE, STATUS, refuse, within
from core_jax.report import ReportConfig
from core_jax.settings import changes, flat, refuse_changes, to_json
from core_jax.weights import by_name
from videodit_jax.autoencoder import SIZES, Latents
from videodit_jax.flow import FlowConfig, Guidance, Solver
from videodit_jax.model import ModelConfig
from videodit_jax.muon import muon
from videodit_jax.text import Reads

SHAPE = re.compile(r"(\d+)x(\d+)x(\d+)")
"""frames x height x width, as `--buckets` has it"""
FRAME_RATE = within(0.01, 1000)
"""frames a second that a file, above all a GIF, can hold"""


class Schedule(enum.Enum):
    """What the learning rate does after its warm-up."""

    CONSTANT = "constant"
    COSINE = "cosine"
    """falls to zero at the last step"""
    WSD = "wsd"
    """constant, then falls linearly to zero over the last part of the run (warm-up, stable, decay)"""


class Method(enum.Enum):
    """Who turns gradients into updates."""

    ADAMW = "adamw"
    MUON = "muon"
    """the blocks' matrices by Muon, the rest by Adam, at the same learning rate (videodit_jax/muon.py)"""


class Dtype(enum.Enum):
    """Precision of the computation; parameters, loss and optimizer are always fp32."""

    AUTO = "auto"
    """bfloat16 on TPU and GPU, float32 on a CPU"""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    def resolve(self) -> "Dtype":
        if self is Dtype.AUTO:
            return Dtype.FLOAT32 if jax.default_backend() == "cpu" else Dtype.BFLOAT16
        return self

    @property
    def jax(self) -> jnp.dtype:
        return jnp.dtype(self.resolve().value)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    method: Method = Method.ADAMW
    """adamw; or muon: Muon for the blocks' matrices, Adam for the rest"""
    learning_rate: float = 1e-4
    """peak learning rate"""
    schedule: Schedule = Schedule.CONSTANT
    """after the warm-up: constant; cosine, to zero at the last step; wsd, constant and then linearly to zero"""
    warmup: int = 1000
    """steps over which the learning rate rises from zero"""
    decay: float = 0.2
    """part of the run in which the schedule wsd falls"""
    b1: float = 0.9
    """decay of the gradient's running mean; with Muon, whose own is 0.95, for the parameters that Adam updates"""
    b2: float = 0.95
    """decay of the running mean of the squared gradient"""
    weight_decay: float = 0.01
    """weight decay of matrices (with Muon of those of the blocks), not of biases, norms and tables"""
    clip: float = 1.0
    """largest L2 norm of the gradient"""
    accumulate: int = 1
    """microbatches a step"""
    ema: float = 0.999
    """decay of the running average of the parameters"""
    max_skipped: int = 10
    """updates in a row that may be skipped because they are not finite, before the run stops"""

    def __post_init__(self):
        may_be = {COUNT: "accumulate", POSITIVE: "clip", FROM_0: "learning_rate warmup max_skipped weight_decay", SHARE: "decay ema", BELOW_1: "b1 b2"}
        refuse(self, may_be, "optimizer")

    def learning_rates(self, steps: int) -> optax.Schedule:
        peak, rest = self.learning_rate, max(steps - self.warmup, 1)
        if self.schedule is Schedule.COSINE:
            after = optax.cosine_decay_schedule(peak, rest)
        elif self.schedule is Schedule.WSD:
            fall = max(min(int(self.decay * steps), rest), 1)
            after = optax.join_schedules([optax.constant_schedule(peak), optax.linear_schedule(peak, 0.0, fall)], [rest - fall])
        else:
            after = optax.constant_schedule(peak)
        return optax.join_schedules([optax.linear_schedule(0.0, peak, self.warmup), after], [self.warmup])

    def build(self, steps: int) -> optax.GradientTransformation:
        rates = self.learning_rates(steps)
        if self.method is Method.MUON:
            move = muon(rates, self.b1, self.b2, self.weight_decay)
        else:
            matrices = by_name(lambda name: name.split(".")[-1] == "w")  # not by dims: stacked over layers, a bias has two as well
            move = optax.adamw(rates, self.b1, self.b2, weight_decay=self.weight_decay, mask=matrices)
        return optax.chain(optax.clip_by_global_norm(self.clip), move)


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Thin products that learn beside the linear maps of the blocks, while all weights stay."""

    rank: int = 0
    """rank of the products; 0: no LoRA, all weights learn"""
    alpha: float | None = None
    """α: the products are scaled by α / rank; by default the rank"""
    where: str = ".*"
    """regular expression for whole names of a block's linear maps (self_attention.qkv, cross_attention.q, mlp.up …); by default all"""
    start: str | None = None
    """file of products to start from, as sample --lora reads them; by default they are nothing"""

    def __post_init__(self):
        refuse(self, {FROM_0: "rank"}, "lora")
        if self.rank:
            self.beside  # refuses what cannot be
        elif given := [f"--lora.{name} {value}" for name, value in vars(self).items() if name != "rank" and value not in (None, ".*")]:
            raise ValueError(f"{given[0]} goes with --lora.rank, without which all weights learn")

    @property
    def beside(self) -> lora.LoRAConfig:
        """As `core_jax.lora.add_lora` takes it, beside the blocks' maps."""
        return lora.LoRAConfig(self.rank, self.rank if self.alpha is None else self.alpha, self.where)


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How a video is made from noise."""

    steps: int = 20
    """steps of the solver"""
    solver: Solver = Solver.EULER
    """heun takes two evaluations a step where euler and unipc take one"""
    guidance: Guidance = Guidance()

    def __post_init__(self):
        refuse(self, {COUNT: "steps"}, "sampling")

    @property
    def evaluations(self) -> int:
        """Of the model, for one video."""
        return (2 * self.steps - 1 if self.solver is Solver.HEUN else self.steps) * self.guidance.evaluations

    @property
    def unscored(self) -> "SamplingConfig":
        """Where no score is known: with and without scores are then the same in (7) of flow.py, and equal scales save an evaluation."""
        return dataclasses.replace(self, guidance=dataclasses.replace(self.guidance, scores=self.guidance.text))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a Video DiT. Rerun with the same --out to go on from its last checkpoint."""

    preset: str = "tiny"
    """preset that all other defaults come from: tiny, stories, 0.017b … 1.07b, 1.3b, 5b, 14b or 30b (videodit_jax/presets.py)"""
    data: str = "shapes"
    """"shapes" or "stories" (drawn on the fly), a folder of videos, a table of clips (.csv, .parquet), or a dataset written by tensorflow_datasets"""
    out: str = "runs/tiny"
    """folder of the run"""
    autoencoder: str | None = None
    """--data holds latents (videodit_jax.latents) of this autoencoder, a directory in diffusers' format; or "wan2.1", "wan2.2": sizes, no samples"""
    text_encoder: str | None = None
    """--data holds features of captions too, of this encoder, a directory of UMT5's weights and tokenizer, or "umt5-xxl": its sizes alone"""
    image_encoder: str | None = None
    """and of each clip's first frame, for Wan 2.1's image-to-video: a directory of CLIP's image tower, or "clip-vit-h": its sizes alone"""
    init: str | None = None
    """weights to start from: a run, exported weights, a .safetensors file, or "pretrained" (the package's); without --preset, that run's settings"""
    steps: int = 1000
    """number of updates, those of earlier parts of the run included"""
    batch: int = 32
    """clips a step, over all devices"""
    frames: int = 8
    """frames of a clip"""
    size: str = "24x24"
    """height x width of a clip, in pixels"""
    buckets: tuple[str, ...] = ()
    """further shapes, frames x height x width: each clip has the nearest of all, pictures those of one frame; --frames and --size are that of samples"""
    fps: float | None = None
    """frames a second at which a clip is read; by default the video's own rate"""
    seed: int = 0
    """seed of the weights, the order of the clips and the noise"""
    dtype: Dtype = Dtype.AUTO
    """dtype of the computation; auto: bfloat16 on TPU and GPU, float32 on a CPU"""
    caption_dropout: float = 0.1
    """part of the clips that are trained without caption"""
    score_dropout: float = 0.1
    """probability that all scores of a clip are dropped, and then that each one is"""
    given_part: float = 0.7
    """with --model.given, part of the clips whose first frames are given: the first alone, or any number"""
    eval_every: int = 500
    """steps between evaluations on the held-out split"""
    eval_examples: int = 64
    """held-out clips of an evaluation"""
    sample_every: int = 500
    """steps between sample videos, written to OUT/samples"""
    sample_prompts: str | None = None
    """prompts of these videos, a file as of sample --prompts; by default the captions of eight held-out clips"""
    checkpoint_every: int = 500
    """steps between checkpoints; the last step is always saved"""
    keep: int = 2
    """how many of the newest checkpoints are kept"""
    keep_every: int = 0
    """besides, the checkpoints of multiples of so many steps are kept, such as 10000; 0: none"""
    workers: int = cores()
    """decoding processes, on each host"""
    stopped_status: int = 0
    """exit status of a run that a signal stopped before its last step; Kubernetes needs one that is not 0, such as 143"""
    extend: bool = False
    """let a resumed run change --steps although its learning-rate schedule depends on them"""
    model: ModelConfig = ModelConfig()
    flow: FlowConfig = FlowConfig()
    lora: LoRAConfig = LoRAConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    sampling: SamplingConfig = SamplingConfig()
    report: ReportConfig = ReportConfig()

    def __post_init__(self):
        counts = "steps batch frames eval_every eval_examples sample_every checkpoint_every keep workers"
        may_be = {COUNT: counts, FROM_0: "keep_every", SHARE: "caption_dropout score_dropout given_part", SEED: "seed", STATUS: "stopped_status", FRAME_RATE: "fps"}
        refuse(self, may_be)
        if self.keep_every % self.checkpoint_every:
            raise ValueError(f"--keep-every {self.keep_every}: a multiple of --checkpoint-every {self.checkpoint_every} is wanted, steps that are saved")
        if self.batch % self.optimizer.accumulate:
            raise ValueError(f"a batch of {self.batch} cannot be divided into {self.optimizer.accumulate} microbatches")
        known = [SIZES[self.autoencoder]] if self.autoencoder in SIZES else [*SIZES.values()]
        channels = [one.channels for one in known] if self.autoencoder else [3]
        if self.model.channels not in channels:
            of = f"latents of --autoencoder {self.autoencoder}" if self.autoencoder else "pixels, without --autoencoder,"
            raise ValueError(f"--model.channels {self.model.channels}: {of} have {' or '.join(map(str, channels))}")
        if self.model.gray and (not self.autoencoder or self.given_part != 1):
            raise ValueError("--model.gray goes with --autoencoder and --given-part 1: each clip has the latents of its first frame and gray ones")
        for flag, encoder, of in (("text", self.text_encoder, "captions"), ("image", self.image_encoder, "first frames")):
            if encoder and not self.autoencoder:
                raise ValueError(f"--{flag}-encoder {encoder} goes with --autoencoder: features of {of} come with latents")
        if bool(self.text_encoder) != (self.model.text.reads is Reads.FEATURES):
            raise ValueError(f"--model.text.reads {self.model.text.reads.value}: captions' bytes are read without --text-encoder, features with it")
        if self.image_encoder and not any(self.model.picture):
            raise ValueError(f"--image-encoder {self.image_encoder}: this model reads no features of a picture (--model.picture 0 0)")
        if any(self.model.picture) and not self.image_encoder:
            raise ValueError(f"--model.picture {self.model.picture[0]} {self.model.picture[1]} goes with --image-encoder: features of a picture are read")
        if self.sample_prompts and not self.draws:
            sizes, (first, last) = self.autoencoder in SIZES, self.flow.between
            why = f"only sizes of --autoencoder {self.autoencoder} are known" if sizes else f"this is an expert of the times {first:g} to {last:g} alone"
            raise ValueError(f"--sample-prompts {self.sample_prompts}: no samples are drawn where {why}")
        if self.sample_prompts and self.model.gray:
            raise ValueError(f"--sample-prompts {self.sample_prompts}: with --model.gray a video is made of a picture, which a prompt does not give")
        if self.model.gray and self.frames == 1:
            raise ValueError("with --model.gray the first frame is given, which of one frame would be all: more --frames are wanted")
        self.model.grid(self.clip)
        if self.buckets and self.data in ("shapes", "stories"):
            raise ValueError(f"--buckets {self.buckets[0]}: --data {self.data} draws clips of one shape; videos, pictures or latents of them are wanted")
        for bucket in self.buckets:
            shape = shape_of(bucket)
            try:
                self.at(shape)
            except ValueError as error:
                raise ValueError(f"--buckets {bucket}: {error}") from error

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(T, H, W) of clips in pixels, `video` first: one, or those of all buckets."""
        return shapes_of([self.video], self.buckets)

    def at(self, shape: tuple[int, int, int]) -> "TrainConfig":
        """The same with clips of this shape alone."""
        return dataclasses.replace(self, frames=shape[0], size=f"{shape[1]}x{shape[2]}", buckets=())

    @property
    def largest(self) -> "TrainConfig":
        """The same with clips of the shape that has most tokens alone."""
        return max(map(self.at, self.shapes), key=lambda one: one.tokens)

    @property
    def tokens(self) -> int:
        """S of a clip of `video`."""
        return math.prod(self.model.grid(self.clip))

    @property
    def video(self) -> tuple[int, int, int]:
        """(T, H, W) of a clip."""
        return self.frames, *video_size(self.size)

    @property
    def draws(self) -> bool:
        """Whether sample videos can be drawn as it trains: without an autoencoder's weights latents stay what they are, and an expert alone would show
        nothing."""
        return self.autoencoder not in SIZES and not self.flow.expert

    @property
    def latents(self) -> Latents | None:
        """What the autoencoder makes, None on pixels. The model's channels tell which it is: its directory may lie elsewhere by now."""
        return next(one for one in SIZES.values() if one.channels == self.model.channels) if self.autoencoder else None

    @property
    def clip(self) -> tuple[int, int, int]:
        """(T, H, W) of what the model sees of it: the pixels, or the latents."""
        return self.latents.grid(self.video) if self.latents else self.video

    @property
    def stored(self) -> jax.ShapeDtypeStruct:
        """A clip as a source gives it: uint8 pixels or float16 latents, (T, H, W, C). For a model with `gray`, (T, H, W, 2C): the clip's latents, then
        those of its first frame and gray ones."""
        channels = self.model.channels * (1 + self.model.gray)
        return jax.ShapeDtypeStruct((*self.clip, channels), jnp.float16 if self.autoencoder else jnp.uint8)


def video_size(size: str) -> tuple[int, int]:
    """(H, W) of a --size. Raises ValueError: it is none."""
    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if not match or not int(match[1]) or not int(match[2]):
        raise ValueError(f"--size {size!r}: height x width is wanted, for example 256x448")
    return int(match[1]), int(match[2])


def shapes_of(own: list[tuple[int, int, int]], buckets: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """A command's own shape of clips and those of --buckets, each once. Raises ValueError: one that is none."""
    return tuple(dict.fromkeys([*own, *map(shape_of, buckets)]))


def shape_of(bucket: str) -> tuple[int, int, int]:
    """(T, H, W) of one of --buckets. Raises ValueError: it is none."""
    sizes = SHAPE.fullmatch(bucket)
    if not sizes or not all(map(int, sizes.groups())):
        raise ValueError(f"--buckets {bucket!r}: frames x height x width is wanted, for example 81x480x832")
    return tuple(map(int, sizes.groups()))


def named(shape: tuple[int, int, int]) -> str:
    """The shape as `--buckets` has it: 81x480x832."""
    return "x".join(map(str, shape))


MAY_CHANGE = {
    "out", "data", "autoencoder", "text_encoder", "image_encoder", "mesh", "report", "sampling", "checkpoint_every", "keep", "sample_every", "sample_prompts",
    "eval_every", "eval_examples", "keep_every", "workers", "stopped_status", "extend", "model.context", "model.remat", "model.unroll",
}
"""what a resumed run may set otherwise, as another slice may ask for, whole tables or single settings; `steps` too, under conditions; the
data's content must be the same"""


def differing(old: TrainConfig, new: TrainConfig, counts: Callable[[str], bool]) -> str:
    """"NAME was …, now …" of each setting that counts and is not the same; "" if there is none."""
    return changes(flat(to_json(old)), {name: value for name, value in flat(to_json(new)).items() if counts(name)})


def refuse_other_run(old: TrainConfig, new: TrainConfig) -> None:
    """Compares the config of a run with the one that wants to resume it.

    Raises:
      ValueError: naming each setting that differs and may not.
    """
    if bool(old.autoencoder) != bool(new.autoencoder):
        was, flag = ("latents", "give") if old.autoencoder else ("pixels", "leave out")
        raise ValueError(f"{new.out} was begun on {was}: {flag} --autoencoder, or take another --out")
    may = MAY_CHANGE | {"steps"} | ({"init"} if old.init and new.lora.rank else set())  # the weights beside LoRA may lie elsewhere by now
    fixed = lambda name: not {name, name.split(".")[0]} & may
    if differing(old, new, fixed):  # with what a preset's settings go by
        refuse_changes(new.out, differing(old, new, lambda name: name == "data" or fixed(name)))
    if old.steps != new.steps and old.optimizer.schedule is not Schedule.CONSTANT and not new.extend:
        raise ValueError(
            f"{new.out} was planned for {old.steps} steps under the {old.optimizer.schedule.value} schedule, which "
            f"--steps {new.steps} would bend: give --extend if you want that"
        )
