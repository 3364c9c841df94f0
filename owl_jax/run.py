"""A world model's folder: OUT/STAGE/ for each stage (config.json, checkpoints/, log.jsonl), and OUT/video where the film model came with it."""
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from core_jax import checkpoint, cli, together
from core_jax.checkpoint import Checkpoints
from core_jax.files import refuse_filled, whole, write_json
from core_jax.lmm.ask import image_codes
from core_jax.lmm.fresh import fresh, fresh_config
from core_jax.lmm.load import load
from core_jax.lmm.model import LMM
from core_jax.lmm.tokenizer import load_tokenizer
from core_jax.lora import LoRAConfig, add_lora, combine, is_lora, partition
from core_jax.rngs import Rngs
from core_jax.settings import changes, from_json, refuse_changes, to_json
from core_jax.sharding import shardings
from core_jax.state import TrainState, adamw, init
from core_jax.weights import by_name
from owl_jax.config import OwlConfig
from owl_jax.model import Owl
from owl_jax.sequence import Pieces
from owl_jax.stages import SMALL_DECODER, SMALL_TOWER, Stage, TrainConfig, Tuning
from videodit_jax.config import TrainConfig as FilmConfig
from videodit_jax.data.shapes import Split
from videodit_jax.data.stories import Stories
from videodit_jax.model import VideoDiT
from videodit_jax.run import Run, load_model, refuse_expert

SHARED = ("film", "lmm", "tuning", "lora", "owl", "seed")
"""settings in which the stages of one folder agree"""
MAY_CHANGE = ("out", "data", "mesh", "remat", "report", "eval_every", "eval_films", "checkpoint_every", "workers", "stopped_status")
"""what a stage that goes on may set otherwise; the data's content must be the same"""


def film_folder(config: TrainConfig) -> epath.Path:
    """Where the film model's run lies."""
    return epath.Path(config.film) if config.film else epath.Path(config.out) / "video"


def trains(config: TrainConfig, name: str) -> bool:
    """Whether the parameter of this name learns in the stage."""
    if name.startswith("film."):
        return config.stage is not Stage.ALIGN and not name.startswith("film.text.")  # T(t) stays what states were aligned with
    if name.startswith("lmm."):
        return not name.startswith("lmm.codes.") and (config.tuning is Tuning.FULL or is_lora(name))
    return name != "null" or config.stage is not Stage.ALIGN


@functools.cache
def words() -> tuple[str, ...]:
    """Texts that have every word of `stories`."""
    scripts = [Stories(split=split).script(i) for split in Split for i in range(64)]
    return tuple(text for title, shots in scripts for text in [title, *(t for shot in shots for t in (shot.caption, shot.dense))])


def held(config: TrainConfig, film: FilmConfig) -> jnp.dtype:
    """Precision in which the language model's weights lie: fp32 where they learn, else that of the computation."""
    return film.dtype.jax if config.tuning is Tuning.LORA else jnp.dtype(jnp.float32)


def assemble(config: TrainConfig, lmm: LMM, film: VideoDiT) -> Owl:
    """A world model of its two large parts; all between them is new."""
    return _assemble(config.owl, config.lora if config.tuning is Tuning.LORA else None, config.seed, lmm, film)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _assemble(config: OwlConfig, lora: LoRAConfig | None, seed: int, lmm: LMM, film: VideoDiT) -> Owl:
    if lora:
        lmm = add_lora(lmm, lora, rngs=Rngs(seed))
    return Owl(config, lmm, film, rngs=Rngs(seed))


def build(config: TrainConfig, on: Mesh, only_films: bool = False) -> tuple[Owl, Pieces, Run]:
    """The parts before any stage: the film model as it was trained, the language model, and queries and connector that have learned nothing.

    Args:
      only_films: for generation; the film model's maps then lie in the dtype of its computation, in half the memory of fp32.

    Raises:
      ValueError: a part is missing or does not fit.
    """
    run = Run.read(film_folder(config))
    if not run.config.model.given:
        raise ValueError(f"{film_folder(config)} was trained without given frames, which join the clips of a film: train it with --model.given")
    if run.config.autoencoder:
        raise ValueError(f"{film_folder(config)} was trained on latents, and a film model of pixels is wanted")
    refuse_expert(film_folder(config), run.config)
    film = load_model(film_folder(config), run, on, run.config.dtype.jax if only_films else jnp.float32)
    if config.lmm is None:
        lmm, tokenizer = fresh(list(words()), fresh_config(SMALL_DECODER, SMALL_TOWER), seed=config.seed)
    else:
        lmm = load(config.lmm, on, held(config, run.config))
        tokenizer = load_tokenizer(config.lmm, lmm.config)
    owl = assemble(config, lmm, film)
    encode = (lambda frames: image_codes(lmm, frames)) if lmm.config.codes else None
    return jax.device_put(owl, shardings(owl, on)), Pieces(lmm.config, tokenizer, config.owl, encode), run


def parts(config: TrainConfig, owl: Owl) -> tuple[PyTree, PyTree]:
    """What learns in the stage, and the rest."""
    return partition(owl, lambda name: trains(config, name))


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """AdamW at two learning rates."""
    labels = by_name(lambda name: "film" if name.startswith("film.") else "rest")
    rates = {"film": adamw(config.film_learning_rate, config.steps), "rest": adamw(config.learning_rate, config.steps)}
    return optax.chain(optax.clip_by_global_norm(1.0), optax.multi_transform(rates, labels))


def new_state(config: TrainConfig, trained: PyTree) -> TrainState:
    """The training state before the first step, for its shapes."""
    return init(lambda: trained, optimizer(config))


