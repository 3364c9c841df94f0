"""Language models from directories that `transformers` writes, both arrangements: they load, run the loop, and give a loss."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import mesh
from core_jax.lora import LoRAConfig
from core_jax.tensors import save_file
from core_jax.weights import named
from owl_jax import run, train, world
from owl_jax.config import Caption, ContextConfig, OwlConfig
from owl_jax.films import tell
from owl_jax.objective import loss_fn
from owl_jax.stages import Stage, TrainConfig, Tuning
from owl_jax.world import World
from tests.core import lmm_models
from tests.owl import small
from tests.videodit import small as film_small
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.data.stories import Stories
from videodit_jax.model import abstract_model
from videodit_jax.run import WEIGHTS, Run


@pytest.mark.parametrize("kind", ["llava_onevision", "chameleon"])
def test_a_directory_runs_the_loop_and_gives_a_loss(tmp_path, kind):
    written = getattr(lmm_models, kind)(tmp_path / "lmm")
    names = {"<image>": lmm_models.IMAGE, "<video>": lmm_models.VIDEO} if kind == "llava_onevision" else {"<image>": lmm_models.PICTURE}
    lmm_models.words(placeholders=names).save(str(written.path / "tokenizer.json"))
    film = tmp_path / "film"
    film.mkdir()
    Run(small.FILM, ScoreStatistics.of({name: np.array([]) for name in small.FILM.model.scores}), "").write(film)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_model(small.FILM.model))
    save_file(film / WEIGHTS, film_small.shaken(zeros))
    config = TrainConfig(
        Stage.WORLD, film=str(film), lmm=str(written.path), tuning=Tuning.LORA, lora=LoRAConfig(2, 4.0, r"decoder\.layers\.attention\.(q|out)"), clips=6, filmed=2, history_noise=0.0,
        owl=OwlConfig(queries=2, words=4, marks=("w10", "w11"), width=16, layers=1, heads=2),
    )  # fmt: skip
    on = mesh.build(devices=jax.devices()[:1])
    with jax.set_mesh(on):
        owl, pieces, film_run = run.build(config, on)
        first = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3)).astype(np.uint8)
        current = World(owl, pieces, film_run.config, ContextConfig(window=1, memory=1))
        turns = list(world.run(current, first, ["w20 w21", "w22"], clips=3))
        assert all(turn.clips.shape == (2, 4, 12, 12, 3) for turn in turns) and all(len(turn.said) == 2 for turn in turns)
        story = Stories(4, 12, 12, clips=6)[0]
        story = dataclasses.replace(story, clips=story.clips[:2])
        example = train.encoder(config, pieces, film_run)(tell(story, ["w20 w21", "w22 w23 w24"], Caption.NEXT))
        batch = train.batch_of(jax.tree.map(lambda x: jnp.asarray(x)[None], example))
        trained, rest = run.parts(config, owl)
        loss, parts = jax.jit(loss_fn(config, film_run.config))(owl, batch, jax.random.key(0))
    assert np.isfinite(loss) and float(parts["text"]) > 0
    learns = {name for name in named(trained) if name.startswith("lmm.")}
    assert learns and all(".a.w" in name or ".b.w" in name for name in learns)
