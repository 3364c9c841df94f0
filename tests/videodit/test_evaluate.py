"""The baselines of the held-out loss, on data for which the best predictor is known."""

import dataclasses

import jax
import numpy as np

from core_jax import mesh
from tests.videodit import small
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import Dtype, OptimizerConfig, TrainConfig
from videodit_jax.data import open_sources
from videodit_jax.evaluate import loss
from videodit_jax.evaluate.loss import TIMES, Evaluation, baselines, some_clips
from videodit_jax.flow import FlowConfig, Target
from videodit_jax.model import ModelConfig
from videodit_jax.run import make_model


def config(target: Target) -> TrainConfig:
    return TrainConfig(frames=2, size="8x8", model=ModelConfig(patch=(2, 4, 4)), flow=FlowConfig(target=target))


def noise_clips(n: int) -> np.ndarray:
    """Pixels that are independent and uniform: no predictor beats the scalar Wiener filter."""
    return np.random.default_rng(n).integers(0, 256, (n, 2, 8, 8, 3)).astype(np.uint8)


def test_what_the_simple_predictors_look_at_is_bounded(monkeypatch):
    clips = [{"video": clip} for clip in noise_clips(100)]
    assert len(some_clips(config(Target.X0), clips)) == 64
    monkeypatch.setattr(loss, "NUMBERS", 10 * clips[0]["video"].size + 5)
    assert (some_clips(config(Target.X0), clips) == np.stack([clip["video"] for clip in clips[::10]])).all(), "neighbours are often of one video"
    monkeypatch.setattr(loss, "NUMBERS", 3)
    assert len(some_clips(config(Target.X0), clips)) == 1


def test_a_held_out_loss_does_not_depend_on_the_batch():
    _, held_out = open_sources(small.CONFIG)
    statistics, on = ScoreStatistics.of(dict.fromkeys(small.MODEL.scores, np.array([]))), mesh.build(devices=jax.devices()[:1])
    model = jax.jit(lambda: jax.tree.map(lambda x: x + 0.05, make_model(small.CONFIG)))()  # an untrained one says nothing, whatever the noise
    losses = [Evaluation(dataclasses.replace(small.CONFIG, batch=batch, eval_examples=5), held_out, statistics, on)(model) for batch in (2, 8)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_noise_goes_by_the_clips_number_and_what_fills_up_does_not_count():
    """Of one clip twice, which the model sees in the precision of its run."""
    made, seen = dataclasses.replace(config(Target.X0), dtype=Dtype.BFLOAT16), set()

    def measured(number: list[int], weight: list[float]) -> np.ndarray:
        batch = {"video": noise_clips(1).repeat(2, 0), "number": np.int32(number), "weight": np.float32(weight), "text": None, "scores": None}
        return np.asarray(loss.loss_at_times(made)(lambda x, *_: seen.add(x.dtype.name) or x, batch, jax.random.key(0)))

    first, second, both = measured([3, 4], [1, 0]), measured([3, 4], [0, 1]), measured([3, 4], [1, 1])
    assert (first != second).all() and (measured([4, 3], [0, 1]) == first).all()
    np.testing.assert_allclose(first + second, both, rtol=1e-6)
    assert seen == {"bfloat16"}


def test_an_evaluation_computes_no_more_rows_than_it_has_clips():
    """But for what the devices divide; of more clips than a microbatch, that many at a time."""
    statistics = ScoreStatistics.of(dict.fromkeys(small.MODEL.scores, np.array([])))
    _, held_out = open_sources(small.CONFIG)

    def rows(devices: int, batch: int, accumulate: int = 1) -> list[int]:
        made = dataclasses.replace(small.CONFIG, batch=batch, eval_examples=5, optimizer=OptimizerConfig(accumulate=accumulate))
        batches = Evaluation(made, held_out, statistics, mesh.build(devices=jax.devices()[:devices])).batches()
        return [len(batch["number"]) for batch in batches]

    assert rows(1, 128) == [5] and rows(4, 128) == [8] and rows(1, 4) == [4, 4] and rows(2, 128, 64) == [2, 2, 2]


def test_constant_and_linear_reach_what_theory_says():
    x0_variance = ((255 / 127.5) ** 2) / 12
    losses = baselines(config(Target.X0), noise_clips(512), noise_clips(257))
    np.testing.assert_allclose(losses["constant"], x0_variance, rtol=0.03)
    t = np.array(TIMES)
    wiener = x0_variance * t**2 / ((1 - t) ** 2 * x0_variance + t**2)
    np.testing.assert_allclose(losses["linear"], wiener, rtol=0.10)


def test_targets_convert_into_each_other():
    """For the linear predictor x₀ error = t² · v error, since both are linear in the same input at a known t."""
    x0 = baselines(config(Target.X0), noise_clips(512), noise_clips(257))["linear"]
    v = baselines(config(Target.V), noise_clips(512), noise_clips(257))["linear"]
    np.testing.assert_allclose(x0, np.array(TIMES) ** 2 * v, rtol=0.05)


def test_flat_clips_are_predicted_by_their_colour():
    flat = np.full((64, 2, 8, 8, 3), (200, 30, 90), np.uint8)
    losses = baselines(config(Target.X0), flat, flat[:8])
    assert losses["constant"].max() < 1e-10 and losses["linear"].max() < 1e-4


def test_linear_beats_constant_where_noise_is_low():
    losses = baselines(config(Target.V), noise_clips(512), noise_clips(257))
    assert losses["linear"][0] < losses["constant"][0]
