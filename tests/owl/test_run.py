"""What a film model has to be."""
import dataclasses

import pytest

from core_jax import mesh
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
