"""Labels, degradations and samples of the trainer; then the trainer itself, tiny."""
import dataclasses
import functools
import itertools
import json
import threading

import jax
import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from core_jax import mesh
from core_jax.rngs import Rngs
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from core_jax.weights import named
from koala_jax.metrics.measure import Plan
from koala_jax.shots import inputs
from koala_jax.tsa import evaluate, judge, prepare, scorer, train
from koala_jax.tsa import segments as segments_module
from koala_jax.tsa.config import TrainConfig
from koala_jax.tsa.convnext import ConvNeXtConfig
from koala_jax.tsa.first import NOISE, SHIFT
from koala_jax.tsa.fragments import FragmentConfig
from koala_jax.tsa.labels import LabelTable
from koala_jax.tsa.model import SuitabilityConfig
from koala_jax.tsa.networks import Network
from koala_jax.tsa.samples import Samples, batches, joined
from koala_jax.tsa.scorer import Labels, ScorerConfig
from koala_jax.tsa.swin import SwinConfig
from koala_jax.tsa.train import global_batches, main, started
from tests.core.video_files import make
from tests.koala.moving import moving_clip

@given(st.integers(0, 2**30), st.integers(2, 5))
def test_raters_who_differ_in_mean_and_spread_agree_without_it(seed, raters):
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(20)
    bent = np.stack([truth * scale + offset for scale, offset in rng.uniform([0.2, -3], [3, 3], (raters, 2))], 1)
    scores = LabelTable(tuple("abcdefghijklmnopqrst"), tuple("12345"[:raters]), bent).scores()
    assert np.corrcoef(scores, truth)[0, 1] == pytest.approx(1, abs=1e-9)
    assert scores.mean() == pytest.approx(bent.mean()) and scores.std() == pytest.approx(bent.std())


def test_a_rater_who_missed_clips_or_says_always_the_same(tmp_path):
    (tmp_path / "labels.csv").write_text("file,ann,ben,flat\na.mp4,1,,3\nb.mp4,2,4,3\nc.mp4,3,5,3\n")
    table = LabelTable.read(tmp_path / "labels.csv")
    assert table.raters == ("ann", "ben", "flat") and np.isnan(table.ratings[0, 1])
    scores = table.scores()
    assert (np.diff(scores) > 0).all() and np.isfinite(scores).all()
    known = table.ratings[np.isfinite(table.ratings)]
    z = np.array([[-1, np.nan], [0, -1], [1, 1]]) * [[np.sqrt(1.5), 1]]
    np.testing.assert_allclose(scores, known.mean() + known.std() * np.nanmean(z, 1), err_msg="as if the third had not been there")
    both = np.array([[0.1, 1], [0.1, 3], [0.1, np.nan]])
    assert 0 < np.std(both[:, 0]) < 1e-15, "it rounds"
    np.testing.assert_allclose(LabelTable(tuple("abc"), ("flat", "ann"), both).scores()[2], np.nanmean(both), err_msg="seen by no other")
    one = LabelTable.read(tmp_path / "labels.csv", ("ann",))
    assert one.scores().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "text, columns, sentence",
    [
        ("file,a\nx,1\n", ("b",), "has no column b; its columns are file, a"),
        ("name,a\nx,1\n", (), "no column `file`"),
        ("file\nx\n", (), "no column of labels"),
        ("file,a\nx,inf\ny,2\n", (), "column a, row 1: inf is not a number"),
        ("file,a,note\nx,1,good\ny,2,\n", (), "column note, row 1: 'good' is not a number; --columns names the raters' columns"),
        ("file,a,b\nx,1,2\ny,,\n", (), "gives 1 clip no label, the first y"),
        ("file,a\n1,1\n1.0,2\n1,2\n", (), "names 1 twice"),
        ("file,a\nx,1\n,2\n", (), "names no file in row 2"),
    ],
)
def test_bad_labels_are_one_sentence(text, columns, sentence, tmp_path):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError) as caught:
        LabelTable.read(tmp_path / "labels.csv", columns)
    assert sentence in str(caught.value)


