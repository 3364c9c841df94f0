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
from videodit_jax import control, convert, experts, export, given, latents, lora, maker, objective, prompts, sample, train
from videodit_jax.autoencoder.codec import Codec
from videodit_jax.config import Dtype, SamplingConfig
from videodit_jax.data import open_sources
from videodit_jax.evaluate import loss
from videodit_jax.flow import Guidance, Solver
from videodit_jax.run import Run, to_sample

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


def test_two_experts_take_turns_at_groups_of_many_prompts(there, sampled, tmp_path, monkeypatch):
    small.use(1, monkeypatch)
    monkeypatch.setattr(prompts, "TOGETHER", 2)
    load, loaded = maker.load_model, []
    monkeypatch.setattr(maker, "load_model", lambda folder, *rest: loaded.append(folder.name) or load(folder, *rest))
    videos = {}
    monkeypatch.setattr(prompts, "write_video", lambda path, video, fps: videos.update({path.name: video.astype(int)}))
    (tmp_path / "prompts.txt").write_text("a red circle\nthe fox\na fox\n")
    many = ["--prompts", str(tmp_path / "prompts.txt"), "--n", "1", "--steps", "4", "--out", str(tmp_path / "out"), *SIZE]
    by = ["--run", str(there / "ours"), "--text-guidance", "50"]
    sample.main([*by, *many])
    assert loaded == ["high", "low"] * 2
    alone, *others = sampled(*by)[0], videos["the fox-0.mp4"], videos["a fox-0.mp4"]
    assert np.abs(videos["a red circle-0.mp4"] - alone).max() <= 1 < min(np.abs(other - alone).max() for other in others)


def test_each_expert_has_the_settings_of_its_times(there, tmp_path):
    high, low = (Run.read(there / "ours" / name).config for name in ("high", "low"))
    assert (high.flow.between, low.flow.between) == ((0.875, 1.0), (0.0, 0.875))
    assert (high.sampling.guidance.text, low.sampling.guidance.text, high.sampling.steps) == (4.0, 3.0, 40) and not high.model.given
    tables = [load_table(there / "ours" / name / "weights.safetensors") for name in ("high", "low")]
    assert np.abs(tables[0]["out.w"] - tables[1]["out.w"]).max() > 0.1
    picture = convert.settings(tmp_path, small_wan.I2V, (0.0, 0.9))
    assert (picture.sampling.guidance.text, picture.flow.between, picture.given_part) == (3.5, (0.0, 0.9), 1.0)


def test_a_folder_of_two_samples_as_both_of_them_one_at_a_time(there, sampled, monkeypatch, caplog):
    load, alive = maker.load_model, []

    def watched(folder, *rest):
        gc.collect()
        assert all(one() is None for one in alive), "the first one's weights are still there"
        model = load(folder, *rest)
        alive.append(weakref.ref(model.patches.w[...]))
        return model

    monkeypatch.setattr(maker, "load_model", watched)
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


@pytest.mark.parametrize("asked, scales", [((), [4.0, 3.0]), ((2.0,), [2.0, 2.0]), ((2.0, 5.0), [2.0, 5.0])])
def test_each_has_steps_and_guidance_of_its_own(there, asked, scales):
    both = experts.read([there / "ours"], steps=8, solver=Solver.HEUN, text_guidance=asked, score_guidance=1.5, frames=9, size="16x32")
    assert [(one.name, one.steps) for one in both] == [("high", range(4)), ("low", range(4, 8))]  # by a shift of 5, the fourth at 0.89
    assert [one.config.sampling for one in both] == [SamplingConfig(8, Solver.HEUN, Guidance(scale, 1.5)) for scale in scales]
    assert {one.config.video for one in both} == {(9, 16, 32)}


@pytest.fixture(scope="module")
def tuned(there):
    """A run with LoRA beside the second expert."""
    with pytest.MonkeyPatch.context() as patch:
        small.use(1, patch)
        flags = "--steps 3 --batch 2 --eval-examples 2 --lora.rank 2 --optimizer.learning-rate 0.1 --optimizer.warmup 0 --optimizer.ema 0".split()
        train.main(["--init", str(there / "ours" / "low"), "--data", str(there / "set"), "--out", str(there / "tuned"), *SIZE, *flags])
    return there / "tuned"


def test_an_expert_trains_on_its_own_times_and_draws_no_samples(tuned):
    """And is evaluated there, at a tenth to nine tenths of them."""
    assert Run.read(tuned).config.flow.between == (0.0, 0.875) and not (tuned / "samples").exists()
    held_out = (tuned / "held_out.jsonl").read_text()
    assert "loss at t=0.0875" in held_out and "loss at t=0.7875" in held_out and "t=0.9" not in held_out


