"""The model against transformers' Chameleon on the same random weights: codes, logits, gradients, answers."""
import jax
import numpy as np
import pytest
import torch

from core_jax.lmm.codes import pixels
from core_jax.lmm.config import CodesConfig
from core_jax.lmm.generate import generate
from core_jax.lmm.load import load
from core_jax.lmm.sequence import lay_out, stack
from core_jax.weights import named
from tests.core.lmm_models import BEGIN, END, PICTURE, chameleon


@pytest.fixture(scope="module", params=["small", "larger"])
def pair(request, tmp_path_factory):
    written = chameleon(tmp_path_factory.mktemp(request.param), larger=request.param == "larger")
    return written, load(written.path)


def example(model, images: int, seed: int = 0):
    """Our sequence, and the same as transformers takes it."""
    rng = np.random.default_rng(seed)
    side = model.config.codes.resolution
    pictures = rng.uniform(-1, 1, (images, side, side, 3)).astype(np.float32)
    codes = [np.asarray(row) for row in jax.jit(type(model.codes).__call__)(model.codes, pictures)] if images else []
    sequence = lay_out(model.config, [0, 70, *[PICTURE, 71] * images, 72], codes)
    ids = np.where(np.isin(sequence.tokens, model.config.codes.vocabulary), PICTURE, sequence.tokens)
    theirs = {"input_ids": torch.tensor(ids)[None].long()}
    if images:
        theirs["pixel_values"] = torch.tensor(pictures).permute(0, 3, 1, 2)
    return sequence, theirs


def test_codes_are_those_of_transformers_and_stand_between_their_marks(pair):
    written, model = pair
    sequence, theirs = example(model, 2)
    with torch.no_grad():
        want = written.torch.get_image_tokens(theirs["pixel_values"]).numpy()
    n = model.config.codes.grid ** 2
    assert want.shape == (2, n) and len(np.unique(want)) > 5
    np.testing.assert_array_equal(sequence.tokens, [0, 70, BEGIN, *want[0], END, 71, BEGIN, *want[1], END, 71, 72])


def test_logits_are_those_of_transformers(pair):
    written, model = pair
    examples = [example(model, images, images) for images in (0, 1, 2)]
    batch = np.asarray(jax.jit(type(model).__call__)(model, stack(model.config, [sequence for sequence, _ in examples])))
    for got, (sequence, theirs) in zip(batch, examples, strict=True):
        with torch.no_grad():
            want = written.torch(**theirs).logits[0].numpy()
        seen = want[0] > np.finfo(np.float32).min  # transformers hides the logits of image codes
        assert seen.sum() == 120 - 64
        np.testing.assert_allclose(got[: len(sequence)][:, seen], want[:, seen], atol=1e-4)


def test_answers_are_those_of_transformers_one_by_one_and_in_a_batch(pair):
    written, model = pair
    examples = [example(model, images, images) for images in (0, 1, 2)]
    with torch.no_grad():
        answers = [written.torch.generate(**theirs, max_new_tokens=32, do_sample=False)[0] for _, theirs in examples]
    want = [answer[theirs["input_ids"].shape[1] :].numpy() for answer, (_, theirs) in zip(answers, examples)]
    want = [answer[:-1] if answer[-1] == 2 else answer for answer in want]
    assert max(map(len, want)) == 32
    for answer, right in zip(generate(model, [sequence for sequence, _ in examples], most=32), want, strict=True):
        np.testing.assert_array_equal(answer, right)
    np.testing.assert_array_equal(generate(model, [examples[1][0]], most=32)[0], want[1])


def test_gradients_are_those_of_transformers(tmp_path):
    written = chameleon(tmp_path / "weights", larger=True)
    model = load(written.path)
    sequence, theirs = example(model, 0)
    seen = np.setdiff1d(np.arange(120), model.config.codes.vocabulary)
    (written.torch(**theirs).logits[0][:, seen] ** 2).mean().backward()
    want = named(load(written.save_gradients(tmp_path / "gradients")))
    inputs = stack(model.config, [sequence])
    got = named(jax.jit(jax.grad(lambda model: (model(inputs)[0, : len(sequence)][:, seen] ** 2).mean()))(model))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-5, rtol=1e-4, err_msg=name)


def test_a_picture_loses_what_lies_beside_its_middle_square():
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 255
    out = pixels(picture, CodesConfig(resolution=64))
    assert out.shape == (64, 64, 3)
    assert out[:, 4:-4].min() > 0.9 and np.abs(out).max() <= 1


@pytest.mark.parametrize("shape", [(40, 71), (71, 40), (333, 500), (64, 64), (37, 200)])
def test_pixels_are_those_of_transformers(shape):
    theirs = pytest.importorskip("transformers.models.chameleon.image_processing_pil_chameleon", reason="transformers before 5 has no such file")
    side, image = 64, np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    process = theirs.ChameleonImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    want = np.asarray(process(image, return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0)
    got = pixels(image, CodesConfig(resolution=side))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-7)
