"""Configs: presets, JSON, what a resumed run may change, learning rates and weight decay."""
import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.attention import Context
from core_jax.mesh import MeshConfig
from core_jax.remat import Remat
from core_jax.report import ReportConfig
from core_jax.settings import from_json, to_json
from core_jax.weights import named
from tests.videodit import small
from videodit_jax import train
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import Dtype, OptimizerConfig, SamplingConfig, Schedule, TrainConfig, refuse_other_run
from videodit_jax.flow import FlowConfig, Guidance, Target
from videodit_jax.model import ModelConfig, abstract_model
from videodit_jax.presets import PRESETS, preset
from videodit_jax.run import Run, make_model
from videodit_jax.text import TextConfig


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_survives_json(name):
    config = preset(name)
    assert config.preset == name
    assert np.prod(config.model.grid(config.video)) > 0
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(config)))) == config


def test_of_a_preset_that_is_given_twice_the_last_gives_name_and_sizes():
    twice = train.parse(["--preset", "tiny", "--preset=0.26b"])
    assert twice == train.parse(["--preset", "0.26b"]) and twice.model == preset("0.26b").model


def test_presets_have_the_sizes_they_are_named_for():
    for name, sizes in {"14b": (13e9, 16e9), "30b": (24e9, 32e9), "5b": (4.7e9, 5.3e9), "1.3b": (1.2e9, 1.6e9), "0.26b": (0.2e9, 0.33e9), "tiny": (0.5e6, 5e6)}.items():
        shapes = abstract_model(preset(name).model)
        assert sizes[0] < sum(leaf.size for leaf in jax.tree.leaves(shapes)) < sizes[1], name


def test_json_keeps_what_is_not_the_default():
    config = dataclasses.replace(
        small.CONFIG, dtype=Dtype.BFLOAT16, fps=12.5, report=ReportConfig(profile=(3, 5)), mesh=MeshConfig(data=2, fsdp=-1)
    )
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(config)))) == config


def test_json_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"TrainConfig has no field \['stepz'\]"):
        from_json(TrainConfig, {"stepz": 3})
    with pytest.raises(ValueError, match="FlowConfig has no field"):
        from_json(TrainConfig, {"flow": {"target": "v", "sigma": 1}})
    with pytest.raises(ValueError, match="'w' is not a valid Target"):
        from_json(TrainConfig, {"flow": {"target": "w"}})


def change(name: str, value) -> TrainConfig:
    """small.CONFIG with one setting, of a part if the name has a dot."""
    part, _, field = name.partition(".")
    if not field:
        return dataclasses.replace(small.CONFIG, **{name: value})
    return dataclasses.replace(small.CONFIG, **{part: dataclasses.replace(getattr(small.CONFIG, part), **{field: value})})


@pytest.mark.parametrize(
    "name, value",
    [
        ("mesh", MeshConfig(fsdp=8, data=1)), ("report", ReportConfig()), ("sampling", SamplingConfig(guidance=Guidance(3.0))),
        ("data", "elsewhere"), ("steps", 20), ("checkpoint_every", 3), ("keep", 9), ("keep_every", 500), ("sample_every", 3), ("eval_every", 3),
        ("eval_examples", 16), ("sample_prompts", "prompts.txt"), ("workers", 7), ("model.context", Context.RING), ("model.remat", Remat.FULL), ("model.unroll", 2),
    ],
)  # fmt: skip
def test_a_resume_may_change(name, value):
    refuse_other_run(small.CONFIG, change(name, value))


