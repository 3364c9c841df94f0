"""A run's folder: config.json, checkpoints/, log.jsonl, samples/; or an exported one: config.json and weights.safetensors."""
import dataclasses
import functools
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from core_jax import cli, state, together
from core_jax.checkpoint import Checkpoints, newest
from core_jax.directory import stream
from core_jax.files import existing, refuse_filled, stamp, write_json
from core_jax.lora import add_lora, combine, is_lora, merge_lora, partition
from core_jax.rngs import Rngs
from core_jax.settings import from_json, to_json
from core_jax.sharding import shardings
from core_jax.state import TrainState
from core_jax.tensors import END, Tensors, holds
from core_jax.weights import cast, digest, named, renamed
from videodit_jax.autoencoder import SIZES
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import Dtype, TrainConfig, differing, refuse_other_run
from videodit_jax.model import VideoDiT, abstract_model
from videodit_jax.picture import VIT_H
from videodit_jax.umt5 import XXL

STEM = "weights"
WEIGHTS = STEM + END
PRETRAINED = epath.Path(__file__).parent / "pretrained" / "tiny"
"""the weights that come with the package"""
EXPERTS = ("high", "low")
"""folders of two experts in one, that of noisier videos first"""
BLOCKS = "blocks."
"""how the names of the blocks' arrays begin; LoRA stands beside no other: of those no other library keeps apart what ours projects at once"""
UNSEEN = ("model.patch", "model.absolute", "model.scores", "flow.target")
"""settings that weights were trained for and that their shapes do not show"""


@dataclasses.dataclass(frozen=True)
class Run:
    """What config.json holds."""

    config: TrainConfig
    statistics: ScoreStatistics
    fingerprint: str
    """of the data"""
    unused: tuple[str, ...] = ()
    """files of the data that could not be used as the run began"""
    base: str = ""
    """beside LoRA: digest of the weights that stay"""

    @classmethod
    def read(cls, folder: epath.PathLike) -> "Run":
        """Raises ValueError where the folder holds no run."""
        path = existing(folder) / "config.json"
        if not path.exists():
            within = f", but two experts: take {' or '.join(str(path.parent / name) for name in EXPERTS)}" if (path.parent / EXPERTS[0]).exists() else ""
            raise ValueError(f"{folder} holds no run: there is no config.json in it{within}")
        try:
            table = json.loads(path.read_text())
            return cls(from_json(TrainConfig, table["config"]), ScoreStatistics(table["scores"]), table["data"], tuple(table.get("unused", ())), table.get("base", ""))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not the config of a run of videodit_jax.train: {error}") from error

    def write(self, folder: epath.PathLike) -> None:
        scores = {name: list(quantiles) for name, quantiles in self.statistics.quantiles.items()}
        held = {"config": to_json(self.config), "scores": scores, "data": self.fingerprint, "unused": self.unused, "base": self.base}
        write_json(epath.Path(folder) / "config.json", held)

    @classmethod
    def begun(cls, folder: epath.PathLike, config: TrainConfig) -> "Run | None":
        """The earlier part of the run that has this config; None where the folder is new.

        Raises:
          ValueError: the folder holds another run, or something else.
        """
        folder = epath.Path(folder)
        if not (folder / "config.json").exists():
            refuse_filled(folder, "run")
            return None
        old, made = cls.read(folder), newest(folder)
        refuse_other_run(old.config, config)
        if made > config.steps:
            raise ValueError(f"{folder} has made {made} steps already, more than --steps {config.steps}")
        return old

    def resume(self, folder: epath.PathLike) -> None:
        """Writes this run into the folder. Raises ValueError: what `begun` refuses, or an earlier part was trained on other data or beside other weights."""
        old = self.begun(folder, self.config)
        if old and old.fingerprint != self.fingerprint:
            raise ValueError(f"{folder} was trained on other data: the content of {self.config.data} differs from {old.config.data}'s")
        if old and old.base != self.base:
            raise ValueError(f"{folder} was trained beside other weights than --init {self.config.init} now has")
        if together.looked():
            self.write(folder)