def test_labels_make_equal_steps_of_equal_ratios():
    x = np.array([[0.1, 0.5], [1, 0.5], [10, np.nan], [100, 0.5]])
    labels = Labels.of(("motion", "clarity"), x)
    vectors = labels.vectors(x)
    z = 2 * np.sinh(vectors / 2)
    assert labels.unbounded == ("motion",) and z[:, 0].mean() == pytest.approx(0, abs=1e-9) and z[:, 0].std() == pytest.approx(1)
    assert np.ptp(np.diff(z[:, 0])[1:]) < 0.1 and not z[:, 1].any()
    np.testing.assert_allclose(labels.vector({"clarity": None, "motion": 10.0}), vectors[2])
    far = labels.vectors(np.array([[10.0**n, 0.5] for n in (2, 4, 8, 16)]))[:, 0]
    assert (np.diff(far) > 0).all() and far[-1] < 8, "each step more counts less, and none as nothing"
    shares = Labels(("a",), (), (0.02,), (0.0,), (1.0,)).vectors(np.array([[0.0], [0.1], [0.5], [0.9], [1.0], [np.nan]]))[:, 0]
    np.testing.assert_allclose(shares[:5], -shares[4::-1], atol=1e-9)
    assert (np.diff(shares[:5]) > 0).all() and shares[0] > -4 and shares[5] == 0


def test_segments_lie_over_the_video_and_a_network_of_long_clips_gets_long_ones(tmp_path):
    videos(tmp_path, 1)
    plan = Plan((), FragmentConfig(8, 1, 1, 2, 16))
    with DecodePool(1) as pool:
        first, second = segments_module.segments("a", str(tmp_path / "0.mp4"), 2, plan, pool)
        assert first.start == 0 and second.start == pytest.approx((160 - 120) / 30) and first.picture == segments_module.SIZE
        with pytest.raises(VideoError, match="is shorter than 192 frames"):
            segments_module.segments("a", str(tmp_path / "0.mp4"), 2, Plan((), FragmentConfig()), pool)


def tiny_samples(groups: int = 6, levels: int = 5) -> Samples:
    """Squares whose brightness is the target: learnt in a few steps."""
    rng = np.random.default_rng(0)
    n = groups * levels
    targets = -np.tile(np.arange(levels), groups).astype(np.float32)
    grey = (220 + 40 * targets[:, None] + rng.integers(-5, 5, (n, 1))).astype(np.uint8)
    clips = np.broadcast_to(grey[:, :, None, None, None, None], (n, 1, 4, 32, 32, 3)).copy()
    images = np.broadcast_to(grey[:, :, None, None], (n, 32, 32, 3)).copy()
    columns = np.stack([rng.standard_normal(n), targets], 1).astype(np.float32)
    sources = tuple(f"video{i // (2 * levels)}" for i in range(n))
    return Samples(clips, images, columns, targets, np.repeat(np.arange(groups), levels), ("bits_per_pixel", "clarity"), sources, ("blur",) * n)


def test_batches_hold_whole_groups_and_follow_from_the_step():
    samples = tiny_samples()
    stream = batches(samples, 10, seed=0)
    first, second = next(stream), next(stream)
    assert sorted(np.unique(samples.groups[first], return_counts=True)[1]) == [5, 5]
    np.testing.assert_array_equal(next(batches(samples, 10, seed=0, start=1)), second)


