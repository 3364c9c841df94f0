"""What samples are drawn of while a run trains: prompts that are named, as `sample` would make them, in the place of held-out clips' captions."""
import dataclasses
import weakref

import jax
import numpy as np
import pytest

from core_jax import mesh
from core_jax.report import Report
from core_jax.tensors import save_file
from tests.videodit import small, small_autoencoder, small_text_encoder
from videodit_jax import prompts, reading, sample, shown, train
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import Dtype
from videodit_jax.run import WEIGHTS, Run, make_model
from videodit_jax.umt5.encoder import TextEncoder

TABLE = "caption,clarity,motion\na large red circle,7,2\na blue bar,,\n"
FLAGS = ["--preset", "tiny", *small.FLAGS, "--model.scores", "clarity"]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def base(tmp_path):
    """Exported weights, none of which is zero."""
    config = train.parse(FLAGS)
    Run(config, ScoreStatistics({"clarity": ()}), "").write(tmp_path / "base")
    save_file(tmp_path / "base" / WEIGHTS, jax.jit(lambda: small.shaken(make_model(config), 0.05))())
    return tmp_path / "base"


@pytest.mark.parametrize("tuned", [False, True], ids=["all weights", "LoRA"])
def test_a_run_draws_the_videos_that_sample_makes_of_the_prompts(tuned, base, table, tmp_path, monkeypatch, caplog):
    small.use(1, monkeypatch)
    drawn, made, pictures, out = [], [], [], tmp_path / "run"
    monkeypatch.setattr(train, "write_samples", lambda stem, videos, labels, fps: drawn.append((videos, labels)) or [stem])
    monkeypatch.setattr(Report, "picture", lambda self, step, name, image: pictures.append((step, name)))
    monkeypatch.setattr(prompts, "write_video", lambda path, video, fps: made.append(video))
    settings = ["--init", str(base), "--out", str(out), "--optimizer.learning-rate", "0.01", *["--lora.rank", "2"] * tuned]
    train.main([*settings, "--steps", "2", "--sample-every", "1", "--sample-prompts", str(table)])
    (before, labels), (after, _) = drawn
    assert labels == ["seed 0: a large red circle · clarity 7", "seed 0: a blue bar"] and pictures == [(1, "samples"), (2, "samples")]
    assert after.shape == (2, 4, 12, 12, 3) and (before != after).any()
    assert "--clarity 7 lies outside the range" in caplog.text
    sample.main(["--run", str(out), "--prompts", str(table), "--n", "1", "--out", str(tmp_path / "videos")])
    assert np.abs(np.stack(made).astype(int) - after).max() <= tuned, "LoRA is merged for sampling, which rounds"
    if tuned:
        return
    (tmp_path / "other.txt").write_text("a green slash\n")
    train.main([*settings, "--steps", "3", "--sample-prompts", str(tmp_path / "other.txt")])  # a run that goes on may have others, or none
    assert drawn[2][1] == ["seed 0: a green slash"]
    train.main([*settings, "--steps", "4", "--sample-prompts", ""])
    assert len(drawn[3][1]) == shown.CLIPS and "seed 0" not in str(drawn[3][1])


def test_the_path_is_kept_for_commands_in_any_folder_and_binds_no_run_that_starts_from_this_one(base, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = train.parse(["--init", "base", "--out", "run", "--sample-prompts", "prompts.csv", "--lora.rank", "2", "--lora.start", "x.safetensors"])
    assert config.sample_prompts == str(table) and config.lora.start == str(tmp_path / "x.safetensors")
    Run(config, ScoreStatistics({"clarity": ()}), "").write(tmp_path / "run")
    assert train.parse(["--init", "base", "--out", "run"]).sample_prompts == str(table)
    assert train.parse(["--init", "run", "--out", "next"]).sample_prompts is None


@pytest.fixture
def latents(tmp_path):
    """latents(TEXT): settings of a run on latents and features of the text encoder that lies in, or is, TEXT."""
    small_autoencoder.write(tmp_path / "vae")
    small_text_encoder.write(tmp_path / "text")
    size = "--frames 5 --size 16x16 --model.patch 1 1 1 --model.channels 16 --model.text.reads features --model.text.words 8".split()
    width = ["--model.text.width", str(small_text_encoder.CONFIG.width)]
    return lambda text, *more: train.parse([*FLAGS, *size, *width, "--autoencoder", str(tmp_path / "vae"), "--text-encoder", text, *more])


def test_prompts_become_features_before_the_model_comes_and_the_encoder_leaves(latents, table, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(reading, "TextEncoder", lambda *args: made.append(TextEncoder(*args)) or weakref.proxy(made[0]))
    config = latents(str(tmp_path / "text"), "--sample-prompts", str(table))
    on = mesh.build(devices=jax.devices()[:1])
    found = shown.of_prompts(config, on)
    encoder = TextEncoder(str(tmp_path / "text"), on, Dtype.FLOAT32.jax, 8)
    for one, want in zip(found.texts, encoder(["a large red circle", "a blue bar"]), strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(want, np.float32), atol=2e-3)
    assert found.scores == [{"clarity": 7.0}, {}] and found.first is None


def test_prompts_that_cannot_be_drawn_are_one_sentence_before_any_data_is_looked_at(latents, table, tmp_path, monkeypatch, fails):
    monkeypatch.delattr(train, "open_sources")
    many = tmp_path / "many.txt"
    many.write_text("\n".join(map(str, range(65))))
    out = ["--out", str(tmp_path / "run"), "--sample-prompts"]
    assert f"there is no file or folder {tmp_path}/none.txt" in fails(train.main, [*FLAGS, *out, str(tmp_path / "none.txt")])
    assert f"--sample-prompts {many} holds 65 prompts, and videos of 64 at most" in fails(train.main, [*FLAGS, *out, str(many)])
    config = dataclasses.replace(latents("umt5-xxl"), sample_prompts=str(table), out=str(tmp_path / "run"))
    wanted = f"--sample-prompts {table}: give --text-encoder, a directory of the encoder whose features {tmp_path}/run reads: umt5-xxl is none"
    assert fails(lambda _: train.train(config), []) == wanted
    with pytest.raises(ValueError, match="no samples are drawn where only sizes of --autoencoder wan2.1 are known"):
        dataclasses.replace(config, autoencoder="wan2.1")
    expert = dataclasses.replace(config.flow, between=(0.0, 0.9))
    with pytest.raises(ValueError, match=f"--sample-prompts {table}: no samples are drawn where this is an expert of the times 0 to 0.9 alone"):
        dataclasses.replace(config, flow=expert)
    gray = dataclasses.replace(config.model, given=True, gray=True)
    with pytest.raises(ValueError, match="with --model.gray a video is made of a picture"):
        dataclasses.replace(config, model=gray, given_part=1)
    assert not (tmp_path / "run").exists()


def test_hosts_that_read_other_prompts_are_refused(table, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(prompts, "gathered", lambda mine: [mine, "another"])
    with pytest.raises(ValueError, match="every host of a job has to read the same --sample-prompts, and these do not"):
        shown.of_prompts(train.parse([*FLAGS, "--sample-prompts", str(table)]), mesh.build())
