"""A world model's training step, and the programs of its loop, lowered for a mesh that need not be there: shapes alone."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from core_jax.lmm.cache import Cache, new_cache
from core_jax.lmm.config import LMMConfig
from core_jax.lmm.flops import Flops, decoder_flops, vision_flops
from core_jax.lmm.fresh import fresh_tokenizer
from core_jax.lmm.load import abstract
from core_jax.lmm.sequence import stack
from core_jax.lmm.tokenizer import Tokenizer
from core_jax.pod.plan import Work
from core_jax.sharding import RULES, batch_sharding, placed, shardings
from core_jax.state import TrainState, compile_step
from owl_jax import run, step, world
from owl_jax.config import Caption
from owl_jax.films import Film
from owl_jax.model import Owl
from owl_jax.sequence import Batch, Pieces
from owl_jax.stages import TrainConfig
from owl_jax.train import batch_of, encoder
from owl_jax.world import World
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import TrainConfig as FilmConfig
from videodit_jax.model import abstract_model, forward_flops
from videodit_jax.run import Run, maps_in


def model(config: TrainConfig, film: FilmConfig, lmm: LMMConfig, on: Mesh, only_films: bool = False) -> Owl:
    """The world model as `run.build` makes it."""
    language = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, run.held(config, film)), abstract(lmm))
    made = jax.eval_shape(functools.partial(maps_in, film.dtype.jax if only_films else jnp.float32), abstract_model(film.model))
    owl = jax.eval_shape(functools.partial(run.assemble, config), language, made)
    return placed(owl, shardings(owl, on))


def pieces(config: TrainConfig, lmm: LMMConfig) -> Pieces:
    """With a tokenizer that knows bytes alone; the numbers of tokens do not depend on it."""
    return Pieces(lmm, Tokenizer(fresh_tokenizer([], 300), lmm), config.owl)


def batch(config: TrainConfig, film: FilmConfig, lmm: LMMConfig, on: Mesh) -> Batch:
    """What the loader of `train` gives, from a film in which nothing is to be seen."""
    n, behind = config.clips, config.owl.caption is Caption.THIS
    clips = np.zeros((n, *film.video, 3), np.uint8)
    said = ["a"] * (n - 1) + ["a" if behind else None]
    example = Film(clips[0, 0], "a", clips, said, np.ones(n, bool), ["a"] * n, np.zeros(n, np.float32))
    run_of_film = Run(film, ScoreStatistics(dict.fromkeys(film.model.scores, ())), "")
    arrays = encoder(config, pieces(config, lmm), run_of_film)(example)
    rows = batch_sharding(on)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((config.batch, *x.shape), x.dtype, sharding=rows), batch_of(arrays))


def training(config: TrainConfig, film: FilmConfig, lmm: LMMConfig, on: Mesh) -> Work:
    """The step that `train` runs."""
    trained, rest = run.parts(config, model(config, film, lmm, on))
    state = jax.eval_shape(functools.partial(run.new_state, config), trained)
    state: TrainState = placed(state, shardings(state, on))
    given = batch(config, film, lmm, on)
    lowered = compile_step(step.make(config, film), state).lower(state, given, rest)
    held = {
        "parameters": state.model, "optimizer": state.opt_state, "ema": state.ema, "frozen language model": rest.lmm, "frozen film model": rest.film,
    }  # fmt: skip
    return Work(lowered, held, step.flops(config, film, lmm, given))


def loop(config: TrainConfig, film: FilmConfig, lmm: LMMConfig, films: int, on: Mesh) -> tuple[dict[str, PyTree], dict[str, Work]]:
    """What lies on the devices as long as a world runs, and the programs that film one clip of each of `films` films."""
    owl, whole = model(config, film, lmm, on, only_films=True), NamedSharding(on, PartitionSpec())
    running = World(owl, pieces(config, lmm), film)
    slots, dtype, Q = running.slots, film.dtype.jax, config.owl.queries
    cache = jax.eval_shape(lambda: new_cache(lmm.decoder, films, slots, dtype))
    heads = NamedSharding(on, RULES.spec("L B K n D", cache.keys.shape, on))
    cache = placed(cache, Cache(heads, heads, whole, whole))

    def array(shape: tuple[int, ...], kind) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, kind, sharding=whole)

    seen = running.pieces.observation(np.zeros((*film.video, 3), np.uint8))
    inputs = jax.tree.map(lambda x: array(x.shape, x.dtype), stack(lmm, [seen] * films, len(seen)))
    imagine = world._imagine.lower(owl, cache, array((), jnp.int32), dtype)
    state, _ = imagine.out_info
    state = array(state.shape, state.dtype)
    context, sampling = (state, array((films,), jnp.int32)), film.sampling.unscored
    shot = (
        owl.film, context, context, array((films, *film.video[1:], 3), jnp.uint8), array((films,), bool), array((films,), jnp.uint32),
        array((films, len(film.model.scores)), jnp.float32),
    )  # fmt: skip
    words = config.owl.words
    lowered = {
        "forget": world._compact.lower(lmm.decoder, cache, array((slots,), jnp.int32), array((), jnp.int32)),
        "imagine": imagine,
        "shoot": world._shoot.lower(film, sampling, *shot),
        "observe": world._append.lower(owl, cache, inputs, dtype),
        "tell": world._tell.lower(owl, cache, array((films,), jnp.uint32), *running.pieces.marks, words, running.temperature, dtype),
    }
    one, evaluations = forward_flops(film.model, film.video), sampling.evaluations
    flops = {
        "forget": Flops(0.0, 0.0),
        "imagine": decoder_flops(lmm.decoder, Q, seen=slots - Q),
        "shoot": Flops(evaluations * one.attention, evaluations * (one.blocks + one.ends)),
        "observe": vision_flops(lmm.tower, lmm.decoder.width, config.owl.key_frames) + decoder_flops(lmm.decoder, len(seen), seen=slots - len(seen)),
        "tell": decoder_flops(lmm.decoder, words + 2, seen=slots - words - 2, logits=words + 2),
    }
    reads = {"shoot": evaluations, "tell": words + 2}

    def work(name: str) -> Work:
        total, attention = films * flops[name].forward, films * flops[name].attention
        return Work(lowered[name], {}, {"total": total, "attention": attention, "executed": total}, reads.get(name, 1))

    held = {"language model": owl.lmm, "film model": owl.film, "between them": (owl.queries, owl.connector, owl.null), "cache": cache}
    return held, {name: work(name) for name in lowered}
