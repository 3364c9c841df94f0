"""From probabilities to transitions and clips; a stream gives what the whole video gives, in bounded memory."""
import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from koala_jax.transitions import Type, learned, network
from koala_jax.transitions import features as f


def chances(frames: int, **spans) -> np.ndarray:
    """Probabilities of pairs: spans name a type and give (first pair, pair after the last, p)."""
    p = np.zeros((frames - 1, len(network.CLASSES)), np.float32)
    for kind, runs in spans.items():
        for i, j, value in runs:
            p[i:j, network.CLASSES.index(Type(kind))] = value
    p[:, 0] = 1 - p.sum(1)
    return p


def test_a_cut_loses_no_frame():
    found = learned.decide(chances(100, cut=[(49, 50, 0.9)]), 100)
    (t,) = found.transitions
    assert (t.start_frame, t.end_frame, t.type) == (50, 50, Type.CUT) and t.score == pytest.approx(0.9)
    assert found.clips == [(0, 50), (50, 100)]


def test_a_dissolve_loses_its_mixed_frames_and_the_doubtful_ones():
    found = learned.decide(chances(100, dissolve=[(38, 40, 0.2), (40, 60, 0.95), (60, 61, 0.2)]), 100)
    (t,) = found.transitions
    assert (t.start_frame, t.end_frame, t.type) == (41, 60, Type.DISSOLVE)
    (_, before), (after, _) = found.clips
    assert before <= 38 and after >= 62


def test_what_is_never_sure_is_none():
    assert learned.decide(chances(100, wipe=[(40, 60, 0.45)]), 100).transitions == []


@pytest.mark.parametrize(
    "spans, margin, frames, found",
    [
        (dict(cut=[(9, 10, 0.97), (49, 50, 0.88)]), 0.2, (50, 50), True),  # (0.88 - 0.85) / 0.15
        (dict(cut=[(9, 10, 0.97)], fade=[(60, 63, 0.765)]), 0.1, (61, 63), False),  # (0.85 - 0.765) / 0.85
        (dict(cut=[(9, 10, 0.17)]), 0.8, (10, 10), False),
        ({}, 1.0, (1, 1), False),
    ],
    ids=["just found", "just not", "far from it", "certainly not"],
)
def test_the_doubt_is_the_nearest_decision(spans, margin, frames, found):
    made = learned.decide(chances(100, **spans), 100)
    by, at = made.doubt
    assert by == pytest.approx(margin, abs=1e-6) and (at.start_frame, at.end_frame) == frames and (at in made.transitions) == found


@pytest.mark.parametrize("frames", [0, 1])
def test_no_pair_no_transition(frames, weights):
    detector = learned.Learned(weights)
    for _ in range(frames):
        detector.add(np.zeros((96, 64), np.uint8))
    found = detector.finish()
    assert found.transitions == [] and found.clips == [(0, 1)] * frames


@given(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9]), min_size=1, max_size=60), st.sampled_from(list(Type)))
def test_clips_hold_no_transition(values, kind):
    p = chances(len(values) + 1, **{kind.value: [(i, i + 1, value) for i, value in enumerate(values)]})
    found = learned.decide(p, len(values) + 1)
    inside = np.zeros(len(values) + 1, bool)
    for start, stop in found.clips:
        assert 0 <= start < stop <= len(values) + 1 and not inside[start:stop].any()
        inside[start:stop] = True
        for t in found.transitions:
            assert not start < t.start_frame < stop and not start < t.end_frame < stop  # a cut's new frame may begin a clip
    assert len(found.scores["transition"]) == len(values)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    rng = np.random.default_rng(0)
    n = len(f.NAMES)
    mean = rng.normal(size=n).astype(np.float32)
    parameters = network.stacked([network.initial(rng, mean, np.ones(n, np.float32)) for _ in range(2)])
    parameters["out.w"] = 0.02 * rng.normal(size=parameters["out.w"].shape).astype(np.float32)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(parameters, path, {"features": json.dumps(f.NAMES)})
    return path


def single(p, i: int) -> dict[str, np.ndarray]:
    """One of the networks."""
    return {name: value if name in ("mean", "std") else value[i] for name, value in p.items()}


def test_a_stream_is_scored_as_the_whole_and_forgotten(weights, monkeypatch):
    monkeypatch.setattr(learned, "CHUNK", 50)
    rng = np.random.default_rng(1)
    video = (rng.integers(0, 256, (240, 96, 64)) * rng.random((240, 1, 1))).astype(np.uint8)
    detector, most = learned.Learned(weights), 0
    for thumb in video:
        detector.add(thumb)
        most = max(most, len(detector.thumbs))
    got = detector.finish().scores["transition"]
    want = 1 - network.probabilities(network.load(weights), f.features(video))[:, 0]
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert 0.003 < want.std()  # no pair's probability is the same whatever it depends on
    assert most <= 50 + 2 * f.HALO


def test_numpy_and_jax_agree_and_context_is_as_stated(weights):
    p, rng = network.load(weights), np.random.default_rng(2)
    x = network.normalised(p, rng.normal(size=(150, len(f.NAMES))).astype(np.float32))
    z = network.logits(p, x)
    np.testing.assert_allclose(np.asarray(network.logits(single(p, 0), x, xp=jnp)), z[0], atol=1e-3)
    changed = x.copy()
    changed[75] += 1
    reach = np.flatnonzero(np.abs(network.logits(p, changed) - z).max((0, 2)) > 1e-6)
    assert reach.min() == 75 - network.CONTEXT and reach.max() == 75 + network.CONTEXT


def test_several_networks_give_the_mean_of_each(weights):
    p, x = network.load(weights), np.random.default_rng(3).normal(size=(9, len(f.NAMES))).astype(np.float32)
    one, other = (network.probabilities(network.stacked([single(p, i)]), x) for i in range(2))
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_allclose(network.probabilities(p, x), (one + other) / 2, atol=1e-6)


def test_weights_that_are_none_or_for_other_features_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("notes of a meeting")
    with pytest.raises(ValueError, match="notes.txt cannot be read as safetensors"):
        network.load(tmp_path / "notes.txt")
    save_file({"in.b": np.zeros(3, np.float32)}, tmp_path / "w.safetensors", {"features": "[]"})
    with pytest.raises(ValueError, match="other features"):
        network.load(tmp_path / "w.safetensors")
