"""Color-Struct SVM and the official rule: against a slow writing, an accelerator's program, and the released analyzer's outputs."""
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_jax import video
from koala_jax.transitions import Type, css, css_device, official
from tests.koala import slow_css
from tests.koala.shots import stream


@pytest.fixture(scope="module")
def frames():
    """A pan, a cut, a pan that dissolves into noise, black, white, flat greys."""
    flat = [np.full((90, 160, 3), value, np.uint8) for value in (0, 0, 255, 90, 90, 91)]
    return np.stack(stream([("pan", 1, 6), ("pan", 2, 6)], (90, 160)) + flat)


@pytest.fixture(scope="module")
def scores(frames):
    found = [css.features(css.shrink(frame)) for frame in frames]
    return np.array([(s.bgr, s.canny, s.svm) for s in map(css.score, found, found[1:])])


def test_scores_equal_the_slow_writing(frames, scores):
    slow = np.array([slow_css.pair(a, b) for a, b in zip(frames, frames[1:])])
    np.testing.assert_allclose(scores, slow, atol=1e-12, rtol=0)
    black, white, grey, same, next_grey = scores[-5:]  # what the released analyzer says of flat frames
    assert black == pytest.approx([1, 1, 2.8809479528848767], abs=1e-12)
    assert white == pytest.approx([1, 9.999000099990003e-05, -0.8707885534644886], abs=1e-12)
    assert grey == pytest.approx([1, 0.6277254114941779, 1.4841321211849872], abs=1e-12)
    assert same == pytest.approx([1, 1, 2.8809479528848767], abs=1e-12)
    assert next_grey == pytest.approx([-0.003952569169960474, 0.9999389778887905, -1.7523259934763113], abs=1e-9)


@pytest.mark.parametrize("size", [(720, 1280), (272, 640), (512, 512), (90, 160)])
def test_an_accelerator_computes_the_same(size, frames):
    rng = np.random.default_rng(0)
    noise = np.stack([np.kron(rng.integers(0, 256, (size[0] // 2, size[1] // 2, 3)), np.ones((2, 2, 1))) for _ in range(3)]).astype(np.uint8)
    batch = noise if size != (90, 160) else frames
    small = np.stack([css.shrink(frame) for frame in batch])
    found = [css.features(frame) for frame in small]
    np.testing.assert_array_equal(jax.jit(css_device.edges)(small), [f.edges for f in found])
    np.testing.assert_array_equal(jax.jit(css_device.histogram)(small), [f.histogram.ravel() for f in found])
    assert "scatter" not in str(jax.make_jaxpr(css_device.histogram)(small)), "which a TPU does one number after the other"
    wanted = [(s.bgr, s.canny) for s in map(css.score, found, found[1:])]
    np.testing.assert_allclose(css_device.pair_scores(small), wanted, atol=1e-6)


def test_batches_of_an_accelerator_make_one_stream(frames, scores):
    small = np.stack([css.shrink(frame) for frame in frames])
    scorer = css_device.BatchScorer(8)
    for start in range(0, len(small), 8):
        scorer.push(small[start : start + 8])
    table = scorer.finish()
    np.testing.assert_allclose(np.stack([table[c] for c in ("bgr", "canny", "svm")], 1), scores, atol=5e-6)


svms = st.lists(st.one_of(st.floats(-1, 3), st.sampled_from([2.8, 2.7, 0.7, -0.1])), max_size=60)


@settings(max_examples=300)
@given(svms)
def test_the_rule_equals_the_slow_writing(values):
    svm = np.array(values, np.float64)
    found = official.above(svm) < 0
    assert official.clips(found) == slow_css.kept(values)
    changes = official.transitions(found, svm)
    mixed = [i for t in changes for i in range(t.start_frame - 1, t.end_frame)]
    assert mixed == np.flatnonzero(found).tolist() and all(t.type is Type.UNKNOWN for t in changes)


def test_the_rule_on_known_scores():
    svm = np.full(59, 2.5)
    svm[29] = -4.0  # a cut: frame 30 is new
    detection = official.decide({"svm": svm})
    assert detection.clips == [(4, 24), (34, 55)]
    assert [(t.start_frame, t.end_frame, t.score) for t in detection.transitions] == [(29, 30, -4.0)]  # pair 28 looks ahead
    assert official.decide({"svm": np.full(8, 2.5)}).clips == []
    assert official.decide({"svm": np.full(9, 2.5)}).clips == [(4, 5)]
    assert official.decide({"svm": np.empty(0)}).clips == []


def test_the_doubt_is_the_nearest_decision():
    def doubt(values):
        detection = official.decide({"svm": np.array(values)})
        margin, at = detection.doubt
        return margin, at.start_frame, at.score, at in detection.transitions

    still = [2.5] * 20
    assert doubt([*still, -4.0, *still, -0.25, *still]) == (0.25, 42, -0.25, True), "the second cut was nearly none"
    margin, *which = doubt([*still, -4.0, *still, 0.375, *still])
    assert margin == pytest.approx(0.375) and which == [42, 0.375, False], "(2) is nearer than (3), from whose bound, 0.75, its mean lies 1.04"
    assert doubt(still)[0] == pytest.approx(1.75), "the bound of (3), 0.75"
    assert official.decide({"svm": np.empty(0)}).doubt is None


def test_detectors_do_without_jax():
    code = "import koala_jax.shots.detect as shots, koala_jax.shots.cut; [shots.new_detector(m) for m in shots.Method]; sys.exit('jax' in sys.modules)"
    boot = "import types, sys; p = types.ModuleType('core_jax'); p.__path__ = [sys.argv[1]]; sys.modules['core_jax'] = p; "
    root = Path(video.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", boot + code, str(root / "core_jax")], cwd=root).returncode == 0


@pytest.mark.skipif("VIDEOGEN_TEST_DATA" not in os.environ, reason="VIDEOGEN_TEST_DATA names no folder of real videos")
def test_the_released_analyzer():
    folder = Path(os.environ["VIDEOGEN_TEST_DATA"])
    golden = json.loads((folder.parent / "papers/koala-transition-golden.json").read_text())
    together, found = official.Official(), {}
    for name in golden:
        if name.endswith(".mp4"):
            alone = official.Official()
            for _, seconds, frame in video.decode(folder / "videos/koala" / name):
                alone.push(frame, seconds)
                together.push(frame, seconds)
            found[name] = alone.finish()
    for name, detection in (found | {"all_samples_concatenated": together.finish()}).items():
        for column in ("svm", "bgr", "canny"):
            np.testing.assert_allclose(detection.scores[column], golden[name][column], atol=2e-6, rtol=0)
        assert detection.clips == [tuple(cut) for cut in golden[name]["cuts"]]