def to_sample(folder: epath.PathLike, config: TrainConfig, *more: object) -> str:
    """The command that samples a run. Of the encoders, where it was trained without their weights, a directory is asked for, and beside an expert the
    other one."""
    first, last = config.flow.between
    runs = ("HIGH", folder) if last < 1 else (folder, "LOW") if first > 0 else (folder,)
    words = ("--autoencoder", "DIR") * (config.autoencoder in SIZES) + ("--text-encoder", "DIR") * (config.text_encoder == XXL)
    words += ("--image-encoder", "DIR") * (config.image_encoder == VIT_H) + ("--image", "PICTURE") * config.model.gray
    return cli.command("videodit_jax.sample", "--run", *runs, *words, *more)


def make_model(config: TrainConfig) -> VideoDiT:
    """An untrained model; its parameters depend on the seed alone."""
    return VideoDiT(config.model, rngs=Rngs(config.seed))


def is_map(name: str) -> bool:
    """Whether an array of this name is of a linear map of the blocks, where nearly all weights are."""
    return name.startswith(BLOCKS) and name.endswith((".w", ".b"))


def maps_in(dtype: jnp.dtype, model: VideoDiT) -> VideoDiT:
    """The model with the blocks' linear maps in the dtype of a computation, which casts them to it anyway."""
    return renamed(model, {name: x.astype(dtype) if is_map(name) else x for name, x in named(model).items()})


def parts(config: TrainConfig, model: VideoDiT) -> tuple[VideoDiT, VideoDiT | None]:
    """What learns of a model, in fp32, and what stays, None where all learns.

    Beside LoRA the blocks' linear maps lie in the dtype of the computation.
    """
    if not config.lora.rank:
        return model, None
    return partition(add_lora(maps_in(config.dtype.jax, model), config.lora.beside, rngs=Rngs(config.seed), within=BLOCKS), is_lora)


_parts = jax.jit(parts, static_argnums=0)


def abstract_parts(config: TrainConfig) -> tuple[VideoDiT, VideoDiT | None]:
    """Shapes of the parts."""
    return _parts.eval_shape(config, abstract_model(config.model))


def read(tensors: Tensors, like: VideoDiT, mesh: Mesh, given: Mapping[str, jax.Array] = {}, dtype: jnp.dtype = jnp.float32) -> VideoDiT:
    """Our own weights, each array in place before the next is read, but for those that are given; in fp32, the blocks' linear maps in `dtype`.

    Raises:
      ValueError: they are another model's.
    """
    own = lambda ours, arrays, shape: arrays[0]
    return stream(tensors, like, lambda ours: [ours], own, given=given, mesh=mesh, dtype=dtype, exact=lambda name: not is_map(name))


def refuse_expert(folder: epath.PathLike, config: TrainConfig) -> None:
    """Raises ValueError where the run is one of two experts, for who samples by one alone."""
    if config.flow.expert:
        first, last = config.flow.between
        raise ValueError(f"{folder} was trained on times {first:g} to {last:g} alone: only videodit_jax.sample takes it, with the other expert")


def refuse_untrained(folder: epath.PathLike) -> None:
    """Raises ValueError where `load_model` would find no weights."""
    if not holds(folder, STEM) and not newest(folder):
        raise ValueError(f"{folder} holds neither a whole checkpoint nor {WEIGHTS}: train it first")


def version(folder: epath.PathLike) -> int | list[tuple[int, int]]:
    """What tells the weights that `load_model` would read from those that were there before: bytes and time of the files, or the newest checkpoint."""
    folder = epath.Path(folder)
    return [stamp(path) for path in sorted(folder.glob(f"{STEM}*"))] if holds(folder, STEM) else newest(folder)