def test_all_levels_of_a_degradation_are_seen_through_one_piece_and_mirrored_alike():
    few = tiny_samples()
    ramp = np.arange(32, dtype=np.uint8)[None, None, None, None, :, None] + 50 * np.arange(4, dtype=np.uint8)[None, :, None, None, None, None]
    samples = dataclasses.replace(few, clips=np.broadcast_to(ramp, (len(few), 4, 4, 32, 32, 3)))
    labels, seen, means = np.zeros((len(few), 2), np.float32), set(), []
    stream = global_batches(TrainConfig(clips="a", batch=20), samples, labels, mesh.build(devices=jax.devices()[:1]), 0)
    for batch in itertools.islice(stream, 8):
        groups, ends = np.asarray(batch["groups"]), np.asarray(batch["clips"])[:, 0, 0, [0, -1], 0]
        for group in np.unique(groups):
            rows = groups == group
            assert len(np.unique(ends[rows], axis=0)) == 1 and np.asarray(batch["labels"])[rows].std(0).max() < 3 * NOISE
            seen.add(tuple(ends[rows][0].tolist()))
            means.append(np.asarray(batch["labels"])[rows].mean(0))
    assert np.std(means) > SHIFT / 2, "another shift for another group"
    assert len(seen) > 4, "pieces and mirrors do vary"


def test_a_scorer_that_gives_no_number_has_no_figures():
    samples = tiny_samples()
    assert (evaluate.predict(lambda clips, images, labels: np.arange(len(clips)), samples, None) == np.arange(len(samples))).all()
    with pytest.raises(ValueError, match="no number for 1 of 30 samples"):
        evaluate.predict(lambda clips, images, labels: np.where(np.arange(len(clips)) == 3, np.nan, 1.0), samples, None)


def test_joined_samples_keep_their_groups_apart():
    samples = tiny_samples()
    both = joined([samples, samples.take(np.arange(10)), samples])
    assert len(both) == 70 and len(np.unique(both.groups)) == 14
    assert all(len(set(np.array(both.sources)[both.groups == g])) == 1 for g in range(14))


def test_samples_are_held_out_by_video_and_kept_on_disk(tmp_path):
    samples = tiny_samples()
    fit, judge = samples.split(0.3, seed=0)
    assert len(fit) + len(judge) == len(samples) and not set(fit.sources) & set(judge.sources) and len(set(judge.sources)) == 1
    samples.save(tmp_path / "s.npz")
    again = Samples.load(tmp_path / "s.npz")
    assert again.sources == samples.sources and (again.clips == samples.clips).all()
    with pytest.raises(ValueError, match="two videos or more"):
        samples.take(np.arange(5)).split(0.2, 0)
    names = [inputs.Source(path, 0, 0).name for path in ("a.mp4", "b.mp4")]
    cut = dataclasses.replace(samples, sources=tuple(f"clips/{names[i % 2]}/{i:04d}.mp4" for i in range(len(samples))))
    fit, judge = cut.split(0.2, seed=0)
    assert {source.split("/")[1] for source in judge.sources}.isdisjoint(source.split("/")[1] for source in fit.sources), "clips of one video"


def test_as_many_videos_are_measured_at_a_time_as_there_are_workers(tmp_path):
    together = threading.Barrier(2, timeout=5)

    def task():
        together.wait()
        return tiny_samples(1)

    maker = prepare.Maker(epath.Path(tmp_path), Plan((), FragmentConfig()), (), DecodePool(2), print)
    assert [len(part) for part in maker.each("videos", [task, task])] == [5, 5]


def test_samples_that_other_code_made_are_made_again(tmp_path, monkeypatch):
    """Else a scorer were trained, or judged, on degradations as another version draws them."""
    maker, made = prepare.Maker(epath.Path(tmp_path), Plan((), FragmentConfig()), (), None, print), []
    make = lambda: made.append(0) or tiny_samples(1)  # noqa: E731
    for _ in range(2):
        assert len(maker.kept({"video": "a.mp4"}, make)) == 5
    assert len(made) == 1
    for left in (0, 999):
        (path,) = tmp_path.rglob("*.npz")
        path.write_bytes(path.read_bytes()[:left])  # as a host leaves it that goes down
        assert len(maker.kept({"video": "a.mp4"}, make)) == 5
    (code := tmp_path / "code.py").write_text("as another version writes it")
    monkeypatch.setattr(prepare, "CODE", [code])
    assert len(made) == 3 and len(maker.kept({"video": "a.mp4"}, make)) == 5 and len(made) == 4


