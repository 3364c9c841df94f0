"""Frames that are given: the channels, how many are drawn in training, a model that uses them, and `sample --image`."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings, strategies as st
from jax.experimental import multihost_utils
from PIL import Image

from core_jax import mesh
from core_jax.tensors import save_file
from tests.videodit import small
from videodit_jax import flow, given, sample
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import TrainConfig
from videodit_jax.objective import loss_fn
from videodit_jax.run import WEIGHTS, Run, make_model
from videodit_jax.sampler import Sampler

CONFIG = dataclasses.replace(small.CONFIG, model=dataclasses.replace(small.CONFIG.model, given=True))
STATISTICS = ScoreStatistics.of({name: np.array([]) for name in CONFIG.model.scores})


@for_all(st.lists(st.integers(0, 4), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_the_channels_are_a_mask_and_the_frames_behind_it(first):
    video = np.random.default_rng(0).standard_normal((len(first), 4, 2, 3, 3)).astype(np.float32)
    made = np.asarray(given.channels(jnp.asarray(video), jnp.asarray(first)))
    for row, clip, number in zip(made, video, first):
        assert (row[:number, ..., 0] == 1).all() and (row[number:, ..., 0] == 0).all()
        np.testing.assert_array_equal(row[:number, ..., 1:], clip[:number])
        assert (row[number:, ..., 1:] == 0).all()
    kept = given.keep(CONFIG.model, jnp.zeros_like(video), made)
    np.testing.assert_array_equal(kept, made[..., 1:])


def test_as_many_clips_as_asked_have_given_frames_half_of_them_one():
    number = np.asarray(given.draw(jax.random.key(0), 20_000, 5, 0.6))
    assert number.min() == 0 and number.max() == 4
    assert abs((number > 0).mean() - 0.6) < 0.02
    one = (number == 1).sum() / (number > 0).sum()
    assert abs(one - (0.5 + 0.5 / 4)) < 0.02
    assert (given.draw(jax.random.key(0), 50, 5, 0.0) == 0).all()


@pytest.fixture(scope="module")
def model():
    return small.shaken(jax.jit(lambda: make_model(CONFIG))(), 0.05)


def test_the_loss_learns_from_given_frames(model):
    """The gradient reaches the weights of the mask and the frames, and with no clip given it does not."""
    rng = np.random.default_rng(0)
    batch = {
        "video": rng.integers(0, 255, (8, *CONFIG.video, 3)).astype(np.uint8), "scores": np.full((8, 3), np.nan, np.float32),
        "text": jax.tree.map(lambda *x: np.stack(x), *[CONFIG.model.text.tokenize("a red circle")] * 8),
    }  # fmt: skip

    def reaches(part: float) -> bool:
        loss = loss_fn(dataclasses.replace(CONFIG, given_part=part))
        grads = jax.jit(jax.grad(lambda model: loss(model, batch, jax.random.key(0))[0]))(model)
        rows = np.asarray(grads.patches.w[...]).reshape(7, -1)  # (C t h w): the noisy video's, the mask's, the frames'
        assert (rows[:3] != 0).all()
        return bool((rows[3:] != 0).any())

    assert reaches(1.0) and not reaches(0.0)


def in_place() -> TrainConfig:
    """With patches of one frame."""
    return dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, in_place=True, patch=(1, 4, 4)))


def test_in_place_the_given_frames_are_seen_as_they_are_and_with_none_nothing_differs():
    config, rng = in_place(), np.random.default_rng(0)
    model = small.shaken(jax.jit(lambda: make_model(config))(), 0.05)
    x, x0 = rng.standard_normal((2, 2, *config.video, 3)).astype(np.float32)
    t, scores = jnp.array([0.3, 0.8]), jnp.full((2, 3), jnp.nan)
    tokens = jax.tree.map(lambda *x: np.stack(x), *[config.model.text.tokenize("a red circle")] * 2)
    call = jax.jit(lambda x, t, first: model(x, t, tokens, scores, given.channels(x0, first)))
    none, one = jnp.zeros(2, int), jnp.ones(2, int)
    np.testing.assert_allclose(call(x, t, none), jax.jit(lambda: model(x, t, tokens, scores))(), atol=1e-6)
    led, noisier = call(x, t, one), np.array(x)
    noisier[:, 0] = 7
    np.testing.assert_array_equal(call(noisier, t, one)[:, 1:], led[:, 1:])
    assert (np.abs(led - call(x, t, none))[:, 1:] > 1e-4).any((1, 2, 3, 4)).all()
    noisier[:, 0] = x0[:, 0]
    assert (np.abs(led - call(noisier, t, none))[:, 1:] > 1e-4).any((1, 2, 3, 4)).all()  # the same pixels, but at time t
    np.testing.assert_allclose(call(x0, jnp.zeros(2), one)[:, 1:], call(x0, jnp.zeros(2), none)[:, 1:], atol=1e-6)  # all at time 0: the same


def test_in_place_the_loss_counts_what_is_not_given(monkeypatch):
    config, seen, losses = in_place(), [], flow.losses
    model = jax.jit(lambda: make_model(config))()
    batch = {
        "video": np.zeros((3, *config.video, 3), np.uint8), "scores": np.full((3, 3), np.nan, np.float32),
        "text": jax.tree.map(lambda *x: np.stack(x), *[config.model.text.tokenize("")] * 3),
    }  # fmt: skip
    monkeypatch.setattr("videodit_jax.objective.draw", lambda key, batch, frames, part: jnp.array([0, 1, 3]))

    def looked(config, out, x0, eps, counts):
        seen.append(counts)
        huge = jnp.where(counts, eps, 1e6)  # what is given must not count
        return losses(config, out, x0, huge, counts)

    monkeypatch.setattr(flow, "losses", looked)
    loss, _ = loss_fn(config)(model, batch, jax.random.key(0))
    np.testing.assert_array_equal(np.asarray(seen[0]).reshape(3, 4, -1).all(2), [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
    assert loss < 10
    for wrong in ({"given": False}, {"patch": (2, 4, 4)}):
        with pytest.raises(ValueError, match="--model.in-place goes with --model.given, and with patches of one frame"):
            dataclasses.replace(config.model, **wrong)
    with pytest.raises(ValueError, match="--model.gray goes with --model.given, and without --model.in-place"):
        dataclasses.replace(config.model, gray=True)


def test_every_host_samples_by_what_the_first_one_has_read(model, monkeypatch):
    """Another may have read another clip, where one broke; and where no score is known the program is another."""
    on, sent = mesh.build(devices=jax.devices()[:1]), []
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda tree: sent.append(tree) or sent[0])
    statistics = ScoreStatistics.of(dict.fromkeys(CONFIG.model.scores, np.arange(9.0)))
    first = np.random.default_rng(0).integers(0, 255, (2, 2, 1, *CONFIG.video[1:], 3)).astype(np.uint8)
    read = (["a red circle", ""], [{"motion": 2.0}, {}], first[0]), (["a bar", "a"], [{}, {}], first[1])
    with jax.set_mesh(on):
        sampler = Sampler(CONFIG, statistics, on, 2)
        hosts = [sampler(model, texts, scores, [1, 2], first=frames) for texts, scores, frames in read]
    np.testing.assert_array_equal(*hosts)
    np.testing.assert_array_equal(hosts[0][:, :1], first[0])


def test_given_frames_come_back_as_they_were_and_change_the_others(model):
    on = mesh.build(devices=jax.devices()[:1])
    first = np.random.default_rng(0).integers(0, 255, (2, 2, *CONFIG.video[1:], 3)).astype(np.uint8)
    with jax.set_mesh(on):
        sampler = Sampler(CONFIG, STATISTICS, on, 2)
        free, led = (sampler(model, [""] * 2, [{}] * 2, [0, 1], first=frames) for frames in (None, first))
    np.testing.assert_array_equal(led[:, :2], first)
    assert (led[:, 2:] != free[:, 2:]).any((1, 2, 3, 4)).all()


def test_sample_takes_an_image_of_another_aspect_with_a_notice(tmp_path, model, caplog, fails):
    run = tmp_path / "run"
    run.mkdir()
    Run(CONFIG, STATISTICS, "").write(run)
    save_file(run / WEIGHTS, model)
    wide = np.zeros((24, 48, 3), np.uint8)
    wide[:, 12:36] = 200  # the middle, which stays
    Image.fromarray(wide).save(tmp_path / "wide.png")
    args = ["--run", str(run), "--n", "1", "--steps", "1", "--out", str(tmp_path / "x.mp4")]
    sample.main([*args, "--image", str(tmp_path / "wide.png")])
    assert "24×48 pixels and the model makes 12×12: 50% is cut off" in caplog.text
    frame, notice = given.first_frame(tmp_path / "wide.png", 12, 12)
    assert (frame[:, 3:-3] == 200).all() and frame.min() > 180 and notice
    assert given.first_frame(tmp_path / "wide.png", 12, 24)[1] == ""
    Image.fromarray(wide).save(tmp_path / "x.gif")
    assert "x.gif would be written over: write to another file" in fails(sample.main, [*args, "--image", str(tmp_path / "x.gif")])
    (tmp_path / "none.png").write_text("no image")
    assert "none.png: cannot be read as an image" in fails(sample.main, [*args, "--image", str(tmp_path / "none.png")])
    Run(small.CONFIG, STATISTICS, "").write(run)
    assert "was trained without given frames" in fails(sample.main, [*args, "--image", str(tmp_path / "wide.png")])
