"""The model against transformers' LLaVA-OneVision on the same random weights: text, one image, several images, a video."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from core_jax.lmm.generate import generate
from core_jax.lmm.load import load
from core_jax.lmm.packing import one_of_images, single_image, video
from core_jax.lmm.sequence import lay_out, stack
from core_jax.weights import named
from tests.core.lmm_models import IMAGE, VIDEO, llava_onevision

KINDS = ("text", "image", "images", "video", "image and video")


@pytest.fixture(scope="module", params=["small", "larger"])
def pair(request, tmp_path_factory):
    """(transformers' model, ours, the folder)"""
    written = llava_onevision(tmp_path_factory.mktemp(request.param), larger=request.param == "larger")
    return written, load(written.path)


def example(config, kind: str, seed: int = 0):
    """Our sequence, and the same as transformers takes it."""
    rng = np.random.default_rng(seed)
    picture = lambda h, w: rng.integers(0, 256, (h, w, 3), np.uint8)
    images = {"image": [picture(40, 90)], "images": [picture(30, 50), picture(60, 20)], "image and video": [picture(70, 45)]}.get(kind, [])
    clip = rng.integers(0, 256, (3, 24, 40, 3), np.uint8) if "video" in kind else None
    if len(images) == 1:
        visuals = [single_image(images[0], config.tower, config.packing)]
    else:
        visuals = [one_of_images(image, config.tower) for image in images]
    ids, theirs = [3, 4, *[IMAGE, 9] * len(images), 5], {}
    if images:
        tiles = torch.tensor(np.stack([visual.tiles for visual in visuals])).permute(0, 1, 4, 2, 3)
        theirs = {"pixel_values": tiles, "image_sizes": torch.tensor([image.shape[:2] for image in images])}
        theirs["batch_num_images"] = torch.tensor([len(images)])
    if clip is not None:
        visuals.append(video(clip, config.tower))
        ids += [VIDEO, 6]
        theirs["pixel_values_videos"] = torch.tensor(visuals[-1].tiles).permute(0, 3, 1, 2)[None]
    sequence = lay_out(config, ids, visuals)
    return sequence, {"input_ids": torch.tensor(sequence.tokens)[None].long(), **theirs}


def test_logits_are_those_of_transformers(pair):
    written, model = pair
    examples = [example(model.config, kind) for kind in KINDS]
    batch = np.asarray(jax.jit(type(model).__call__)(model, stack(model.config, [sequence for sequence, _ in examples])))
    for kind, got, (sequence, theirs) in zip(KINDS, batch, examples, strict=True):
        with torch.no_grad():
            want = written.torch(**theirs).logits[0].numpy()
        assert np.abs(want).max() > 1
        np.testing.assert_allclose(got[: len(sequence)], want, atol=1e-4, err_msg=kind)


def greedy(written, theirs, most: int) -> np.ndarray:
    with torch.no_grad():
        out = written.torch.generate(**theirs, max_new_tokens=most, do_sample=False)
    answer = out[0, theirs["input_ids"].shape[1] :].numpy()
    return answer[:-1] if answer[-1] == 7 else answer


def test_answers_are_those_of_transformers_one_by_one_and_in_a_batch(pair):
    written, model = pair
    examples = [example(model.config, kind, seed) for seed, kind in enumerate(KINDS)]
    want = [greedy(written, theirs, 32) for _, theirs in examples]
    assert max(map(len, want)) == 32
    batch = generate(model, [sequence for sequence, _ in examples], most=32)
    for answer, right in zip(batch, want, strict=True):
        np.testing.assert_array_equal(answer, right)
    np.testing.assert_array_equal(generate(model, [examples[1][0]], most=32)[0], want[1])


def test_gradients_are_those_of_transformers(tmp_path):
    written = llava_onevision(tmp_path / "weights")
    model = load(written.path)
    sequence, theirs = example(model.config, "image and video")
    written.torch(**theirs, labels=theirs["input_ids"]).loss.backward()
    want = named(load(written.save_gradients(tmp_path / "gradients")))
    inputs = stack(model.config, [sequence])

    @jax.jit
    @jax.grad
    def gradient(model):
        n = len(sequence)
        likely = jax.nn.log_softmax(model(inputs)[0, : n - 1])
        return -likely[jnp.arange(n - 1), inputs.tokens[0, 1:n]].mean()

    got = named(gradient(model))
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-5, rtol=1e-4, err_msg=name)
        assert np.abs(want[name]).max() > 0 or name.endswith("k.b"), name