def videos(folder, number: int) -> None:
    """Drifting textures, long enough for a segment."""
    folder.mkdir(exist_ok=True)
    clip = moving_clip(160)
    for i in range(number):
        make(folder / f"{i}.mp4", list(np.roll(clip, 17 * i, 2)), fps=30, preset="ultrafast")


NETWORK = ScorerConfig(SuitabilityConfig(SwinConfig(6, (1,), (1,)), ConvNeXtConfig(4, (1,), 5), 2, 6, (4, 4, 4), 4, (6, 4, 4)), FragmentConfig(4, 2, 2, 2, 16))


def test_training_starts_from_towers_that_fit_and_names_what_does_not(tmp_path):
    model = jax.jit(lambda: NETWORK.network.build(rngs=Rngs(0)))()
    towers = {name: np.asarray(x) + 1 for name, x in named(model).items() if name.startswith("dynamic.")}
    save_file(towers, tmp_path / "start.safetensors")
    for name, x in named(started(model, (str(tmp_path / "start.safetensors"),))).items():
        np.testing.assert_array_equal(x, towers.get(name, named(model)[name]))
    name = next(iter(towers))
    for table, said in (({f"{name}x": towers[name]}, f"holds {name}x, which this network has not"), ({name: np.zeros(1)}, f"{name} has shape")):
        save_file(table, tmp_path / "bad.safetensors")
        with pytest.raises(ValueError, match=said):
            started(model, (str(tmp_path / "bad.safetensors"),))
    (tmp_path / "bad.safetensors").write_text("none")
    with pytest.raises(ValueError, match="bad.safetensors cannot be read as safetensors"):
        started(model, (str(tmp_path / "bad.safetensors"),))


@pytest.fixture
def tiny(monkeypatch):
    """The smallest network on one device, over the smallest clips, which this process decodes."""
    monkeypatch.setattr(mesh, "build", functools.partial(mesh.build, devices=jax.devices()[:1]))
    with_labels = lambda self, labels: dataclasses.replace(NETWORK, network=dataclasses.replace(NETWORK.network, labels=labels))  # noqa: E731
    monkeypatch.setattr(Network, "config", with_labels)
    monkeypatch.setattr(segments_module, "SIZE", (36, 64))
    monkeypatch.setattr(DecodePool, "run", lambda self, function, source, *args: function(source, *args))