def load_model(folder: epath.PathLike, run: Run, mesh: Mesh, dtype: jnp.dtype = jnp.float32) -> VideoDiT:
    """The averaged (EMA) model of a run: of its newest checkpoint, or the exported weights.

    Args:
      dtype: of the blocks' linear maps, all else is fp32. For who only samples that of the computation, with which a large model takes half the memory.

    Raises:
      ValueError: there are none, or they are another model's.
    """
    folder = epath.Path(folder)
    if holds(folder, STEM):
        return read(Tensors(folder, STEM), abstract_model(run.config.model), mesh, dtype=dtype)
    if run.config.lora.rank:
        return merged(folder, run, load_learned(folder, run, mesh), mesh, dtype)
    return load_learned(folder, run, mesh, dtype)


def load_learned(folder: epath.PathLike, run: Run, mesh: Mesh, dtype: jnp.dtype = jnp.float32) -> VideoDiT:
    """What learned of a run, averaged (EMA), of its newest checkpoint: the model, or LoRA's factors. Raises ValueError as `load_model`."""
    refuse_untrained(folder)
    checkpoints = Checkpoints(epath.Path(folder) / "checkpoints")
    ema = checkpoints.restore_part("ema", jax.eval_shape(functools.partial(maps_in, dtype), abstract_parts(run.config)[0]), mesh)
    checkpoints.close()
    return ema


def merged(folder: epath.PathLike, run: Run, learned: VideoDiT, mesh: Mesh, dtype: jnp.dtype) -> VideoDiT:
    """The model of what LoRA learned and the weights beside which it did. Raises ValueError: they are not there any more, or others."""
    config = dataclasses.replace(run.config, dtype=Dtype.FLOAT32)
    if not named_by(config.init).exists():
        raise ValueError(f"{folder} holds what LoRA learned alone, and {config.init}, the weights beside which it did, is not there")
    base = initial(config, mesh)
    if digest(base) != run.base:
        raise ValueError(f"{folder} was trained beside other weights than {config.init} now has")
    merge = lambda base, learned: maps_in(dtype, merge_lora(combine(learned, parts(config, base)[1])))
    return jax.jit(merge, out_shardings=shardings(base, mesh), donate_argnums=0)(base, learned)


def abstract_state(config: TrainConfig) -> TrainState:
    """Shapes of the training state."""
    return jax.eval_shape(lambda model: state.init(lambda: model, config.optimizer.build(config.steps)), abstract_parts(config)[0])


def named_by(init: str) -> epath.Path:
    """The folder, or the .safetensors file, that `--init` names."""
    return PRETRAINED if init == "pretrained" else epath.Path(init)


def initial(config: TrainConfig, on: Mesh) -> VideoDiT:
    """The model of the weights that `--init` names, a run's averaged (EMA) ones; channels of given frames that they do not have start at zero.

    Raises:
      ValueError: there are none, or another model's; names and shapes that differ are named.
    """
    path, shapes = named_by(config.init), abstract_model(config.model)
    if path.suffix == END:
        table = Tensors(existing(path).parent, path.stem)
    else:
        run = Run.read(path)
        if shown := differing(run.config, config, UNSEEN.__contains__):
            raise ValueError(f"--init {config.init} was trained for something else: {shown}")
        table = named(load_model(path, run, on))
    given = {}
    if config.model.given and "patches.w" in table and len(patches := table["patches.w"]) == config.model.patch_numbers:
        more = config.model.patch_inputs - len(patches)  # a patch is (C t h w), the noisy video's channels first
        if more and config.lora.rank:
            raise ValueError(f"--model.given: the weights of --init {config.init} read no given frames, and LoRA would not teach them to")
        given = {"patches.w": jnp.pad(patches, ((0, more), (0, 0)))}
    try:
        if isinstance(table, Tensors):
            return read(table, shapes, on, given)
        return jax.device_put(cast(shapes, renamed(shapes, table | given)), shardings(shapes, on))
    except ValueError as error:
        raise ValueError(f"--init {config.init}: {error}") from error