@pytest.mark.parametrize(
    "name, value",
    [
        ("seed", 1), ("batch", 16), ("size", "24x24"), ("frames", 8), ("fps", 8.0), ("dtype", Dtype.BFLOAT16), ("caption_dropout", 0.5),
        ("score_dropout", 0.5), ("preset", "other"), ("model.width", 64), ("model.scores", ("motion",)), ("model.patch", (1, 4, 4)),
        ("flow.target", Target.EPS), ("flow.shift", 3.0), ("optimizer.learning_rate", 1.0), ("optimizer.schedule", Schedule.COSINE),
        ("optimizer.accumulate", 2), ("optimizer.ema", 0.5),
    ],
)  # fmt: skip
def test_a_resume_may_not_change(name, value):
    new = change(name, value)
    with pytest.raises(ValueError, match=rf"holds another run: {name} was .*, now ") as caught:
        refuse_other_run(small.CONFIG, new)
    assert str(caught.value).count(" was ") == 1


def test_other_data_is_named_where_the_settings_that_go_by_it_differ():
    with pytest.raises(ValueError, match="data was 'clips', now 'shapes'; model.wiener was True, now False; take"):
        refuse_other_run(preset("tiny", "clips"), preset("tiny"))


def test_all_differences_are_shown_with_both_values():
    new = dataclasses.replace(small.CONFIG, seed=3, flow=dataclasses.replace(small.CONFIG.flow, target=Target.V))
    with pytest.raises(ValueError, match="seed was 0, now 3; flow.target was 'x0', now 'v'"):
        refuse_other_run(small.CONFIG, new)


@pytest.mark.parametrize("schedule", [Schedule.COSINE, Schedule.WSD])
def test_more_steps_under_a_planned_schedule_only_if_asked(schedule):
    old = change("optimizer.schedule", schedule)
    more = dataclasses.replace(old, steps=20)
    with pytest.raises(ValueError, match=f"planned for 10 steps under the {schedule.value} schedule.*--steps 20.*--extend"):
        refuse_other_run(old, more)
    refuse_other_run(old, dataclasses.replace(more, extend=True))


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(steps=0), "--steps 0"), (dict(checkpoint_every=0), "--checkpoint-every 0"), (dict(size="24"), "--size '24'.*height x width"),
        (dict(size="13x12"), "4 frames, 13×12 cannot be cut into patches of 2 frames, 4×4"),
        (dict(optimizer=OptimizerConfig(accumulate=3)), "batch of 8 cannot be divided into 3"),
        (dict(size="0x12"), "--size '0x12'"), (dict(fps=-1.0), "--fps -1: a number from 0.01"), (dict(workers=0), "--workers 0"),
        (dict(seed=-1), "--seed -1: a number from 0"),
        (dict(keep_every=7), "--keep-every 7: a multiple of --checkpoint-every"), (dict(keep_every=-1), "--keep-every -1: a number from 0"),
        (dict(caption_dropout=7.0), "--caption-dropout 7: a number from 0 to 1"),
        (dict(stopped_status=256), "--stopped-status 256: a number from 0 to 255"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(small.CONFIG, **wrong)
    with pytest.raises(ValueError, match="width 6 over 2 heads"):
        ModelConfig(width=6, heads=2)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: SamplingConfig(steps=0), "--sampling.steps 0"), (lambda: FlowConfig(shift=0), "--flow.shift 0: a positive"),
        (lambda: ReportConfig(tensorboard_every=0), "--report.tensorboard-every 0"),
        (lambda: OptimizerConfig(accumulate=0), "--optimizer.accumulate 0"), (lambda: OptimizerConfig(warmup=-5), "--optimizer.warmup -5"),
        (lambda: OptimizerConfig(clip=0), "--optimizer.clip 0: a positive number"),
        (lambda: OptimizerConfig(ema=1.5), "--optimizer.ema 1.5"), (lambda: ModelConfig(heads=0), "--model.heads 0"),
        (lambda: OptimizerConfig(b1=1), "--optimizer.b1 1: a number from 0 to below 1"), (lambda: OptimizerConfig(b2=1.0), "--optimizer.b2 1: a number from 0"),
        (lambda: OptimizerConfig(weight_decay=math.inf), "--optimizer.weight-decay inf"), (lambda: FlowConfig(mean=math.nan), "--flow.mean nan: a finite"),
        (lambda: TextConfig(words=0), "--model.text.words 0: at least 1"), (lambda: TextConfig(width=-1), "--model.text.width -1: at least 1"),
        (lambda: ModelConfig(patch=(0, 4, 4)), "--model.patch 0 4 4"), (lambda: ModelConfig(scores=()), "--model.scores"),
        (lambda: ModelConfig(scores=("motion", "caption")), "--model.scores motion caption: one or more of motion, aesthetic, clarity, vtss or of the data's"),
        (lambda: ModelConfig(scores=("vtss", "vtss")), "--model.scores vtss vtss"),
        (lambda: ModelConfig(frequencies=7), "--model.frequencies 7"), (lambda: Guidance(text=math.nan), "guidance of nan by text"),
    ],
)  # fmt: skip
def test_parts_that_make_no_sense_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_learning_rates():
    def rates(schedule):
        lr = OptimizerConfig(learning_rate=1.0, warmup=10, schedule=schedule, decay=0.2).learning_rates(100)
        return np.array([lr(step) for step in range(101)])

    constant, cosine, wsd = map(rates, (Schedule.CONSTANT, Schedule.COSINE, Schedule.WSD))
    for lr in (constant, cosine, wsd):
        np.testing.assert_allclose(lr[:11], np.linspace(0, 1, 11), atol=1e-6)
    assert (constant[10:] == 1).all()
    np.testing.assert_allclose(cosine[[10, 55, 100]], [1, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(wsd[[10, 80, 90, 100]], [1, 1, 0.5, 0], atol=1e-6)
    late = OptimizerConfig(learning_rate=1.0, warmup=60, schedule=Schedule.WSD, decay=0.5).learning_rates(100)
    np.testing.assert_allclose([late(step) for step in (60, 80, 100)], [1, 0.5, 0], atol=1e-6)


def test_weight_decay_is_on_matrices_alone():
    """Whatever their number of dims: stacked over layers, biases, norms and tables have more."""
    model = jax.tree.map(lambda x: jnp.ones(x.shape), abstract_model(small.CONFIG.model))
    tx = OptimizerConfig(learning_rate=1.0, warmup=0, weight_decay=0.1).build(10)
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, model), tx.init(model), model)
    decayed = {name for name, update in named(updates).items() if jnp.abs(update).max() > 0}
    assert decayed == {name for name in named(model) if name.endswith(".w")}