def test_a_scorer_learns_pairs_that_it_makes_itself_and_goes_on(tiny, tmp_path, monkeypatch, capsys):
    videos(tmp_path / "clips", 2)
    (tmp_path / "clips" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    videos(tmp_path / "judge", 1)
    (tmp_path / "judge" / "0.mp4").rename(tmp_path / "judge" / "2.mp4")
    args = ["--clips", str(tmp_path / "clips"), "--out", str(tmp_path / "run"), "--kinds", "exposure", "freeze", "--batch", "16"]
    args += ["--judge", str(tmp_path / "judge"), "--warmup", "2", "--learning-rate", "3e-3", "--workers", "1", "--report.no-tensorboard"]
    (tmp_path / "manifest.csv").write_text("file,license\n1.mp4,CC0\n")
    args += ["--drawn", "1", "--segments", "1", "--label-steps", "3", "--half", "--manifest", str(tmp_path / "manifest.csv")]
    main([*args, "--steps", "8", "--checkpoint-every", "4"])
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert set(figures) == {"exposure", "freeze", "all"} and set(figures["all"]) == {"scorer", "clarity", "bits a pixel", "mean of sub-metrics"}
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 8 and np.isfinite(losses).all()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "samples").iterdir()}
    monkeypatch.chdir(tmp_path)
    args = [arg.removeprefix(f"{tmp_path}/") for arg in args]
    main([*args, "--steps", "8"])  # nothing is left to do but to evaluate, from wherever
    with pytest.raises(ValueError, match="holds another run: seed was 0, now 1"):
        main([*args, "--steps", "8", "--seed", "1"])
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "samples").iterdir()}
    config = ScorerConfig.read(tmp_path / "run" / "scorer.safetensors")
    assert {x.dtype.name for x in load_file(tmp_path / "run" / "scorer.safetensors").values()} == {"float16"}
    assert config.column == "quality" and config.scale is None and "bits_per_pixel" not in config.labels.names
    card = json.loads((tmp_path / "run" / "scorer.card.json").read_text())
    assert card["drawn procedurally"] == 1 and card["SRCC within a clip across levels"] == figures
    assert set(card["trained on"]) == {"0.mp4", "1.mp4"} and set(card["judged on, never trained on"]) == {"2.mp4"}
    assert card["trained on"]["1.mp4"] == "CC0"
    (tmp_path / "copy" / "run").mkdir(parents=True)
    for name in ("scorer.safetensors", "scorer.json"):
        (tmp_path / "copy" / "run" / name).write_bytes((tmp_path / "run" / name).read_bytes())
    (tmp_path / "copy" / "run" / "scorer.card.json").write_text('{"trained on": {"a/2.mp4": ""}}')
    call = [str(tmp_path / "judge"), "--out", str(tmp_path / "again"), "--kinds", "exposure", "freeze", "--json", str(tmp_path / "figures.json")]
    meshes, predictor = [], judge.Predictor
    monkeypatch.setattr(judge, "Predictor", lambda model, on, **options: meshes.append(on.size) or predictor(model, on, **options))
    monkeypatch.setattr(jax, "local_devices", lambda **_: jax.devices()[:4])  # as one of two hosts has
    judge.main([*call, "--weights", "run/scorer.safetensors", "copy/run/scorer.safetensors"])
    assert meshes == [4, 4]
    flattered = [line for line in capsys.readouterr().out.splitlines() if "flatters" in line]
    assert flattered == ["copy/run/scorer.safetensors was trained on 1 video of these (2.mp4), which flatters it"], "the other's card names others"
    again = json.loads((tmp_path / "figures.json").read_text())
    assert again.pop("videos") == 1 and again.pop("weights") == {name: name for name in ("run/scorer.safetensors", "copy/run/scorer.safetensors")}
    for row in (*again.values(), *figures.values()):
        row.pop("bits a pixel")  # x264 may code the same frames otherwise
    own = [row.pop("run/scorer.safetensors") for row in again.values()], [row.pop("scorer") for row in figures.values()]
    assert own[0] == [row.pop("copy/run/scorer.safetensors") for row in again.values()], "two that end alike"
    assert again == figures and own[0] == pytest.approx(own[1], abs=0.11), "the trainer's figures, of weights in half precision"


def test_judge_advises_the_best_scorer():
    figures, weights = {"all": {"ours": 0.9, "b": 0.5, "c": float("nan")}}, {"ours": scorer.PACKAGED, "b": "b.safetensors", "c": "c.safetensors"}
    command = "python -m koala_jax.score CLIPS --out scores.parquet"
    assert judge.following(figures, weights) == command, "which it takes by default"
    assert judge.following(figures, {name: weights[name] for name in "cb"}) == f"{command} --weights b.safetensors"


