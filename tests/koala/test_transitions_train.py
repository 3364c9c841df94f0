"""Training: the fit learns what there is to learn, the paper's SVM separates, the commands refuse what they cannot do."""
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from safetensors import safe_open

from koala_jax.transitions import Detection, Type, benchmark, fit, network, paper, peers, score, train
from koala_jax.transitions import features as f
from koala_jax.transitions.learned import WEIGHTS
from koala_jax.transitions.synthesis.splice import Splice
from koala_jax.tsa import scorer
from koala_jax.tsa.card import seen
from tests.core.video_files import make
from tests.koala.shots import stream

CUT, WIPE = (network.CLASSES.index(kind) for kind in (Type.CUT, Type.WIPE))


def examples(number: int, seed: int):
    """Features of noise, in which some tell a cut and others a wipe."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(number):
        x, labels = rng.normal(size=(120, len(f.NAMES))).astype(np.float32), np.zeros(120, np.int8)
        labels[[30, 90]] = CUT
        labels[50:62] = WIPE
        x[labels == CUT, 3:7] += 12
        x[labels == WIPE, 7:11] += 6
        made.append((x, labels))
    return made


@pytest.fixture(scope="module")
def trained():
    with mock.patch.object(fit, "CROP", 128):  # the examples are of 120
        return network.stacked([fit.fit(examples(12, 0), 120, 0, lambda step, loss: None)])


def test_the_fit_finds_transitions_and_their_types(trained):
    held = examples(4, 1)
    figures = train.measure(train.calibrated(trained, held), held)
    assert figures["f1"] > 95 and set(figures["recall by type"]) == {"cut", "wipe"}
    assert figures["calibration error"] < 0.05


def test_calibration_does_not_make_it_worse(trained):
    held = examples(4, 2)
    cost = lambda p: np.mean([-np.log(network.probabilities(p, x)[np.arange(len(y)), y] + 1e-9).mean() for x, y in held])  # noqa: E731
    assert cost(train.calibrated(trained, held)) <= cost(trained) + 1e-6


def test_weights_come_back_as_written(trained, tmp_path):
    train.write(tmp_path, trained, {"sources": {}})
    again = network.load(tmp_path / "transitions.safetensors")
    assert all(np.array_equal(again[name], value) for name, value in trained.items())
    assert json.loads((tmp_path / "transitions.json").read_text()) == {"sources": {}}
    assert (tmp_path / "transitions.safetensors").stat().st_size < 1e6


def test_the_shipped_weights_are_of_this_version_and_every_source_has_a_licence():
    facts = json.loads(WEIGHTS.with_suffix(".json").read_text())
    with safe_open(WEIGHTS, "np") as file:
        assert file.metadata()["version"] == str(facts["version"]) == str(train.VERSION)
    assert all(facts["sources"].values()) and "as its owner says" not in facts["sources"].values()
    assert not any("koala" in name for name in facts["sources"])


def test_without_a_group_its_features_are_gone():
    ((x, _),) = train.without(examples(1, 0), "@63")
    gone = [name for name, column in zip(f.NAMES, x.T) if not column.any()]
    assert gone and all(name.endswith("@63") for name in gone)


def test_truth_of_labels():
    labels = np.array([0, CUT, CUT, 0, WIPE, WIPE, WIPE, 0])
    known = [(t.before, t.after, t.type) for t in train.truth_of(labels).transitions]
    assert known == [(1, 2, "cut"), (2, 3, "cut"), (4, 7, "wipe")]


def test_the_linear_svm_separates_and_shrinks_what_does_not_help():
    rng = np.random.default_rng(0)
    y = np.repeat([1, -1], 100)
    x = np.stack([y * 0.5 + 0.1 * rng.normal(size=200), 0.1 * rng.normal(size=200)], 1)
    w = paper.linear_svm(x, y, 0)
    assert (np.sign(x @ w[:2] + w[2]) == y).all() and abs(w[0]) > 5 * abs(w[1])


def test_the_papers_refit_says_what_it_wrote_and_what_comes_next(tmp_path, capsys, monkeypatch):
    one = {"bgr": 1.0, "canny": 2.0, "bias": 0.5, "bgr to canny": 0.5, "right": 0.9}
    monkeypatch.setattr(train, "sources", lambda clips: clips)
    monkeypatch.setattr(train.paper, "refit", lambda sources, seed: {"released": one, "refitted": one})
    train.main(["a.mp4", "--paper", "--json", str(tmp_path / "figures.json")])
    said = capsys.readouterr().out
    assert f"wrote {tmp_path / 'figures.json'}" in said and "next: python -m koala_jax.transitions.benchmark CLIPS" in said


def test_the_command_trains_and_says_what_each_group_of_features_is_worth(tmp_path, monkeypatch):
    drawn = np.random.default_rng(0).integers(0, 256, (10, 14, 96, 64), np.uint8)
    monkeypatch.setattr(train, "corpus", lambda folder, read, videos, seed: [Splice(thumbs, np.eye(13, dtype=np.int8)[6] * CUT) for thumbs in drawn])
    asked, plain = [], np.zeros(len(f.NAMES), np.float32)
    monkeypatch.setattr(train, "fit", lambda made, steps, seed, say: asked.append(made) or network.initial(np.random.default_rng(seed), plain, plain + 1))
    command = ["--out", str(tmp_path / "out"), "--ablation", "--json", str(tmp_path / "figures.json")]
    train.main(command)
    figures, facts = (json.loads(path.read_text()) for path in (tmp_path / "figures.json", tmp_path / "out" / "transitions.json"))
    assert list(figures) == ["all features", *(f"without {group}" for group in train.GROUPS)]
    assert len(asked) == network.NETWORKS * len(figures) and all(len(made) == 8 for made in asked), "every fifth is held out"
    train.main(command)
    assert json.loads((tmp_path / "figures.json").read_text()) == figures and len(asked) == network.NETWORKS * len(figures), "a rerun trains none again"
    gone = [{name for name, column in zip(f.NAMES, np.concatenate([x for x, _ in made]).T) if not column.any()} for made in asked[:: network.NETWORKS]]
    assert all(more > gone[0] for more in gone[1:]) and set.union(*gone[1:]) == {*f.NAMES}, "each group, and none is in no group"
    assert facts["sources"] == {"drawn procedurally": "none"} and facts["held-out splices"] == figures["all features"]
    assert network.load(tmp_path / "out" / "transitions.safetensors")


def test_the_benchmark_says_what_each_detector_finds_and_how_fast(tmp_path, monkeypatch, capsys):
    make(tmp_path / "cups.mp4", stream([("pan", 1, 60), ("pan", 2, 60)]), size=(90, 160))
    (tmp_path / "labels.json").write_text(json.dumps(score.as_json([score.Truth("cups.mp4", 120, [score.Known(59, 60, "cut")])])))
    monkeypatch.setattr(benchmark, "SIZES", {"256": (256, 256)})
    peer = lambda path: Detection([], [(0, 120)], {})  # noqa: E731
    monkeypatch.setattr(benchmark.peers, "available", lambda: ({"finds nothing": peer}, ["TransNetV2 is left out"]))
    benchmark.main(["--labels", str(tmp_path / "labels.json"), "--out", str(tmp_path / "out"), "--json", str(tmp_path / "figures.json")])
    figures, said = json.loads((tmp_path / "figures.json").read_text()), capsys.readouterr().out
    assert list(figures["detectors"]) == ["ours", "official rule", "finds nothing"] and "TransNetV2 is left out" in said
    for name in ("ours", "official rule"):
        row = figures["detectors"][name]
        assert (row["recall"], row["f1"], row["recall by type"], row["clips"]["accuracy"]) == (100, 100, {"cut": [1, 1]}, 100)
        assert row["detection ms a frame"] > 0 < row["frames a second"] and figures["ms a pair"][name][0] > 0
    assert all(rate > 0 for rate in figures["frames a second, decoding alone"].values()) and "our decoder alone" in said
    assert figures["detectors"]["finds nothing"]["recall"] == 0 and figures["detectors"]["finds nothing"]["clips"]["recall"] == 0
    assert figures["trained on"] == ["cups.mp4"] and "trained on 1 clip of these (cups.mp4), which flatters ours" in said
    assert "CSS, as published" in said and "77.4" in said and "6.15" in said and (tmp_path / "out" / "benchmark.png").stat().st_size > 1000


def test_videos_that_weights_were_trained_on_are_told_by_their_card(tmp_path):
    shipped = Path(benchmark.WEIGHTS).with_suffix(".json"), "sources"
    assert seen(*shipped, ["/a/cups.mp4", "b/dog.mp4", "new.mp4"]) == ["cups.mp4", "dog.mp4"] and seen(*shipped, ["presenter.mp4"]) == []
    assert "bbb30.webm" in seen(Path(scorer.PACKAGED).with_suffix(".card.json"), "trained on", ["x/bbb30.webm", "new.mp4"])
    assert seen(tmp_path / "none.json", "sources", ["cups.mp4"]) == [], "weights without a card tell nothing"


def test_what_other_detectors_say_is_compared_as_ours_is(monkeypatch):
    """PySceneDetect's scenes and TransNetV2's, of which one ends before the next begins where shots are mixed; one that has no weights is left out."""
    moment = lambda frame: SimpleNamespace(frame_num=frame)  # noqa: E731
    scenes = [(moment(0), moment(30)), (moment(30), moment(60))]
    manager = SimpleNamespace(add_detector=lambda one: None, detect_scenes=lambda stream: None, get_scene_list=lambda start_in_scene: scenes)
    detectors = {f"{kind}Detector": object for kind in ("Content", "Adaptive", "Hash", "Histogram")}
    monkeypatch.setitem(sys.modules, "scenedetect", SimpleNamespace(open_video=lambda path: None, SceneManager=lambda: manager, **detectors))
    model = SimpleNamespace(predict_video=lambda path: (np.zeros(60), None, None), predictions_to_scenes=lambda single: [(0, 24), (30, 59)])
    monkeypatch.setitem(sys.modules, "transnetv2", SimpleNamespace(TransNetV2=lambda: model))
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: name)
    found, missing = peers.available()
    assert list(found) == [f"PySceneDetect {kind}" for kind in ("Content", "Adaptive", "Hash", "Histogram")] + ["TransNetV2"] and not missing
    cut, mixed = found["PySceneDetect Hash"]("a.mp4"), found["TransNetV2"]("a.mp4")
    assert [(t.start_frame, t.end_frame) for t in cut.transitions + mixed.transitions] == [(30, 30), (25, 30)]
    assert cut.clips == [(0, 30), (30, 60)] and mixed.clips == [(0, 25), (31, 60)]
    monkeypatch.setitem(sys.modules, "transnetv2", SimpleNamespace(TransNetV2=lambda: (_ for _ in ()).throw(OSError("no weights"))))
    assert "TransNetV2 is left out: its weights cannot be loaded (OSError)" in peers.available()[1]
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert peers.available()[0] == {} and len(peers.available()[1]) == 2


def test_bad_arguments_are_refused_in_a_sentence(fails, tmp_path):
    assert "not among the clips" in fails(train.main, ["--exclude", "none.mp4", "--out", str(tmp_path)])
    assert "--manifest none.csv must be a CSV table" in fails(train.main, ["--manifest", "none.csv", "--out", str(tmp_path)]), "before hours of work"
    assert "--videos 2: at least 10 is needed" in fails(train.main, ["--videos", "2", "--out", str(tmp_path)])
    assert "--paper refits an SVM of two numbers" in fails(train.main, ["--paper", "--ablation", "--out", str(tmp_path)])
    assert "either single-shot clips" in fails(benchmark.main, [])
    assert "none.safetensors cannot be read" in fails(benchmark.main, ["none.mp4", "--weights", "none.safetensors"]), "before a set is built"
    (tmp_path / "labels.json").write_text('{"videos": [{}]}')
    assert "no table of labelled videos" in fails(benchmark.main, ["--labels", str(tmp_path / "labels.json")])
    (tmp_path / "labels.json").write_bytes(b"\xa0")
    assert "labels.json is no table of labelled videos" in fails(benchmark.main, ["--labels", str(tmp_path / "labels.json")])
    (tmp_path / "labels.json").write_text('{"videos": []}')
    assert "labels.json names no video" in fails(benchmark.main, ["--labels", str(tmp_path / "labels.json")])
    (tmp_path / "labels.json").write_text('{"videos": [{"file": "a.mp4", "frames": 60, "transitions": []}]}')
    assert "there is no file or folder" in fails(benchmark.main, ["--labels", str(tmp_path / "labels.json")]), "before an hour on the others"
    assert "there is no file or folder mistyped.mp4" in fails(benchmark.main, ["mistyped.mp4", "--out", str(tmp_path)])
    assert "labels.json is no folder" in fails(train.main, ["mistyped.mp4", "--out", str(tmp_path / "labels.json")]), "before the clips are read"
    assert "labels.json is no folder" in fails(benchmark.main, ["a.mp4", "--out", str(tmp_path / "labels.json")]), "before an hour that would be lost"


def test_videos_shorter_than_a_piece_have_no_figures_of_pieces(tmp_path):
    truth = score.Truth("a.mp4", 60, [score.Known(29, 30, "cut")])
    (row,) = benchmark.measure(tmp_path, [truth], {"finds nothing": lambda path: Detection([], [(0, 60)], {})}).values()
    assert row["clips"] == {"accuracy": None, "precision": None, "recall": None} and row["missed"] == 1


def test_a_benchmark_of_no_videos_is_refused(fails):
    assert "--videos 0: at least 1 is needed" in fails(benchmark.main, ["a.mp4", "--videos", "0"])