def test_updates_are_adams_of_clipped_gradients():
    """Written out for two steps, whose gradients are clipped and not."""
    tx = OptimizerConfig(learning_rate=0.1, warmup=0, weight_decay=0.3, b1=0.8, b2=0.9, clip=2.0).build(10)
    w, m, v = np.array([1.0, -2.0, 3.0], np.float32), 0.0, 0.0
    state = tx.init({"w": w})
    for i, g in enumerate(np.float32([[6, -8, 0], [0.3, 0.1, -0.2]]), 1):
        updates, state = tx.update({"w": g}, state, {"w": w})
        g = g * min(1, 2 / np.linalg.norm(g))
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        np.testing.assert_allclose(updates["w"], -0.1 * (m / (1 - 0.8**i) / (np.sqrt(v / (1 - 0.9**i)) + 1e-8) + 0.3 * w), rtol=1e-4)


def test_weights_depend_on_the_seed():
    a, b, c = (jax.jit(lambda: make_model(change("seed", seed)).patches.w[...])() for seed in (0, 1, 1))
    assert (a != b).any() and (b == c).all()


def test_a_resume_with_fewer_steps_than_made_is_refused_and_changes_nothing(tmp_path):
    run = Run(dataclasses.replace(small.CONFIG, steps=9), ScoreStatistics({}), "data")
    run.resume(tmp_path)
    (tmp_path / "checkpoints" / "9").mkdir(parents=True)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match="has made 9 steps already, more than --steps 5"):
        dataclasses.replace(run, config=dataclasses.replace(run.config, steps=5)).resume(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
