"""Both scorers against their PyTorch writings: values, gradients, sizes."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from core_jax.rngs import Rngs
from core_jax.weights import count, named, renamed
from koala_jax.tsa import names, swin
from koala_jax.tsa.convnext import ConvNeXtConfig
from koala_jax.tsa.model import SuitabilityConfig, VideoScorerConfig
from koala_jax.tsa.scorer import new
from koala_jax.tsa.torch_twin import TorchSuitabilityScorer, TorchVideoScorer, relative_position_index
from koala_jax.tsa.windows import Windows, adaptive_window

SWIN = swin.SwinConfig(width=6, depths=(2, 2), heads=(1, 3))
VIDEO = VideoScorerConfig(SWIN, hidden=5)
FULL = SuitabilityConfig(SWIN, ConvNeXtConfig(4, (1, 2), 9), labels=3, width=10, label_hidden=(5, 6, 7), static_hidden=7, final_hidden=(8, 6, 4))


def twins(config, twin, scale=0.2):
    """Our model and the twin with the same weights, all of them away from what they start as."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    abstract = jax.eval_shape(lambda: config.build(rngs=Rngs(0)))
    tensors = {name: tensor.numpy() for name, tensor in twin.state_dict().items()}
    table = names.from_official(tensors, {name: leaf.shape for name, leaf in named(abstract).items()})
    return renamed(abstract, {name: jnp.asarray(array) for name, array in table.items()}), twin


def relative(a, b) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


def compare(model, twin, inputs):
    """Largest relative difference of the outputs, and of every gradient of their sum of squares."""
    score = jax.jit(jax.value_and_grad(lambda model: (lambda y: ((y**2).sum(), y))(model(*inputs)), has_aux=True))
    (_, ours), grads = score(model)
    moved = [torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy()) if x.ndim > 2 else torch.from_numpy(np.array(x)) for x in inputs]
    theirs = twin(*moved)
    (theirs**2).sum().backward()
    wanted = {name: p.grad.numpy() if p.grad is not None else np.zeros(p.shape, np.float32) for name, p in twin.named_parameters()}
    got = names.to_official({name: np.asarray(g) for name, g in named(grads).items()})
    whole = np.sqrt(sum((w**2).sum() for w in wanted.values()) / sum(w.size for w in wanted.values()))  # a gradient of pure rounding is none
    differences = {name: np.abs(got[name] - w).max() / max(np.abs(w).max(), whole) for name, w in wanted.items()}
    return relative(ours, theirs.detach()), max(differences.values()), max(differences, key=differences.get)


CLIPS = {"odd": ("cpu", (11, 75, 58)), "odd, all windows at once": ("gpu", (11, 75, 58)), "odd, as on a TPU": ("tpu", (11, 75, 58))}


@pytest.mark.parametrize("platform, clip", CLIPS.values(), ids=CLIPS)
def test_the_released_scorer_equals_pytorch(platform, clip, monkeypatch):
    monkeypatch.setattr(swin, "platform", lambda: platform)
    model, twin = twins(VIDEO, TorchVideoScorer(VIDEO, clip))
    fragments = np.random.default_rng(0).standard_normal((2, *clip, 3)).astype(np.float32)
    output, gradient, where = compare(model, twin, [fragments])
    assert output < 1e-5 and gradient < 1e-4, where


def test_the_three_branch_scorer_equals_pytorch():
    model, twin = twins(FULL, TorchSuitabilityScorer(FULL, (8, 64, 64)))
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in ((2, 8, 64, 64, 3), (2, 37, 50, 3), (2, 3))]
    output, gradient, where = compare(model, twin, inputs)
    assert output < 1e-5 and gradient < 1e-4, where


@pytest.mark.parametrize("config, parameters", [(VideoScorerConfig(), 28_127_901), (SuitabilityConfig(), 59_476_985)])
def test_the_defaults_have_the_papers_sizes(config, parameters):
    assert count(jax.eval_shape(lambda: config.build(rngs=Rngs(0)))) == parameters


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(16, 56, 56), (16, 28, 28), (16, 14, 14), (5, 9, 8)])
def test_windows_join_to_what_was_cut(grid, shifted):
    windows = Windows.of(grid, (8, 7, 7), shifted)
    x = np.random.default_rng(0).standard_normal((2, *grid, 3))
    cut = windows.cut(x)
    assert cut.shape == (2 * windows.number, np.prod(windows.window), 3)
    np.testing.assert_array_equal(windows.join(cut), x)


@pytest.mark.parametrize(
    "n, shifted, shares",
    [(56, False, {0: 0.510, 1: 0.408, 2: 0.082}), (28, False, {0: 0.220, 1: 0.460, 2: 0.278, 3: 0.040, 4: 0.002})],
)
def test_shares_of_fragment_distances_are_the_measured_ones(n, shifted, shares):
    place = Windows.of((8, n, n), (8, 7, 7), shifted).fragments[:, :49].astype(int)
    m = np.abs(place[:, :, None] - place[:, None]).sum(-1)
    for distance, share in shares.items():
        assert (m == distance).mean() == pytest.approx(share, abs=6e-4)
    assert m.max() == max(shares)


def test_shifted_windows_bring_the_far_side_together():
    place = Windows.of((16, 14, 14), (8, 7, 7), True).fragments.astype(int)
    assert np.abs(place[:, :, None] - place[:, None]).sum(-1).max() == 12


@pytest.mark.parametrize("window", [(8, 7, 7), (4, 5, 3), (1, 1, 1)], ids=str)
def test_a_tpu_looks_up_no_row_of_a_table(window, monkeypatch):
    windows = Windows.of((16, 14, 14), window, False)
    table = jnp.asarray(np.random.default_rng(0).standard_normal((swin.TABLE, 3)), jnp.float32)
    rows = np.moveaxis(np.asarray(table)[windows.index], -1, 0)[None]
    monkeypatch.setattr(swin, "platform", lambda: "tpu")
    assert "gather" not in str(jax.make_jaxpr(lambda table: swin._of_pairs(table, windows))(table))
    np.testing.assert_array_equal(swin._of_pairs(table, windows), rows)


def test_the_position_index_is_the_full_windows():
    np.testing.assert_array_equal(names.position_index(), relative_position_index().numpy())


@pytest.mark.parametrize("clip", [(32, 31, 224), (3, 224, 224), (32, 224, 256), (36, 224, 224)])
def test_clips_without_a_window_are_refused(clip):
    with pytest.raises(ValueError, match="4 to 35 frames and 32 to 255 rows"):
        adaptive_window(clip)


def test_only_a_key_makes_scores_random_and_examples_do_not_meet():
    model = new(VideoScorerConfig(dataclasses.replace(SWIN, depths=(1,), heads=(1,)), hidden=5))
    given = jax.jit(lambda model, x, key: model(x, key=key))
    score = lambda x, key=None: given(model, x, key)  # noqa: E731
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 64, 64, 3)), jnp.float32)
    one, other = score(x, jax.random.key(1)), score(x, jax.random.key(2))
    assert (one != other).all()
    moved = score(x.at[0, 3, 5, 5].add(3.0)) - score(x)
    assert moved[0] != 0 and moved[1] == 0
