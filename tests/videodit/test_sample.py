"""Sampling: from a folder of weights, on any mesh, with scores that the run knows or does not; what `control` measures of it."""
import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import mesh
from core_jax.tables import read_table
from core_jax.video import probe
from tests.videodit import small
from videodit_jax import control, flow, maker, sample, sampler
from videodit_jax.config import Dtype, SamplingConfig
from videodit_jax.data.check_shapes import accuracy
from videodit_jax.data.shapes import Scene, Shapes, Split
from videodit_jax.flow import Guidance, Solver
from videodit_jax.given import channels
from videodit_jax.run import PRETRAINED, Run, load_model
from videodit_jax.sampler import Sampler, from_noise


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported run whose parameters are all away from zero."""
    return small.exported(tmp_path_factory.mktemp("exported"))


def sampled(folder, devices: int, batch: int, captions: list[str], scores: list[dict], seeds: list[int]) -> np.ndarray:
    run, on = Run.read(folder), mesh.build(devices=jax.devices()[:devices])
    with jax.set_mesh(on):
        return Sampler(run.config, run.statistics, on, batch)(load_model(folder, run, on), captions, scores, seeds)


def test_a_clip_is_its_own_whatever_the_batch_and_the_mesh(folder):
    captions, scores = ["a red circle", "", "a blue square"], [{"motion": 2.0}, {}, {"motion": 9.0, "clarity": 1.0}]
    three = sampled(folder, 8, 3, captions, scores, [5, 6, 7])
    assert three.shape == (3, 4, 12, 12, 3) and three.dtype == np.uint8
    turned = sampled(folder, 1, 2, captions[::-1], scores[::-1], [7, 6, 5])[::-1]
    assert np.abs(three.astype(int) - turned).max() <= 1
    other = sampled(folder, 1, 2, captions[::-1], scores[::-1], [8, 6, 5])[::-1]
    changed = (np.abs(three.astype(int) - other) > 1).any((1, 2, 3, 4))
    assert changed.tolist() == [False, False, True]


def test_runs_that_differ_in_folder_and_seed_sample_by_one_program(folder, monkeypatch):
    run, on, traced, trace = Run.read(folder), mesh.build(devices=jax.devices()[:1]), [], sampler.from_noise
    monkeypatch.setattr(sampler, "from_noise", lambda *args: traced.append(1) or trace(*args))
    with jax.set_mesh(on):
        model = load_model(folder, run, on)
        for out, init, seed in (("runs/one", None, 0), ("runs/other", "runs/one", 1)):
            Sampler(dataclasses.replace(run.config, out=out, init=init, seed=seed), run.statistics, on, 5)(model, ["a red circle"], [{}], [1])
    assert traced == [1]


def test_weights_in_the_dtype_of_the_computation_give_the_same_videos(folder):
    run, on = Run.read(folder), mesh.build(devices=jax.devices()[:1])
    config, bf16 = dataclasses.replace(run.config, dtype=Dtype.BFLOAT16), jnp.bfloat16
    with jax.set_mesh(on):
        models = [load_model(folder, run, on), load_model(folder, run, on, bf16)]
        of = Sampler(config, run.statistics, on, 2)
        one, other = (of(model, ["a red circle", "a bar"], [{}, {"motion": 2.0}], [1, 2]) for model in models)
    np.testing.assert_array_equal(one, other)
    assert (models[1].blocks.mlp.up.w.dtype, models[1].patches.w.dtype) == (bf16, jnp.float32)
    with jax.set_mesh(on):
        planned = sampler.lower(config, on)[1]
    assert [x.dtype for x in jax.tree.leaves(planned)] == [x.dtype for x in jax.tree.leaves(models[1])]


def test_guidance_by_scores_costs_nothing_where_none_is_known(folder, monkeypatch):
    run, on, evaluations, guided = Run.read(folder), mesh.build(devices=jax.devices()[:1]), [], flow.guided
    monkeypatch.setattr(flow, "guided", lambda *args: evaluations.append(args[-1].evaluations) or guided(*args))
    sampling = SamplingConfig(2, guidance=Guidance(text=3.0, scores=2.0))
    with jax.set_mesh(on):
        model, sampler = load_model(folder, run, on), Sampler(run.config, run.statistics, on, 2)
        alone, beside = (sampler(model, ["a red circle", "a bar"], [{"aesthetic": 5.0}, other], [1, 2], sampling) for other in ({}, {"motion": 2.0}))
    assert evaluations == [2, 3]
    assert np.abs(alone[0].astype(int) - beside[0]).max() <= 1 < np.abs(alone[1].astype(int) - beside[1]).max()


def test_the_model_is_asked_at_the_samplers_times_under_the_conditions_of_the_guidance():
    """Both terms of a guidance by text in one batch, first the one that it leads away from."""
    config = dataclasses.replace(small.CONFIG, flow=dataclasses.replace(small.CONFIG.flow, shift=3.0), dtype=Dtype.BFLOAT16)
    sampling, asked = SamplingConfig(4, Solver.HEUN, Guidance(text=3.0, scores=3.0)), []

    class Model:
        def denoise(self, x, grid, t, context, scores, given, picture=None):
            asked.append((t.tolist(), context[1].tolist(), np.asarray(scores)[:, 0].tolist()))
            assert x.dtype == jnp.bfloat16
            return jnp.zeros_like(x)

    contexts = [(jnp.zeros((1, 2, 3)), jnp.array([length])) for length in (7, 5)]
    eps = jnp.ones((1, *config.video, 3))
    with jax.disable_jit():
        from_noise(config, sampling, Model(), contexts, channels(eps, jnp.zeros(1, int)), eps, jnp.full((1, 3), 0.5))
    times = flow.grid(config.flow, 4)
    pairs = list(zip(times, times[1:]))
    np.testing.assert_allclose([t for (t, _), *_ in asked], [*np.ravel(pairs[:-1]), times[-2]], rtol=1e-6)
    for _, lengths, scores in asked:
        assert lengths == [5, 7] and scores == pytest.approx([np.nan, 0.5], nan_ok=True)


def test_without_guidance_by_text_the_text_that_it_leads_away_from_is_all_there_is(folder):
    run, on = Run.read(folder), mesh.build(devices=jax.devices()[:1])
    with jax.set_mesh(on):
        model, sampler = load_model(folder, run, on), Sampler(run.config, run.statistics, on, 1)
        made = lambda text, scale, away: sampler(model, [text], [{}], [1], SamplingConfig(1, guidance=Guidance(scale, scale)), away=away)
        bar, circle, away = made("a bar", 1.0, ""), made("a red circle", 1.0, "a bar"), made("a red circle", 0.0, "a bar")
    assert np.abs(away.astype(int) - bar).max() <= 1 < np.abs(circle.astype(int) - bar).max()


def test_control_asks_for_every_speed_of_the_same_prompts_and_seeds():
    """Of a model that draws what it is asked for."""
    asked, source = [], Shapes(8, 16, 16, split=Split.HELD_OUT)

    class Draws:
        config = dataclasses.replace(small.CONFIG, frames=8, size="16x16")

        def __call__(self, model, captions, scores, seeds):
            asked.append((captions, scores, seeds))
            words = [caption.replace(",", "").split() for caption in captions]
            scenes = [Scene(*(w[i] for i in (1, 2, 3, 5)), speed=one.get("motion", source.speeds[1] / 2)) for w, one in zip(words, scores)]
            return np.stack([source.draw(scene, np.random.default_rng(seed)) for scene, seed in zip(scenes, seeds)])

    figures, _ = control.measure(Draws(), None)
    assert figures["motion"]["spearman"] > 0.95 and min(figures["captions"]["sampled"].values()) > 0.8
    (captions, good, _), (prompts, scores, seeds) = asked
    assert len(set(captions)) > 40 and good == [{"clarity": 1.0}] * 64 and {one["clarity"] for one in scores} == {1.0}
    speeds = np.reshape([one["motion"] for one in scores], (8, 8))
    assert (speeds == speeds[:, :1]).all() and (np.diff(speeds[:, 0]) > 0).all() and figures["motion"]["asked"] == speeds.ravel().tolist()
    assert prompts == prompts[:8] * 8 and seeds == seeds[:8] * 8 and len(set(seeds)) == 8


def test_the_weights_that_come_with_the_package_draw_what_they_are_asked_for():
    run, on = Run.read(PRETRAINED), mesh.build(devices=jax.devices()[:1])
    captions = [Shapes(*run.config.video, split=Split.HELD_OUT)[i]["caption"] for i in range(16)]
    with jax.set_mesh(on):
        videos = Sampler(run.config, run.statistics, on, batch=16)(load_model(PRETRAINED, run, on), captions, [{"clarity": 1.0}] * 16, list(range(16)))
    right = accuracy(videos, captions)
    assert right["colour"] == right["direction"] == 1 and min(right.values()) >= 0.8, right
    assert sum(path.stat().length for path in PRETRAINED.iterdir()) < 10e6


def command(folder, tmp_path, *args: str) -> None:
    sample.main(["--run", str(folder), "--out", str(tmp_path / "x.mp4"), "--n", "1", "--steps", "1", *args])


def test_scores_outside_the_range_are_a_warning_with_the_range(folder, tmp_path, caplog, capsys):
    with caplog.at_level(logging.WARNING, "videodit_jax"):
        command(folder, tmp_path, "--motion", "99", "--aesthetic", "5", "--clarity", "0.5", "--prompt", "a red circle " * 4 + "internationalises")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4
    assert "--motion 99 lies outside the range seen in training, 1 to 4" in said[0]
    assert "never saw a known aesthetic score" in said[1]
    assert "never saw internationalises in a caption, and knows no other words than: a small large red" in said[2]
    assert f"reads the first {small.CONFIG.model.text.words} words and marks of a prompt, and this one has 14" in said[3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.gif", "x.mp4", "x.png"]
    assert f"x.png; next: python -m videodit_jax.evaluate {tmp_path}/x.mp4\n" in capsys.readouterr().out


def test_flags_reach_the_sampler_and_the_files(folder, tmp_path, monkeypatch):
    asked = {}

    class Asked:
        batch = 32

        def __init__(self, trained, statistics, on, batch):
            asked.update(video=trained.video, axes=on.shape, batch=batch, sampling=trained.sampling)

        def __call__(self, model, texts, scores, seeds, *, first, away, steps, states, picture):
            asked.update(texts=texts, scores=scores, seeds=seeds, first=first, away=away, steps=steps)
            return "videos"

    for module in (sample, maker):
        monkeypatch.setattr(module, "Sampler", Asked)
    monkeypatch.setattr(maker, "load_model", lambda *_: None)
    monkeypatch.setattr(sample, "write_samples", lambda stem, videos, labels, fps: asked.update(stem=stem.name, labels=labels, fps=fps) or [])
    monkeypatch.setattr(sample.plain, "replace", lambda *_: [])
    flags = "--n 2 --seed 7 --steps 3 --solver heun --text-guidance 2.5 --score-guidance 1.5 --frames 8 --size 16x12 --fps 12 --motion 2 --mesh.data 1 --mesh.fsdp 8"
    command(folder, tmp_path, *flags.split(), "--prompt", "a bar", "--negative-prompt", "a circle")
    assert asked["sampling"] == SamplingConfig(3, Solver.HEUN, Guidance(text=2.5, scores=1.5)) and asked["seeds"] == [7, 8]
    assert (asked["texts"], asked["away"], asked["scores"], asked["first"]) == (["a bar"] * 2, "a circle", [{"motion": 2.0}] * 2, None)
    assert asked["steps"] == range(3)
    assert asked["video"] == (8, 16, 12) and asked["batch"] == 2 and asked["axes"]["fsdp"] == 8
    assert (asked["stem"], asked["fps"], asked["labels"]) == ("x", 12, ["seed 7: a bar · motion 2", "seed 8: a bar · motion 2"])


def test_each_of_several_videos_is_written_alone_and_one_as_it_is(folder, tmp_path, fails, capsys):
    command(folder, tmp_path, "--n", "2", "--seed", "7", "--prompt", "a bar", "--motion", "2")
    assert capsys.readouterr().out.endswith(f"x; next: python -m videodit_jax.evaluate {tmp_path}/x\n")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["0007.mp4", "0008.mp4", "videos.csv"]
    held = read_table(tmp_path / "x" / "videos.csv").to_pylist()
    assert held == [{"file": f"000{seed}.mp4", "caption": "a bar", "motion": 2, "seed": seed} for seed in (7, 8)]
    size = lambda path: (lambda info: (len(info.seconds), info.height, info.width))(probe(path))
    assert size(tmp_path / "x" / "0007.mp4") == (4, 12, 12) != size(tmp_path / "x.mp4")
    command(folder, tmp_path, "--prompt", "a bar")
    assert size(tmp_path / "x.mp4") == (4, 12, 12) and sorted(path.name for path in tmp_path.iterdir()) == ["x.gif", "x.mp4", "x.png"]
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.mp4").touch()
    assert "x, which holds something else: take another --out" in fails(lambda args: command(folder, tmp_path, *args), ["--n", "2"])


def test_a_guidance_that_cannot_lead_anywhere_is_a_warning(folder, caplog, monkeypatch):
    """The run's own scales are 1."""
    monkeypatch.setattr(sample, "texts_of", lambda *_: 1 / 0)  # nothing is loaded or made
    flags = ["--negative-prompt", "a red circle"], ["--score-guidance", "2"], ["--score-guidance", "2", "--aesthetic", "5"]
    silent = ["--negative-prompt", "a red circle", "--text-guidance", "2"], ["--score-guidance", "2", "--motion", "2"], ["--aesthetic", "5"]
    for args in (*flags, *silent):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "videodit_jax"), pytest.raises(ZeroDivisionError):
            command(folder, folder, *args)
        assert ("does nothing:" in caplog.text) is (args in flags), args


