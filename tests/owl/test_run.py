"""What a film model has to be, and which stage's model is taken."""
import dataclasses
import json

import pytest

from core_jax import mesh, together
from core_jax.settings import to_json
from owl_jax import run
from owl_jax.stages import Stage, TrainConfig
from tests.owl import small
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.presets import preset
from videodit_jax.run import Run

ON_LATENTS = dataclasses.replace(preset("tiny", autoencoder="wan2.1"), model=dataclasses.replace(preset("tiny", autoencoder="wan2.1").model, given=True))


@pytest.mark.parametrize(
    "film, said",
    [
        (dataclasses.replace(small.FILM, model=dataclasses.replace(small.FILM.model, given=False)), "was trained without given frames"),
        (ON_LATENTS, "was trained on latents, and a film model of pixels is wanted"),
    ],
)
def test_a_film_model_goes_on_from_frames_of_pixels(film, said, tmp_path):
    Run(film, ScoreStatistics.of({}), "").write(tmp_path)
    with pytest.raises(ValueError, match=said):
        run.build(TrainConfig(Stage.ALIGN, film=str(tmp_path)), mesh.build())


def test_the_last_stage_that_has_ended_is_taken_and_said(tmp_path):
    def stands(stage: Stage, step: int) -> None:
        (tmp_path / stage.value / "checkpoints" / str(step)).mkdir(parents=True)
        (tmp_path / stage.value / "config.json").write_text(json.dumps({"config": to_json(TrainConfig(stage, steps=6))}))

    stands(Stage.ALIGN, 5)
    with pytest.raises(ValueError, match="no stage of .* has ended: align stands at 5 of 6 steps; --stage align takes it as it is"):
        run.trained(tmp_path, None)
    assert run.describe(run.trained(tmp_path, Stage.ALIGN)).startswith("model of stage align at step 5 of 6; before stage world a model is not trained to say")
    for stage, step in ((Stage.ALIGN, 6), (Stage.FILM, 6), (Stage.WORLD, 2)):
        stands(stage, step)
    assert run.trained(tmp_path, None).stage is Stage.FILM, "world has only begun"
    stands(Stage.WORLD, 6)
    assert run.describe(run.trained(tmp_path, None)) == "model of stage world at step 6 of 6"


def test_a_stage_is_bound_once_every_host_has_looked_and_refuses_others_by_name(tmp_path, monkeypatch):
    """A host that looked later would take what the first one has written for something else."""
    config, there = TrainConfig(Stage.ALIGN, out=str(tmp_path)), []
    monkeypatch.setattr(together.multihost_utils, "sync_global_devices", lambda _: there.append((tmp_path / "align").exists()))
    run.resume(config, "stories")
    assert there == [False] and run.begun(config) == "stories"
    with pytest.raises(ValueError, match="align holds another run: batch was .*, now 24; take another --out, or the run's own settings$"):
        run.begun(dataclasses.replace(config, batch=24))
