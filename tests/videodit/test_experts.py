"""Two experts, as Wan 2.2's A14B has them: converted, sampled one after the other, trained each on its own times, with LoRA of their own."""
import dataclasses
import gc
import logging
import weakref

import jax
import numpy as np
import pytest
from PIL import Image

from core_jax import mesh
from core_jax.tensors import load_table
from tests.core.video_files import make
from tests.videodit import small, small_wan
from videodit_jax import control, convert, experts, export, flow, latents, lora, objective, sample, train
from videodit_jax.config import SamplingConfig
from videodit_jax.flow import Guidance, Solver
from videodit_jax.run import Run, load_model, to_sample

SIZE = ["--frames", "5", "--size", "16x16"]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with a Wan of two experts, what is converted of it, and latents to train on."""
    root = tmp_path_factory.mktemp("experts")
    wan = str(small_wan.write(root / "wan", boundary=0.875))
    convert.main(["--pipeline", wan, "--out", str(root / "ours")])
    (root / "videos").mkdir()
    for name in "abc":
        make(root / "videos" / f"{name}.mp4", 12)
    latents.main(["--data", str(root / "videos"), "--autoencoder", wan, "--text-encoder", wan, "--out", str(root / "set"), *SIZE])
    return root


@pytest.fixture
def sampled(monkeypatch, tmp_path):
    """What a command line makes, in pixels."""

    def made(*words, steps=4):
        videos = []
        monkeypatch.setattr(sample, "write_samples", lambda stem, made, *rest: videos.append(made) or [])
        own = ["--prompt", "a red circle", "--n", "1", "--steps", str(steps), "--out", str(tmp_path / "x.mp4"), *SIZE]
        sample.main([*map(str, words), *own])
        return videos[0].astype(int)

    return made


def test_each_expert_has_the_settings_of_its_times(there, tmp_path):
    high, low = (Run.read(there / "ours" / name).config for name in ("high", "low"))
    assert (high.flow.between, low.flow.between) == ((0.875, 1.0), (0.0, 0.875))
    assert (high.sampling.guidance.text, low.sampling.guidance.text, high.sampling.steps) == (4.0, 3.0, 40) and not high.model.given
    tables = [load_table(there / "ours" / name / "weights.safetensors") for name in ("high", "low")]
    assert np.abs(tables[0]["out.w"] - tables[1]["out.w"]).max() > 0.1
    picture = convert.settings(tmp_path, small_wan.I2V, (0.0, 0.9))
    assert (picture.sampling.guidance.text, picture.flow.between, picture.given_part) == (3.5, (0.0, 0.9), 1.0)


def test_a_folder_of_two_samples_as_both_of_them_one_at_a_time(there, sampled, monkeypatch, caplog):
    load, alive = sample.load_model, []

    def watched(folder, *rest):
        gc.collect()
        assert all(one() is None for one in alive), "the first one's weights are still there"
        model = load(folder, *rest)
        alive.append(weakref.ref(model.patches.w[...]))
        return model

    monkeypatch.setattr(sample, "load_model", watched)
    both = sampled("--run", there / "ours")
    assert len(alive) == 2 and "warning" not in caplog.text
    np.testing.assert_array_equal(sampled("--run", there / "ours" / "high", there / "ours" / "low"), both)
    alive.clear()
    sampled("--run", there / "ours", steps=1)
    assert len(alive) == 1, "an expert without steps is not read"


def test_an_expert_alone_is_a_warning_and_where_nothing_else_can_be_refused(there, sampled, caplog, fails, monkeypatch):
    with caplog.at_level(logging.WARNING, "videodit_jax"):
        sampled("--run", there / "ours" / "high", steps=8)
    assert "high was trained on times 0.875 to 1 alone, and 4 of its 8 steps begin at others; --run takes two experts" in caplog.text  # by a shift of 5
    run = Run.read(there / "ours" / "low")
    dataclasses.replace(run, config=dataclasses.replace(small.CONFIG, flow=run.config.flow)).write(there / "shapes")
    assert "was trained on times 0 to 0.875 alone: only videodit_jax.sample takes it" in fails(control.main, ["--run", str(there / "shapes")])


@pytest.mark.parametrize("given, scales", [((), [4.0, 3.0]), ((2.0,), [2.0, 2.0]), ((2.0, 5.0), [2.0, 5.0])])
def test_each_has_steps_and_guidance_of_its_own(there, given, scales):
    both = experts.read([there / "ours"], steps=8, solver=Solver.HEUN, text_guidance=given, score_guidance=1.5, frames=9, size="16x32")
    assert [(one.name, one.steps) for one in both] == [("high", range(4)), ("low", range(4, 8))]  # by a shift of 5, the fourth at 0.89
    assert [one.config.sampling for one in both] == [SamplingConfig(8, Solver.HEUN, Guidance(scale, 1.5)) for scale in scales]
    assert {one.config.video for one in both} == {(9, 16, 32)}


@pytest.fixture(scope="module")
def tuned(there):
    """Folders of a run with LoRA beside each expert."""
    with pytest.MonkeyPatch.context() as patch:
        small.use(1, patch)
        for name in ("high", "low"):
            flags = "--steps 3 --batch 2 --eval-examples 2 --lora.rank 2 --optimizer.learning-rate 0.1 --optimizer.warmup 0 --optimizer.ema 0".split()
            train.main(["--init", str(there / "ours" / name), "--data", str(there / "set"), "--out", str(there / "tuned" / name), *SIZE, *flags])
    return there / "tuned"


def test_an_expert_trains_on_its_own_times_and_draws_no_samples(there, tuned):
    """And is evaluated there, at a tenth to nine tenths of them."""
    assert Run.read(tuned / "high").config.flow.between == (0.875, 1.0) and not (tuned / "high" / "samples").exists()
    held_out = (tuned / "high" / "held_out.jsonl").read_text()
    assert "loss at t=0.8875" in held_out and "loss at t=0.9875" in held_out and "t=0.1" not in held_out


def test_the_loss_asks_at_its_own_times(there, monkeypatch):
    config, seen = Run.read(there / "ours" / "low").config, []
    monkeypatch.setattr(flow, "mix", lambda x0, eps, t: seen.append(t) or x0)
    config = dataclasses.replace(config, frames=5, size="16x16")
    batch = {
        "video": np.zeros((4, *config.stored.shape), np.float16), "scores": np.full((4, 3), np.nan, np.float32),
        "text": jax.tree.map(lambda *x: np.stack(x), *[config.model.text.tokenize("")] * 4),
    }  # fmt: skip
    model = load_model(there / "ours" / "low", Run.read(there / "ours" / "low"), mesh.build(devices=jax.devices()[:1]))
    for i in range(5):
        objective.loss_fn(config)(model, batch, jax.random.key(i))
    assert 0.6 < np.max(seen) <= 0.875


def test_experts_with_lora_and_their_files_sample_the_same(there, tuned, sampled, tmp_path):
    plain, ours = sampled("--run", there / "ours"), sampled("--run", tuned)
    assert np.abs(plain - ours).max() > 1
    files = {}
    for name in ("high", "low"):
        export.main(["--run", str(tuned / name), "--out", str(tmp_path / name)])
        files[name] = f"{name}={tmp_path / name / lora.FILE}"
    assert np.abs(sampled("--run", there / "ours", "--lora", files["low"], files["high"]) - ours).max() <= 1
    mixed = sampled("--run", there / "ours" / "high", tuned / "low")
    assert np.abs(sampled("--run", there / "ours", "--lora", files["low"]) - mixed).max() <= 1 < np.abs(mixed - ours).max()
    export.main(["--run", str(tuned / "high"), "--out", str(tmp_path / "merged"), "--merged"])
    assert np.abs(sampled("--run", tmp_path / "merged", tuned / "low") - ours).max() <= 1


def test_the_command_that_follows_names_both(there):
    high, low = (Run.read(there / "ours" / name).config for name in ("high", "low"))
    assert to_sample("runs/a", high) == "python -m videodit_jax.sample --run runs/a LOW"
    assert to_sample("runs/a", low) == "python -m videodit_jax.sample --run HIGH runs/a"


def test_bad_input_is_one_sentence_and_writes_nothing(there, tmp_path, fails):
    ours, high, low, out = there / "ours", there / "ours" / "high", there / "ours" / "low", str(tmp_path / "x.mp4")

    def said(*words):
        message = fails(sample.main, [*map(str, words), *SIZE, "--out", out])
        assert not list(tmp_path.iterdir())
        return message

    assert "two experts are wanted, that of noisier videos first, and their times begin at 0 and 0.875" in said("--run", low, high)
    assert "two experts are wanted, that of noisier videos first, and their times begin at 0.875 and 0.875" in said("--run", high, high)
    assert "which of the two experts it is for is said by high=x.safetensors or low=x.safetensors" in said("--run", ours, "--lora", "x.safetensors")
    assert f"--lora low=x.safetensors: {high} is one model, not two experts" in said("--run", high, "--lora", "low=x.safetensors")
    assert "--text-guidance 1 2 3: one scale is wanted, or one for each expert" in said("--run", ours, "--text-guidance", "1", "2", "3")
    assert "was trained without given frames" in said("--run", ours, "--image", "x.png")
    assert "do not go together: model.patch was [1, 2, 2], now [8, 4, 4]; model.channels was 16, now 3" in said("--run", high, sample.PRETRAINED)
    assert f"ours holds no run: there is no config.json in it, but two experts: take {high} or {low}" in fails(train.main, ["--init", str(ours)])


def test_an_expert_that_makes_videos_of_a_picture(tmp_path, sampled, fails):
    convert.main(["--pipeline", str(small_wan.write(tmp_path / "wan", small_wan.I2V, 0.9)), "--out", str(tmp_path / "ours")])
    assert Run.read(tmp_path / "ours" / "low").config.model.gray
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "first.png")
    light = sampled("--run", tmp_path / "ours", "--image", tmp_path / "first.png")
    Image.fromarray(np.full((16, 16, 3), 20, np.uint8)).save(tmp_path / "first.png")
    assert np.abs(light - sampled("--run", tmp_path / "ours", "--image", tmp_path / "first.png")).max() > 1
    said = fails(sample.main, ["--run", str(tmp_path / "ours"), "--prompt", "a", "--out", str(tmp_path / "x.mp4")])
    assert said == f"{tmp_path / 'ours'} makes videos of a picture: give --image, its file"
    said = fails(train.main, ["--init", str(tmp_path / "ours" / "low"), "--data", "nowhere", "--out", str(tmp_path / "run")])
    assert said == "--model.gray: weights that make videos of a picture are sampled here, not trained" and not (tmp_path / "run").exists()