def test_an_expert_with_lora_and_its_file_sample_the_same(there, tuned, sampled, tmp_path, capsys):
    ours = sampled("--run", there / "ours" / "high", tuned)
    export.main(["--run", str(tuned), "--out", str(tmp_path / "lora")])
    file = f"low={tmp_path / 'lora' / lora.FILE}"
    assert f"--run HIGH {there / 'ours' / 'low'} --lora {file}" in capsys.readouterr().out
    plain, again = sampled("--run", there / "ours"), sampled("--run", there / "ours", "--lora", file)
    assert np.abs(again - ours).max() <= 1 < np.abs(plain - ours).max()
    np.testing.assert_array_equal(sampled("--run", there / "ours", "--lora", f"high={tmp_path / 'lora' / lora.FILE}", "--lora-scale", "0"), plain)


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


@pytest.fixture(scope="module")
def picture(there):
    """A folder with a Wan of two experts that read a picture, converted."""
    root = there / "picture"
    root.mkdir()
    convert.main(["--pipeline", str(small_wan.write(root / "wan", small_wan.I2V, 0.9)), "--out", str(root / "ours")])
    return root


def test_experts_make_videos_of_a_picture(picture, tmp_path, sampled, fails):
    assert Run.read(picture / "ours" / "low").config.model.gray
    Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(tmp_path / "first.png")
    light = sampled("--run", picture / "ours", "--image", tmp_path / "first.png")
    Image.fromarray(np.full((16, 16, 3), 20, np.uint8)).save(tmp_path / "first.png")
    assert np.abs(light - sampled("--run", picture / "ours", "--image", tmp_path / "first.png")).max() > 1
    said = fails(sample.main, ["--run", str(picture / "ours"), "--prompt", "a", "--out", str(tmp_path / "x.mp4")])
    assert said == f"{picture / 'ours'} makes videos of a picture: give --image, its file"


def test_they_are_trained_on_clips_beside_their_first_frame_and_gray_ones(there, picture, tmp_path, monkeypatch, fails):
    small.use(1, monkeypatch)
    wan = str(there / "wan")
    latents.main(["--data", str(there / "videos"), "--autoencoder", wan, "--text-encoder", wan, "--out", str(tmp_path / "set"), "--picture", *SIZE])
    flags = "--steps 1 --batch 2 --eval-examples 2 --lora.rank 2 --dtype float32".split()
    own = ["--init", str(picture / "ours" / "low"), "--out", str(tmp_path / "run"), "--text-encoder", wan, "--autoencoder", wan, *SIZE, *flags]
    assert "float16 [2, 2, 2, 32] are asked for: videodit_jax.latents --picture keeps" in fails(train.main, [*own, "--data", str(there / "set")])
    with pytest.raises(ValueError, match="^--model.gray goes with --autoencoder and --given-part 1: each clip has"):
        dataclasses.replace(Run.read(picture / "ours" / "low").config, given_part=0.5)
    train.main([*own, "--data", str(tmp_path / "set")])
    assert np.isfinite(small.losses(tmp_path / "run")).all()
    run, codec = Run.read(tmp_path / "run"), Codec(wan, mesh.build(), Dtype.FLOAT32.jax)
    folder = latents.open_splits(there / "videos", (5, 16, 16))[0]
    videos = np.stack([folder[i]["video"] for i in range(len(folder))])
    stored = np.stack([clip["video"] for clip in map(open_sources(run.config)[0].__getitem__, range(len(folder)))])
    np.testing.assert_allclose(stored, np.concatenate([codec.encode(videos), codec.encode(given.then_gray(videos[:, :1], 5))], -1), atol=2e-3)


def test_their_loss_is_of_the_clip_and_reads_the_picture(picture):
    config = dataclasses.replace(Run.read(picture / "ours" / "low").config, frames=9, size="16x16", dtype=Dtype.FLOAT32)
    video = np.random.default_rng(0).standard_normal((4, *config.stored.shape)).astype(np.float16)
    batch = {"video": video, "text": {"length": np.full(4, 3, np.int32)}, "scores": np.full((4, 3), np.nan, np.float32)}
    x0, mask = config.model.cut(video[..., :16].astype(np.float32)), np.zeros_like(video[..., :1])
    mask[:, 0] = 1

    class Told:
        text = staticmethod(lambda tokens: tokens["length"])

        def denoise(self, x, grid, t, context, scores, given, picture=None):
            np.testing.assert_array_equal(given, config.model.cut(np.concatenate([mask, video[..., 16:]], -1)))
            assert t.max() <= 0.9
            t = t[:, None, None]
            return (x - x0) / t + 2  # ε − x₀, and 2

        def __call__(self, x, t, text, scores, given, picture):
            return config.model.join(self.denoise(config.model.cut(x), None, t, None, None, config.model.cut(given)), x.shape[1:4])

    assert objective.loss_fn(config)(Told(), batch, jax.random.key(0))[0] == pytest.approx(4, rel=1e-2)
    with jax.disable_jit():
        losses = loss.loss_at_times(config)(Told(), batch | {"number": np.arange(4), "weight": np.ones(4)}, jax.random.key(0))
    np.testing.assert_allclose(losses, np.full(5, 16), rtol=1e-2)
