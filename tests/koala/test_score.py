"""The scoring command: rows, failures, going on, hosts, devices."""
import dataclasses
import itertools
import json
import re
import shlex
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet
import pytest
import scipy.stats
from etils import epath

from core_jax import cli, mesh
from core_jax.rngs import Rngs
from core_jax.tables import of_table
from core_jax.video import VideoError
from koala_jax import filter, journal, score
from koala_jax.journal import Journal
from koala_jax.metrics import Metric
from koala_jax.metrics.exposure import Exposure
from koala_jax.metrics.measure import Measured, Plan, measure, measure_pixels
from koala_jax.transitions.synthesis.shots import drawn, graded
from koala_jax.tsa import judge, scorer
from koala_jax.tsa.convnext import ConvNeXtConfig
from koala_jax.tsa.degrade import Degradation
from koala_jax.tsa.fragments import FragmentConfig
from koala_jax.tsa.model import SuitabilityConfig, VideoScorerConfig
from koala_jax.tsa.predict import Predictor
from koala_jax.tsa.scale import Scale
from koala_jax.tsa.segments import SIZE, degradations
from koala_jax.tsa.swin import SwinConfig
from tests.core.video_files import make, picture

SWIN = SwinConfig(width=6, depths=(1,), heads=(1,))
PIECES = FragmentConfig(frames=4, interval=2, clips=2, grid=2, patch=16)
LABELS = scorer.Labels(("brightness", "motion"), ("motion",), (0.02, 0.1), (-0.4, 0.1), (0.8, 0.5))
NETWORKS = {
    "video": scorer.ScorerConfig(VideoScorerConfig(SWIN, hidden=4), PIECES, scale=Scale(0.0, 0.1)),
    "three": scorer.ScorerConfig(
        SuitabilityConfig(SWIN, ConvNeXtConfig(4, (1,), 5), 2, 6, (4, 4, 4), 4, (6, 4, 4)), PIECES, LABELS, column="quality"
    ),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Both kinds of scorer, untrained."""
    folder, rng = tmp_path_factory.mktemp("weights"), np.random.default_rng(0)
    for name, config in NETWORKS.items():
        model = jax.jit(lambda config=config: config.network.build(rngs=Rngs(0)))()
        model = jax.tree.map(lambda x: x + 0.3 * rng.standard_normal(x.shape, np.float32), model)  # before training three branches see no video
        scorer.save(folder / f"{name}.safetensors", config, model)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three good clips, one too short for a score, one that is no video, one of 1×1 pixel."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "sub").mkdir()
    for name, frames in (("a.mp4", 12), ("b.mkv", 14), ("sub/c.mp4", 20), ("short.mp4", 5)):
        make(folder / name, frames)
    (folder / "text.mp4").write_text("no video")
    make(folder / "dot.avi", [np.full((1, 1, 3), 40 + k, np.uint8) for k in range(20)], codec="rawvideo", pix_fmt="bgr24")
    return folder


def run(clips, out, *args) -> list[dict]:
    score.main([str(clips), "--out", str(out), "--workers", "1", *map(str, args)])
    return pyarrow.parquet.read_table(out).to_pylist() if out.exists() else []


@pytest.mark.parametrize("network, column", [("video", "vtss"), ("three", "quality")])
def test_every_clip_has_a_row_and_a_failed_one_its_reason(network, column, weights, clips, tmp_path):
    args = ["--weights", weights / f"{network}.safetensors", "--metrics", "motion", "exposure"]
    rows = {row["file"].split("/")[-1]: row for row in run(clips, tmp_path / "s.parquet", *args, "--draws", "2", "--json", tmp_path / "f.json")}
    assert len(rows) == 6
    for name in ("a.mp4", "b.mkv", "c.mp4"):
        row = rows[name]
        assert row["error"] is None and np.isfinite([row[column], row[f"{column}_spread"], row["motion"]]).all()
        assert ("vtss_raw" in row) == (column == "vtss") and "quality_raw" not in row
    assert "has 5 frames, and a score needs 8" in rows["short.mp4"]["error"] and rows["short.mp4"]["brightness"] > 0
    assert "is 1×1 pixels" in rows["dot.avi"]["error"] and rows["text.mp4"]["error"] and rows["text.mp4"]["frames"] is None
    assert "clarity" not in rows["a.mp4"]
    assert json.loads((tmp_path / "f.json").read_text())["failed_now"] == 3
    again = {row["file"].split("/")[-1]: row for row in run(clips, tmp_path / "again.parquet", *args, "--draws", "2")}
    assert again == rows, "one seed, one score"
    other = run(clips / "a.mp4", tmp_path / "other.parquet", *args, "--draws", "2", "--seed", "1")
    assert other[0][f"{column}_spread"] != rows["a.mp4"][f"{column}_spread"]


def test_a_table_names_its_clips_wherever_it_lies(clips, tmp_path, monkeypatch):
    """Not as the command line did: that is relative to where the command ran."""
    monkeypatch.chdir(clips)
    for out, name in ((clips.parent / "s.parquet", f"{clips.name}/sub/c.mp4"), (tmp_path / "tables" / "s.parquet", str(clips / "sub" / "c.mp4"))):
        (row,) = run("sub", out, "--metrics", "exposure", "--no-quality")
        assert row["file"] == name and of_table(name, out) == epath.Path(clips / "sub" / "c.mp4")


def test_of_several_inputs_each_clip_is_one_row(clips, tmp_path, fails):
    given = [str(path) for path in (clips / "sub", clips / "a.mp4", clips / "sub" / "c.mp4")]
    score.main([*given, "--out", str(tmp_path / "s.parquet"), "--workers", "1", "--metrics", "exposure", "--no-quality"])
    assert [row["file"] for row in pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pylist()] == [str(clips / "sub" / "c.mp4"), str(clips / "a.mp4")]
    assert "no clips were given" in fails(score.main, ["--out", str(tmp_path / "s.parquet")])


def test_a_clip_that_was_cut_short_says_so_beside_its_figures(tmp_path, capsys):
    data = make(tmp_path / "a.mkv", [picture(k % 20) for k in range(60)]).read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) // 2])
    (row,) = run(tmp_path, tmp_path / "s.parquet", "--metrics", "exposure", "--no-quality")
    assert 2 < row["frames"] < 59 and row["brightness"] > 0 and "where 2.4 s are declared" in row["error"]
    assert f"a.mkv: {row['error']}" in capsys.readouterr().out, "and on the screen"


def test_a_log_is_told_how_far_it_is(clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "SAY_SECONDS", 0)
    run(clips / "a.mp4", tmp_path / "s.parquet", "--no-quality", "--metrics", "motion")
    assert re.search(r"^1 of 1 clips, \d+\.\d a minute$", capsys.readouterr().out, re.M)


def test_weights_that_give_no_number_leave_the_metrics(weights, clips, tmp_path):
    config, model = scorer.load(weights / "video.safetensors", mesh.build(devices=jax.devices()[:1]))
    scorer.save(tmp_path / "nan.safetensors", config, jax.tree.map(lambda x: x * np.nan, model))
    (row,) = run(clips / "a.mp4", tmp_path / "s.parquet", "--weights", tmp_path / "nan.safetensors", "--metrics", "exposure")
    assert "gives no number" in row["error"] and row["vtss_raw"] is None and row["brightness"] > 0


def test_pictures_of_several_videos_are_judged_together_and_weights_that_give_no_number_say_so():
    scoring, results = score.Scoring(score.ScoreConfig(("x",), metrics=(), quality=False)), [("a", "a", Future()), ("b", "b", Future())]
    scoring.aesthetic = lambda pictures: (np.array([1.0, 3.0, np.nan]), np.eye(len(pictures)))
    for (*_, result), number in zip(results, (2, 1)):
        result.set_result(Measured({}, None, None, np.zeros((number, 224, 224, 3), np.uint8), None))
    a, b = scoring.rows(results)
    assert (a["error"], a["aesthetic"], a["embedding"]) == (None, 2.0, [0.5, 0.5, 0.0])
    assert b["error"] == "the weights of --aesthetic give no number" and json.dumps(b, allow_nan=False)


def test_the_order_of_metrics_changes_nothing(clips, tmp_path, counted, capsys):
    rows = [run(clips / "a.mp4", tmp_path / "s.parquet", "--no-quality", "--metrics", *order) for order in (("flicker", "exposure"), ("exposure", "flicker"))]
    assert rows[0] == rows[1] and len(counted) == 1
    assert capsys.readouterr().out.count(" with an error in their row") == 1, "where nothing is scored, nothing is said of how that went"


def test_metrics_alone_need_no_weights(clips, tmp_path):
    row = run(clips / "a.mp4", tmp_path / "s.parquet", "--no-quality")[0]
    assert all(name in row for metric in Metric for name in metric.columns) and not {"vtss", "quality"} & row.keys()
    assert row["error"] is None and row["frames"] == 12 and row["fps"] == pytest.approx(25) and row["transfer"] == "sdr"


def test_the_scorer_that_comes_with_the_package_is_asked_by_default(clips, tmp_path):
    rows = {row["file"].split("/")[-1]: row for row in run(clips, tmp_path / "s.parquet", "--metrics", "motion")}
    assert "lettering" in rows["c.mp4"], "its sub-metrics are measured in any case"
    assert np.isfinite(rows["c.mp4"]["quality"]) and "vtss" not in rows["c.mp4"] and rows["c.mp4"]["error"] is None
    assert rows["short.mp4"]["quality"] is None and "has 5 frames, and a score needs 16" in rows["short.mp4"]["error"]


def test_the_card_of_the_shipped_scorer_names_open_licences_alone():
    card = json.loads(Path(scorer.PACKAGED).with_suffix(".card.json").read_text())
    open_ones = ("CC0", "CC-BY", "Apache-2.0", "MIT", "BSD", "public domain")
    assert len(card["trained on"]) > 5 and all(licence.startswith(open_ones) for licence in card["trained on"].values())
    assert not set(card["trained on"]) & set(card["judged on, never trained on"]) and "no Training Suitability Score" in card["what"]
    assert Path(scorer.PACKAGED).stat().st_size < 2**21


@pytest.mark.parametrize("kind", [Degradation.BLUR, Degradation.LETTERBOX])
def test_the_shipped_scorer_ranks_a_clip_that_was_drawn_just_now(kind):
    frames = graded(drawn(120, np.random.default_rng(99), SIZE), np.random.default_rng(99))
    config, model = scorer.load(scorer.PACKAGED, mesh.build(devices=jax.devices()[:1]))
    measured = [m for _, _, m in degradations(frames, (99,), Plan(tuple(Metric), config.fragments), (kind,))]
    labels = np.stack([config.labels.vector(m.columns) for m in measured])
    clips, images = np.stack([m.clips[0, 0] for m in measured]), np.stack([m.image for m in measured])
    scores = Predictor(model, mesh.build(devices=jax.devices()[:1]), 5)(clips, images, labels)
    assert scipy.stats.spearmanr(scores, -np.arange(5)).statistic >= 0.9


@pytest.fixture
def counted(monkeypatch):
    """Names of the clips that were decoded."""
    seen, measured = [], score.measured

    def spy(files, plan, pool):
        for name, result in measured(files, plan, pool):
            seen.append(name.split("/")[-1])
            yield name, result

    monkeypatch.setattr(score, "measured", spy)
    return seen


def test_two_shares_score_every_clip_once_also_after_one_was_killed(clips, tmp_path, counted, monkeypatch, capsys):
    args = (clips, tmp_path / "s.parquet", "--metrics", "exposure", "--no-quality")
    assert run(*args, "--share", "2/2") == [] and len(counted) == 3
    said = capsys.readouterr().out
    assert "6 clips, 0 of them done before; share 2/2 has 3 to do" in said and "share 2/2 is done; " in said
    killed = score.Scoring.rows

    def dies(self, results):
        results = list(results)
        if len(counted) == 5:
            raise KeyboardInterrupt
        return killed(self, results)

    monkeypatch.setattr(score.Scoring, "rows", dies)
    with pytest.raises(SystemExit, match="goes on from what is finished"):
        run(*args, "--share", "1/2")
    monkeypatch.setattr(score.Scoring, "rows", killed)
    rows = run(*args)
    assert len(rows) == 6 and len({row["file"] for row in rows}) == 6
    assert sorted(set(counted)) == ["a.mp4", "b.mkv", "c.mp4", "dot.avi", "short.mp4", "text.mp4"]
    assert sorted(counted[5:]) == ["c.mp4", "dot.avi", "text.mp4"], "of what was decoded before, the clip at which the host died, and the one that failed"
    assert run(*args) == rows and counted[8:] == ["text.mp4"], "and once more there is nothing else to do"


def test_a_share_is_the_same_whenever_a_host_looks(clips, tmp_path, counted):
    for share in ("2/2", "1/2"):  # the second looks when the first has done its share
        rows = run(clips, tmp_path / "s.parquet", "--metrics", "exposure", "--no-quality", "--share", share)
    assert len(rows) == len(counted) == len(set(counted)) == 6


def test_eight_devices_score_like_one(weights):
    config, model = scorer.load(weights / "three.safetensors", mesh.build())
    one_config, one = scorer.load(weights / "three.safetensors", mesh.build(devices=jax.devices()[:1]))
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (11, 4, 32, 32, 3)).astype(np.uint8), rng.integers(0, 256, (11, 32, 32, 3)).astype(np.uint8), rng.standard_normal((11, 2))
    assert config == one_config == NETWORKS["three"] and len(jax.devices()) == 8
    many = Predictor(model, mesh.build())(*inputs)
    np.testing.assert_allclose(many, Predictor(one, mesh.build(devices=jax.devices()[:1]), per_device=3)(*inputs), rtol=1e-4, atol=1e-6)
    assert len(many) == 11 and len(np.unique(many)) == 11


def test_clips_of_several_videos_fill_the_devices(weights, clips, monkeypatch):
    asked, predict = [], Predictor.__call__
    monkeypatch.setattr(Predictor, "__call__", lambda self, seen, *rest: asked.append(len(seen)) or predict(self, seen, *rest))
    scoring = score.Scoring(score.ScoreConfig((str(clips),), weights=str(weights / "three.safetensors"), metrics=(Metric.EXPOSURE,)))
    good = {name: measure(str(clips / name), scoring.plan) for name in ("a.mp4", "b.mkv", "sub/c.mp4")}
    results = [(name, name, Future()) for name in ("a.mp4", "text.mp4", "b.mkv", "sub/c.mp4")]
    for name, _, result in results:
        result.set_result(good[name]) if name in good else result.set_exception(VideoError(name, "is none"))
    rows = scoring.rows(results)
    assert asked == [6] and scoring.together == 4 and [row["error"] for row in rows] == [None, "is none", None, None]
    for row in rows:
        assert row["file"] not in good or row["raw"] == pytest.approx(scoring.raw(good[row["file"]]).item(), rel=1e-5)
    short = measure_pixels(np.zeros((2, 64, 64, 3), np.uint8), scoring.plan)
    with pytest.raises(ValueError, match="2 frames"):
        scoring.raw(good["a.mp4"], short)


def test_rows_of_other_settings_are_not_taken_for_ones_own(tmp_path):
    Journal(tmp_path / "s.parquet", {"seed": 0}).add([{"key": "a", "error": None}])
    assert Journal(tmp_path / "s.parquet", {"seed": 1}).rows() == {}
    assert list(Journal(tmp_path / "s.parquet", {"seed": 0}).rows()) == ["a"]


def test_of_a_clip_that_is_kept_again_the_newest_row_counts(tmp_path):
    journal = Journal(tmp_path / "s.parquet", {})
    for number, keys in enumerate(("abc", "a", "bd", "ab", "c")):
        journal.add([{"key": key, "number": number} for key in keys])
    assert {key: row["number"] for key, row in journal.rows().items()} == {"a": 3, "b": 3, "c": 4, "d": 2}


def test_a_clock_that_went_back_makes_no_row_old(tmp_path, monkeypatch):
    for number, now in enumerate((3, 2, 1)):
        monkeypatch.setattr(time, "time_ns", lambda: now)
        journal = Journal(tmp_path / "s.parquet", {})
        assert [row["number"] for row in journal.rows().values()] == [number - 1] * (number > 0)
        journal.add([{"key": "a", "number": number}])


def test_the_table_is_made_of_parts_and_not_of_all_rows_as_dicts(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(Journal, "rows", lambda journal: pytest.fail("all rows at once"))
    rows = run(clips, tmp_path / "s.parquet", "--metrics", "exposure", "--no-quality")
    monkeypatch.setattr(journal, "TAKEN", 2)
    parts = [[{"key": key, "file": key, "frames": number, "raw": None} for key in keys] for number, keys in enumerate(("cab", "a", "db"))]
    held = journal.newest(iter(parts), ["a", "b", "lost", "c", "a"], score.Scoring(score.ScoreConfig(("x",), quality=False)).kept)
    assert len(rows) > 1 and list(zip(held["file"].to_pylist(), held["frames"].to_pylist())) == [("a", 1), ("b", 2), ("c", 0), ("a", 1)]


def test_a_file_that_changed_is_scored_again(tmp_path, counted):
    make(tmp_path / "a.mp4", 6)
    args = (tmp_path, tmp_path / "s.parquet", "--metrics", "exposure", "--no-quality")
    assert run(*args)[0]["frames"] == 6
    make(tmp_path / "a.mp4", 9)
    assert run(*args)[0]["frames"] == 9 and len(counted) == 2


def test_a_version_that_measures_more_scores_again(clips, tmp_path, counted, monkeypatch):
    args = (clips / "a.mp4", tmp_path / "s.parquet", "--metrics", "exposure", "--no-quality")
    assert "sparkle" not in run(*args)[0]
    monkeypatch.setattr(Exposure, "columns", (*Exposure.columns, "sparkle"))
    assert "sparkle" in run(*args)[0] and len(counted) == 2


def test_what_failed_is_tried_again_and_nothing_else(tmp_path, counted, monkeypatch):
    """As a store that was busy, or a decoder that the machine ended for memory; a clip that is too short stays so."""
    for name in "ab":
        make(tmp_path / f"{name}.mp4", 6)
    args, tries = (tmp_path, tmp_path / "s.parquet", "--metrics", "exposure"), []

    def busy(self, function, source, *rest):
        tries.append(source)
        if len(tries) == 1:
            raise VideoError(source, "its decoder was ended by SIGKILL")
        return function(source, *rest)

    monkeypatch.setattr(score.DecodePool, "run", busy)
    first, short = run(*args)
    assert first["error"] == "its decoder was ended by SIGKILL" and first["frames"] is None and "has 6 frames" in short["error"]
    first, again = run(*args)
    assert first["frames"] == 6 and "has 6 frames" in first["error"] and again == short
    assert counted == ["a.mp4", "b.mp4", "a.mp4"] and run(*args) == [first, short] and len(counted) == 3


def test_a_video_may_take_as_long_as_was_said(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "DecodePool", lambda *workers, seconds: pytest.fail(f"{seconds:g} s"))
    with pytest.raises(pytest.fail.Exception, match="^77 s$"):
        run(clips / "a.mp4", tmp_path / "s.parquet", "--metrics", "exposure", "--no-quality", "--limit", "77")


def test_a_video_that_hangs_holds_up_no_other():
    """And no more wait to be scored than are allowed: their pixels lie in memory."""
    begun, goes_on = [], threading.Event()

    def run(function, source, plan):
        begun.append(source)
        return goes_on.wait(5) if source == "0" else None

    pool = score.DecodePool(2)
    pool.run = run
    coming = score.measured({str(k): epath.Path(str(k)) for k in range(20)}, None, pool)
    names = [next(coming)[0]]
    assert len(begun) <= 4
    names += [name for name, _ in itertools.islice(coming, 18)]
    goes_on.set()
    assert "0" not in names and [name for name, _ in coming] == ["0"] and len({*names}) == 19


def test_a_link_to_nowhere_costs_itself_alone_and_the_rule_that_is_advised_keeps_the_other(clips, tmp_path, capsys):
    (tmp_path / "a.mp4").symlink_to(clips / "a.mp4")
    (tmp_path / "b.mp4").symlink_to(clips / "gone.mp4")
    good, gone = run(tmp_path, tmp_path / "s.parquet", "--metrics", "exposure", "--no-quality")
    assert good["error"] is None and "No such file" in gone["error"]
    filter.main([*shlex.split(capsys.readouterr().out.rpartition("koala_jax.filter ")[2]), "--out", str(tmp_path / "kept.parquet")])
    assert "1 kept" in capsys.readouterr().out


def test_where_no_clip_can_be_read_the_status_tells_as_the_table_does(tmp_path, fails):
    (tmp_path / "text.mp4").write_text("no video")
    said = fails(score.main, [str(tmp_path), "--out", str(tmp_path / "s.parquet"), "--metrics", "exposure", "--no-quality", "--workers", "1"])
    assert f"no clip could be read: {tmp_path / 's.parquet'} says why" in said
    assert pyarrow.parquet.read_table(tmp_path / "s.parquet")["error"].to_pylist()[0]


def test_a_vtss_without_a_scale_takes_its_table_for_the_corpus(weights, clips, tmp_path):
    config = dataclasses.replace(NETWORKS["video"], scale=None)
    (tmp_path / "w.safetensors").write_bytes((weights / "video.safetensors").read_bytes())
    config.write(tmp_path / "w.safetensors")
    rows = run(clips, tmp_path / "s.parquet", "--weights", tmp_path / "w.safetensors", "--metrics", "exposure")
    raw, vtss = (np.array([row[name] for row in rows if row["vtss"] is not None]) for name in ("vtss_raw", "vtss"))
    assert len(raw) == 3
    np.testing.assert_allclose(vtss, np.clip(3.293 + 1.086 * (raw - raw.mean()) / raw.std(), 1, 5))
    one = run(clips / "a.mp4", tmp_path / "one.parquet", "--weights", tmp_path / "w.safetensors", "--metrics", "exposure")[0]
    assert one["vtss"] is None and np.isfinite(one["vtss_raw"])


def test_bad_calls_are_one_sentence(clips, weights, tmp_path, fails):
    out = ["--out", str(tmp_path / "s.parquet")]
    assert "there is no file or folder" in fails(score.main, [str(tmp_path / "nowhere"), *out])
    assert "holds no video" in fails(score.main, [str(tmp_path), *out])
    assert "must end in .parquet" in fails(score.main, [str(clips), "--out", "s.csv"])
    assert "--share 3/2: K/N is wanted, with K from 1 to N" in fails(score.main, [str(clips), *out, "--share", "3/2"])
    assert "--draws 0" in fails(score.main, [str(clips), *out, "--draws", "0"])
    assert "there is no file or folder" in fails(score.main, [str(clips), *out, "--weights", str(tmp_path / "none.safetensors")])
    (tmp_path / "none.safetensors").touch()
    assert "needs none.json beside it" in fails(score.main, [str(clips), *out, "--weights", str(tmp_path / "none.safetensors")])
    (tmp_path / "bad.json").write_text((weights / "three.json").read_text())
    (tmp_path / "bad.safetensors").write_bytes((weights / "video.safetensors").read_bytes())
    assert "missing ['dynamic_gate" in fails(score.main, [str(clips), *out, "--weights", str(tmp_path / "bad.safetensors")])


@pytest.mark.parametrize("number", [None, 0, 2, "1"])
def test_a_scorer_of_another_format_is_refused(number, weights, clips, tmp_path, fails):
    """Its labels may be of another scale, and nothing else would tell."""
    held = json.loads((weights / "three.json").read_text())
    assert held.pop("format") == json.loads(scorer.beside(scorer.PACKAGED).read_text())["format"] == scorer.FORMAT
    (tmp_path / "old.json").write_text(json.dumps(held | ({} if number is None else {"format": number})))
    (tmp_path / "old.safetensors").write_bytes((weights / "three.safetensors").read_bytes())
    said = fails(score.main, [str(clips), "--out", str(tmp_path / "s.parquet"), "--weights", str(tmp_path / "old.safetensors")])
    assert said == f"{tmp_path / 'old.json'} is of format {number}, and 1 is read: train the scorer anew, or convert it anew"
    assert not (tmp_path / "s.parquet").exists()


def test_scorers_that_see_other_fragments_are_not_judged_side_by_side(weights, clips, tmp_path, fails):
    said = fails(judge.main, [str(clips), "--weights", scorer.PACKAGED, str(weights / "three.safetensors"), "--out", str(tmp_path / "judged")])
    assert "2 scorers of 2 ways to sample a video" in said and not (tmp_path / "judged").exists()