def test_further_scores_are_given_by_name():
    config = sample.SampleConfig(motion=2.0, score=("flicker=0.5", "noise=3"))
    assert sample.given_scores(config) == {"motion": 2.0, "flicker": 0.5, "noise": 3.0}


@pytest.mark.parametrize(
    "args, said",
    [
        (["--score", "flicker=0.5"], "no score named 'flicker' in this run; it knows motion, aesthetic, clarity"),
        (["--score", "flicker"], "--score flicker: NAME=NUMBER is wanted"),
        (["--score", "flicker=nan"], "--score flicker=nan: a number is wanted"),
        (["--motion", "nan"], "--motion nan: a number is wanted"),
        (["--out", "/dev/null/x.mp4"], "/dev/null"),
        (["--vtss", "3"], "no score named 'vtss' in this run; it knows motion, aesthetic, clarity"),
        (["--n", "0"], "--n 0"),
        (["--seed", "-1"], "--seed -1: a number from 0 to"),
        (["--fps", "0"], "--fps 0"),
        (["--fps", "inf"], "--fps inf: a number from 0.01 to 1000"),
        (["--fps", "1e-4"], "--fps 0.0001"),
        (["--text-guidance", "nan"], "guidance of nan by text"),
        (["--steps", "0"], "--steps 0: at least 1"),
        (["--out", "x.avi"], "--out x.avi: a name that ends in .mp4 is wanted"),
        (["--text-guidance", "2", "3"], "--text-guidance 2 3: one scale is wanted"),
        (["--lora", "high=x.safetensors"], "is one model, not two experts"),
        (["--run", "a", "b", "c"], "--run a b c: one run is wanted, or two experts"),
        (["--run", "/nowhere"], "there is no file or folder /nowhere"),
        (["--mesh.fsdp", "3"], "does not fit 8 devices: the fixed axes take 3"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(folder, tmp_path, fails, monkeypatch, args, said):
    monkeypatch.setattr(maker, "load_model", None)  # nothing is loaded or made before it is known
    message = fails(lambda args: command(folder, tmp_path, *args), args)
    assert said in message and "\n" not in message
    assert not list(tmp_path.iterdir())


def test_a_run_that_has_saved_nothing_yet_says_so(tmp_path, fails, monkeypatch):
    monkeypatch.setattr(sample, "texts_of", None)  # loading a text encoder takes minutes
    Run(small.CONFIG, small.STATISTICS, "").write(tmp_path)
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir(parents=True)
    assert "holds neither a whole checkpoint nor weights.safetensors: train it first" in fails(lambda args: command(tmp_path, tmp_path, *args), [])


def test_a_config_that_is_none_says_so(tmp_path, fails):
    for text in ("{", "[]", "{}", '{"config": {"stepz": 1}, "scores": {}, "data": ""}'):
        (tmp_path / "config.json").write_text(text)
        message = fails(lambda args: command(tmp_path, tmp_path, *args), [])
        assert "config" in message.lower() and "\n" not in message


def test_where_control_cannot_write_nothing_is_made(folder, tmp_path, monkeypatch, fails):
    monkeypatch.setattr(control, "load_model", None)
    (tmp_path / "file").touch()
    assert "file" in fails(control.main, ["--run", str(folder), "--out", str(tmp_path / "file")])


def test_of_all_hosts_that_measure_control_the_first_writes(folder, tmp_path, monkeypatch):
    for name, number in {"CAPTIONS": 4, "LEVELS": 2, "PROMPTS": 3}.items():
        monkeypatch.setattr(control, name, number)
    joined = []
    monkeypatch.setattr(mesh, "start", lambda config: joined.append(1))
    for host in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda: host)
        control.main(["--run", str(folder), "--out", str(tmp_path / f"{host}"), "--json", str(tmp_path / f"{host}.json")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "0.json"] and len(joined) == 2
    figures = json.loads((tmp_path / "0.json").read_text())
    assert len(figures["motion"]["measured"]) == 6 and figures == json.loads((tmp_path / "0" / "control.json").read_text())
    assert figures["captions"]["true clips"]["colour"] == 1