def restored(config: TrainConfig, owl: Owl, on: Mesh) -> Owl:
    """The model with what a stage learned, averaged (EMA), from its newest checkpoint, in the dtypes of `owl`.

    Raises:
      ValueError: there is none.
    """
    folder = epath.Path(config.out) / config.stage.value / "checkpoints"
    if not folder.exists():
        raise ValueError(f"{folder.parent} holds no checkpoint: run {cli.command('owl_jax.train', '--stage', config.stage.value, '--out', config.out)} first")
    trained, rest = parts(config, owl)
    checkpoints = Checkpoints(folder)
    if checkpoints.latest is None:
        raise ValueError(f"{folder} holds no whole checkpoint: let python -m owl_jax.train --stage {config.stage.value} end first")
    ema = checkpoints.restore_part("ema", jax.eval_shape(lambda: trained), on)
    checkpoints.close()
    return combine(ema, rest)


def read(out: epath.PathLike, stage: Stage) -> TrainConfig:
    """The settings of a stage that was begun.

    Raises:
      ValueError: it was not, something else lies there, or the film model has been trained further since, whose text encoder and first weights the stages share.
    """
    path = epath.Path(out) / stage.value / "config.json"
    if not path.exists():
        raise ValueError(f"{out} has no stage {stage.value}: run {cli.command('owl_jax.train', '--stage', stage.value, '--out', out)} first")
    try:
        held = json.loads(path.read_text())
        config = dataclasses.replace(from_json(TrainConfig, held["config"]), out=str(out))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the config of a stage of owl_jax.train: {error}") from error
    film = film_folder(config)
    if (now := checkpoint.newest(film)) != held.get("film", now):
        raise ValueError(f"{path.parent} was trained from {film} at step {held['film']}, which stands at {now} now: train it anew, in another --out")
    return config


def ended(out: epath.PathLike, stage: Stage) -> TrainConfig:
    """The settings of a stage from which another may start.

    Raises:
      ValueError: it was not begun, or has not made all its steps.
    """
    config = read(out, stage)
    if (now := made(config)) < config.steps:
        raise ValueError(f"stage {stage.value} of {out} stands at {now} of {config.steps} steps: let it end first")
    return config


def step(config: TrainConfig) -> str:
    """The stage and the step of its newest checkpoint."""
    return f"{config.stage.value} {made(config)}"


def key(config: TrainConfig) -> str:
    """What tells a trained model from any other: its folder, its step, and a digest of its settings, but those that may change, and its data."""
    folder = epath.Path(config.out) / config.stage.value
    held = json.loads((folder / "config.json").read_text())
    held["config"] = {name: value for name, value in held["config"].items() if name not in MAY_CHANGE}
    digest = hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()
    return f"{whole(folder)} at step {made(config)}, {digest[:16]}"


def trained(out: epath.PathLike, stage: Stage | None) -> TrainConfig:
    """The settings of this stage, or of the last one there that has made all its steps.

    Raises:
      ValueError: there is none.
    """
    if stage is not None:
        return read(out, stage)
    begun = [read(out, stage) for stage in reversed(Stage) if (epath.Path(out) / stage.value / "config.json").exists()]
    for config in begun:
        if made(config) >= config.steps:
            return config
    if begun:
        stands = ", ".join(f"{config.stage.value} stands at {made(config):,} of {config.steps:,} steps" for config in begun)
        raise ValueError(f"no stage of {out} has ended: {stands}; --stage {begun[0].stage.value} takes it as it is")
    raise ValueError(f"{out} holds no world model: run {cli.command('owl_jax.train', '--stage', 'align', '--out', out)} first")


def made(config: TrainConfig) -> int:
    """The step of a stage's newest checkpoint."""
    return checkpoint.newest(epath.Path(config.out) / config.stage.value)


def describe(config: TrainConfig) -> str:
    """Which stage at which step, as a sentence."""
    untold = "" if config.stage is Stage.WORLD else "; before stage world a model is not trained to say what happens next"
    return f"model of stage {config.stage.value} at step {made(config):,} of {config.steps:,}{untold}"


def begun(config: TrainConfig) -> str | None:
    """The fingerprint of the data that an earlier part of the stage was trained on; None where the stage's folder is new.

    Raises:
      ValueError: the stage before is missing, other settings were used there or in an earlier part, or the folder holds something else.
    """
    out, before = epath.Path(config.out), config.stage.before
    if before is not None:
        _refuse(read(out, before), config, SHARED, out / before.value)
    folder = out / config.stage.value
    if not (folder / "config.json").exists():
        refuse_filled(folder, "stage")
        return None
    fields = [field.name for field in dataclasses.fields(config) if field.name not in MAY_CHANGE]
    _refuse(read(out, config.stage), config, fields, folder)
    return json.loads((folder / "config.json").read_text())["data"]


def resume(config: TrainConfig, fingerprint: str, unused: Sequence[str] = ()) -> None:
    """Writes the settings into the stage's folder, new or holding an earlier part of the same stage.

    Args:
      fingerprint: of the data.
      unused: its files that could not be used.

    Raises:
      ValueError: what `begun` refuses, or an earlier part was trained on other data.
    """
    folder = epath.Path(config.out) / config.stage.value
    if begun(config) not in (None, fingerprint):
        raise ValueError(f"{folder} was trained on other data than {config.data}: give another --out")
    if together.looked():
        held = {"config": to_json(config), "data": fingerprint, "unused": unused, "film": checkpoint.newest(film_folder(config))}
        write_json(folder / "config.json", held)


def _refuse(old: TrainConfig, new: TrainConfig, fields: Sequence[str], folder: epath.Path) -> None:
    refuse_changes(folder, changes(*({name: to_json(getattr(config, name)) for name in fields} for config in (old, new))))