def test_labels_of_people_make_a_vtss(tiny, tmp_path, monkeypatch, capsys):
    videos(tmp_path, 5)
    (tmp_path / "4.mp4").write_text("no video")
    rated = lambda most: "file,ann,ben\n" + "".join(f"{i}.mp4,{i + 1},{most - i % 2}\n" for i in range(5))  # noqa: E731
    (tmp_path / "labels.csv").write_text(rated(3))
    args = ["--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "run"), "--steps", "2", "--batch", "8", "--workers", "1"]
    args += ["--report.no-tensorboard", "--held-out", "0.5"]
    evaluated, predictor, ended, run = [], train.Predictor, [], train.loop.run
    monkeypatch.setattr(train.loop, "run", lambda *args, **more: ended.append(run(*args, **more)) or ended[-1])
    monkeypatch.setattr(train, "Predictor", lambda model, on, **options: evaluated.append(model) or predictor(model, on, **options))
    whole, seen = prepare.whole, []

    def stops(name, *rest, **more):
        seen.append(name)
        if name == "2.mp4" and len(seen) == 3:
            raise KeyboardInterrupt
        return whole(name, *rest, **more)

    monkeypatch.setattr(prepare, "whole", stops)
    with pytest.raises(KeyboardInterrupt):
        main(args)
    (tmp_path / "labels.csv").write_text(rated(5))
    (tmp_path / "bad.safetensors").write_text("none")
    with pytest.raises(ValueError, match="bad.safetensors cannot be read"):
        main([*args, "--start", str(tmp_path / "bad.safetensors")])
    assert not (tmp_path / "run" / "config.json").exists(), "what did not begin binds nobody"
    main(args)
    assert [seen.count(name) for name in ("0.mp4", "1.mp4", "2.mp4")] == [1, 1, 2], "what was measured is kept, whatever its label"
    assert "left out: " in (said := capsys.readouterr().out) and "5 of 5 labelled videos, 4 samples" in said and "1 of 5 labelled videos, 1 sample\n" in said
    config = ScorerConfig.read(tmp_path / "run" / "scorer.safetensors")
    assert config.column == "vtss" and config.scale is not None
    ((state, _),) = ended
    average, last = (named(jax.device_get(model)) for model in (state.ema, state.model))
    assert any((average[name] != value).any() for name, value in last.items())
    for model in (*evaluated, scorer.load(tmp_path / "run" / "scorer.safetensors", mesh.build())[1]):
        assert all(np.array_equal(value, average[name]) for name, value in named(jax.device_get(model)).items()), "not the weights of the last step"
    assert set(json.loads((tmp_path / "run" / "evaluation.json").read_text())["scorer"]) == {"PLCC", "SRCC", "KRCC", "RMSE"}
    (tmp_path / "labels.csv").write_text(rated(4))
    with pytest.raises(ValueError, match="holds another run: (trained|judged) on was '2 samples of 2 videos, sha256 .*', now '2 samples"):
        main(args)


def test_bad_calls_are_one_sentence(tmp_path, fails, monkeypatch):
    assert "give either --clips" in fails(main, [])
    for command, given_clips in ((main, ["--clips", "x"]), (judge.main, ["x"])):
        assert "--kinds: at least one is needed of compression, " in fails(command, [*given_clips, "--kinds"])
    clips = ["--clips", str(tmp_path / "measured-for-hours"), "--out", str(tmp_path / "new")]
    for flag in ("--judge", "--start"):
        assert "there is no file or folder nowhere" in fails(main, [*clips, flag, "nowhere"])
    (tmp_path / "labels.csv").write_text("file,a\nx.mp4,1\ny.mp4,2\n")
    labels = ["--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path / "run")]
    assert "names 2 clips without a file, the first x.mp4" in fails(main, labels)
    assert "has no column b;" in fails(main, [*labels, "--columns", "b"])
    assert "--loss pairs wants ranks" in fails(main, [*labels, "--loss", "pairs"])
    assert "--batch 1: at least 2 is needed" in fails(main, [*labels, "--batch", "1"])
    assert "--held-out 1: a share between 0 and 1 is wanted" in fails(main, [*labels, "--held-out", "1"])
    assert "--learning-rate nan: a number from 0 on is wanted" in fails(main, [*labels, "--learning-rate", "nan"])
    assert "for [ in a path means a pattern" in fails(main, [*labels, "--out", str(tmp_path / "[3]")]) and not (tmp_path / "[3]").exists()
    assert "--ema 1.5: a number from 0 to 1 is wanted" in fails(main, [*labels, "--ema", "1.5"])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert "a scorer is trained on one host, and this job has 2" in fails(main, labels)
