"""Clips of several shapes: which shape a file goes to, whose turn a batch is, and a run on videos and pictures."""
import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core_jax import mesh
from core_jax.mesh import MeshConfig
from tests.core.video_files import make, numbers
from tests.videodit import small, small_autoencoder
from videodit_jax import flow, latents, records, step, train
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import TrainConfig, named
from videodit_jax.data import folder as folders, open_sources
from videodit_jax.data.buckets import Mixed, choose, turn
from videodit_jax.data.loader import loader
from videodit_jax.data.records import write_buckets
from videodit_jax.evaluate.loss import Evaluations
from videodit_jax.flow import FlowConfig
from videodit_jax.objective import loss_fn
from videodit_jax.plan import title
from videodit_jax.run import Run, make_model
from videodit_jax.search import Of, planned

WIDE, TALL, PICTURE = (4, 12, 16), (4, 16, 12), (1, 12, 12)
SHAPES = WIDE, TALL, PICTURE
FLAGS = [*small.FLAGS, "--model.patch", "1", "4", "4", "--size", "12x16", "--buckets", "4x16x12", "1x12x12", "--model.scores", "clarity"]
sizes = st.lists(st.integers(1, 40), min_size=1, max_size=7).map(tuple)


@settings(max_examples=50)
@given(sizes=sizes)
def test_each_bucket_has_its_share_of_the_batches_at_any_time(sizes):
    """To within what the top of buckets.py says, and exactly after as many batches as there are clips."""
    K, N = len(sizes), sum(sizes)
    made = [0] * K
    for n in range(2 * N):
        k, j = turn(n, sizes)
        assert j == made[k], "batch j of a bucket comes behind its batch j − 1"
        made[k] += 1
        assert all(abs(made[i] - (n + 1) * sizes[i] / N) < 1 + sizes[i] / N * K / 2 for i in range(K))
        if n + 1 in (N, 2 * N):
            assert made == [(n + 1) // N * size for size in sizes]


@settings(max_examples=50)
@given(sizes=sizes, n=st.integers(0, 10**15))
def test_a_turn_far_on_is_that_of_the_same_place_of_the_period(sizes, n):
    N = sum(sizes)
    k, j = turn(n, sizes)
    assert (k, j - n // N * sizes[k]) == turn(n % N, sizes)


def test_buckets_of_one_size_take_turns_and_a_small_one_stands_apart():
    assert [turn(n, (5, 5, 5))[0] for n in range(9)] == [0, 1, 2] * 3
    order = [turn(n, (30, 1, 1, 1))[0] for n in range(33)]
    rare = [n for n, k in enumerate(order) if k]
    assert len(rare) == 3 and min(np.diff(rare)) >= 8


class Numbers(list):
    def __init__(self, bucket, length):
        super().__init__({"id": np.int32(i), "bucket": np.int32(bucket)} for i in range(length))


def batches(sizes, number, host=0, hosts=1, *, start=0, batch=6):
    source = Mixed({(bucket, 1, 1): Numbers(bucket, size) for bucket, size in enumerate(sizes)})
    stream = loader(source, dict, seed=3, batch=batch, rows=np.split(np.arange(batch), hosts)[host], start=start, threads=1)
    return [next(stream) for _ in range(number)]


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4), hosts=st.sampled_from([1, 2, 3]), begun=st.integers(0, 8))
def test_each_stream_visits_its_clips_once_an_epoch_on_any_number_of_hosts_and_from_any_place(sizes, hosts, begun):
    number = -(-2 * sum(sizes) // 6) + 4
    parts = [batches(sizes, number, host, hosts) for host in range(hosts)]
    whole = [jax.tree.map(lambda *rows: np.concatenate(rows), *of) for of in zip(*parts)]
    assert all(len(set(one["bucket"])) == 1 for one in whole), "a batch is of one bucket"
    for bucket, size in enumerate(sizes):
        stream = np.concatenate([[], *(one["id"] for one in whole if one["bucket"][0] == bucket)])
        for first in range(0, len(stream) - size + 1, size):
            assert sorted(stream[first : first + size]) == list(range(size))
    rest = batches(sizes, 3, start=6 * begun)
    for one, other in zip(rest, batches(sizes, begun + 3)[begun:], strict=True):
        np.testing.assert_equal(one, other)


@pytest.mark.parametrize(
    "picture, seconds, size, goes",
    [
        (False, 1, (720, 1280), (8, 12, 16)), (False, 1, (1280, 720), (8, 16, 12)), (False, 1, (1080, 1080), (8, 12, 16)),
        (False, 0.2, (720, 1280), (4, 16, 12)), (False, 0.02, (720, 1280), "its 0.02 s are shorter than 4 frames at 25 a second"),
        (True, 0, (720, 1280), (1, 12, 16)), (True, 0, (4000, 3000), (1, 8, 8)),
    ],
)  # fmt: skip
def test_a_clip_goes_to_the_nearest_shape_that_it_is_long_enough_for(picture, seconds, size, goes):
    """And of equally near ones to that of most frames: a square is as far from 12×16 as from 16×12."""
    shapes = (4, 16, 12), (8, 16, 12), (8, 12, 16), (1, 12, 16), (1, 8, 8)
    if size == (1080, 1080):
        shapes = (4, 16, 12), (8, 12, 16), (1, 12, 16)
    assert choose(shapes, picture, seconds, 25.0, size) == goes


def test_pictures_alone_go_to_shapes_of_one_frame():
    assert choose([WIDE], True, 0, 0, (9, 9)) == "a picture, and no bucket has one frame"
    assert "all buckets have one frame" in choose([PICTURE], False, 9, 9, (9, 9))


def picture(path, height, width, shade=200):
    pixels = np.full((height, width, 3), shade, np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five wide videos, three tall ones, four pictures; a video too short, a file that is no picture, and a picture of another ending."""
    root = tmp_path_factory.mktemp("mixed")
    (root / "sub").mkdir()
    for i in range(5):
        make(root / f"wide{i}.mp4", 9, size=(24, 48))
    for i in range(3):
        make(root / "sub" / f"tall{i}.mp4", 8, size=(48, 32))
    for i, end in enumerate(("jpg", "png", "webp", "JPEG")):
        picture(root / f"picture{i}.{end}", 40, 30 + i, 60 * i)
    make(root / "short.mp4", 2)
    (root / "torn.png").write_bytes(b"no picture")
    picture(root / "left_out.bmp", 8, 8)
    names = ["wide0.mp4", "wide1.mp4", "sub/tall0.mp4", "picture1.png"]
    pa.csv.write_csv(pa.table({"file": names, "caption": ["a", "b", "c", "d"], "clarity": [0.1, 0.2, 0.3, 0.4]}), root / "table.csv")
    return root


def config(data, *flags) -> TrainConfig:
    return train.parse(["--data", str(data), "--preset", "tiny", *FLAGS, *flags])


def test_videos_and_pictures_of_a_folder_fall_into_their_buckets(files):
    source, held_out = open_sources(config(files))
    assert list(source.parts) == list(held_out.parts) == list(SHAPES)
    assert [len(one) for one in source.parts.values()] == [8, 4, 3] and [len(one) for one in held_out.parts.values()] == [2, 2, 1]
    for half in (source, held_out):
        for shape, part in half.parts.items():
            for i in range(len(part)):
                assert part[i]["video"].shape == (*shape, 3)
                if shape == WIDE:
                    assert numbers(part[i]["video"]) == [*range(4 * (i % 2), 4 * (i % 2) + 4)]
    assert sorted(source.unused) == ["short.mp4", "torn.png"]
    assert len(source) == 15 and len(source.scores()["clarity"]) == 15 and 0.4 in source.scores()["clarity"]
    reasons = {pathlib.Path(path).name: reason for path, reason in source.parts[WIDE].set_aside.items()}
    assert reasons == {"short.mp4": "its 0.08 s are shorter than 4 frames at 25 a second", "torn.png": "cannot be read as an image: its format is not known"}


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """Twelve steps on three shapes; a run that goes on with it has its programs."""
    out = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        small.share_steps(patch)
        with patch.context() as inner:
            small.use(1, inner)
            train.main(args(files, out))
        yield out


def args(data, out, *flags):
    own = ["--steps", "12", "--checkpoint-every", "5", "--eval-every", "6"]
    return ["--data", str(data), "--preset", "tiny", *FLAGS, "--out", str(out), *own, *flags]


def test_a_run_trains_on_every_shape_and_says_which_step_was_of_which(run):
    rows = [row for row in small.log(run) if "loss" in row]
    assert [row["bucket"] for row in rows] == [turn(n, (8, 4, 3))[0] for n in range(12)] and {row["bucket"] for row in rows} == {0, 1, 2}
    assert rows[4]["bucket"] == 2 and ["seconds" in row for row in rows[2:4]] == [True, False], "what it takes to compile a bucket is no step's time"
    timed = {row["bucket"]: row["model_tflops"] * row["seconds"] for row in rows if "seconds" in row}
    assert timed[0] == pytest.approx(timed[1]) and timed[2] < timed[0] / 3, "FLOPs are those of the step's own shape"
    held_out = [json.loads(line) for line in (run / "held_out.jsonl").read_text().splitlines()]
    for row in held_out:
        of = [row[f"loss of {name}"] for name in ("4x12x16", "4x16x12", "1x12x12")]
        assert row["loss"] == pytest.approx(np.average(of, weights=[2, 2, 1]))
    assert (run / "samples" / "step_000012.png").exists()


def test_evaluation_is_shared_by_the_shapes_and_one_without_a_clip_to_train_on_has_no_simple_predictors(files):
    source, held_out = open_sources(config(files))
    few, on = dataclasses.replace(config(files), eval_examples=3), mesh.build(devices=jax.devices()[:1])
    without = Mixed({shape: part for shape, part in source.parts.items() if shape != PICTURE})
    evaluations = Evaluations(few, without, held_out, ScoreStatistics({"clarity": ()}), on)
    assert [one.clips for one in evaluations.each.values()] == [1, 1, 1]
    tables = list(evaluations.tables({shape: np.ones(5) for shape in SHAPES}))
    assert [[*table.columns[0].cells] for table in tables] == [["model", "constant", "linear"]] * 2 + [["model"]]
    assert "1 held-out clip of 1x12x12" in tables[2].title


def test_a_run_that_was_stopped_goes_on_bit_for_bit(files, run, tmp_path, fails, monkeypatch):
    small.use(1, monkeypatch)
    out = pathlib.Path(shutil.copytree(run, tmp_path / "run"))
    for done in ("10", "12"):
        shutil.rmtree(out / "checkpoints" / done)
    for flags in (["--buckets", "4x16x12"], ["--buckets", "1x12x12", "4x16x12"]):
        assert "holds another run: buckets was" in fails(train.main, args(files, out, *flags))
    train.main(args(files, out))
    assert small.losses(out) == small.losses(run) and small.digest(out) == small.digest(run)


def test_a_run_of_before_has_no_buckets_and_goes_on(tmp_path):
    Run(small.config(tmp_path), small.STATISTICS, "").write(tmp_path)
    held = json.loads((tmp_path / "config.json").read_text())
    del held["config"]["buckets"]
    (tmp_path / "config.json").write_text(json.dumps(held))
    assert Run.read(tmp_path).config == small.config(tmp_path) and Run.begun(tmp_path, small.config(tmp_path))


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--buckets", "16x12"], "--buckets '16x12': frames x height x width is wanted, for example 81x480x832"),
        (["--buckets", "0x12x12"], "--buckets '0x12x12': frames x height x width is wanted"),
        (["--buckets", "4x12x18"], "--buckets 4x12x18: a video of 4 frames, 12×18 cannot be cut into patches of 1 frame, 4×4"),
        (["--data", "shapes"], "--buckets 4x16x12: --data shapes draws clips of one shape"),
        (["--autoencoder", "wan2.1", "--model.channels", "16", "--model.patch", "1", "1", "1", "--frames", "5", "--size", "16x16", "--buckets", "4x16x16"],
         "--buckets 4x16x16: a video of 4 frames, 16×16 has no latents of 16 channels: 4n + 1 frames"),
        (["--batch", "3"], "dim B has size 3, which mesh axes"),
        (["--size", "8x64"], "--frames 4 --size 8x64, which samples have: --data"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(flags, says, files, tmp_path, fails):
    said = fails(train.main, args(files, tmp_path / "run", *flags))
    assert says in " ".join(said.replace("│", "").split())


def test_a_mesh_that_does_not_divide_the_tokens_of_a_bucket_is_refused(files, monkeypatch):
    made = dataclasses.replace(config(files), buckets=("1x12x12",), mesh=MeshConfig(data=2, context=4))
    with pytest.raises(ValueError, match="--buckets 1x12x12: .*9"):
        step.refuse_misfit(made, mesh.build(made.mesh))


def test_a_bucket_that_no_clip_falls_into_is_said(files, tmp_path, capsys, monkeypatch):
    small.use(1, monkeypatch)
    monkeypatch.setattr(step, "make", lambda config: pytest.fail("it is said before a step is made", pytrace=False))
    with pytest.raises(pytest.fail.Exception):
        train.main(args(files, tmp_path / "run", "--buckets", "4x16x12", "4x8x64"))
    said = capsys.readouterr().out
    assert "4x8x64" in said and "none" in next(line for line in said.splitlines() if "4x8x64" in line)


def test_without_buckets_pictures_are_no_data(files, monkeypatch):
    flat = dataclasses.replace(config(files), buckets=())
    monkeypatch.setattr(folders, "only_table", lambda folder: None)
    source, held_out = open_sources(flat)
    assert len(source) == 14 and {video.file[-4:] for half in (source, held_out) for video in half.videos} == {".mp4"}
    assert source.unused == ("short.mp4",)
    table = dataclasses.replace(flat, data=str(files / "table.csv"))
    assert open_sources(table)[0].set_aside == {str(files / "picture1.png"): "a picture, which only --buckets can hold"}
    assert len(open_sources(dataclasses.replace(table, buckets=config(files).buckets))[0].parts[PICTURE]) == 1


def test_more_tokens_need_more_noise():
    """By (5) of flow.py shifts multiply, and the run's own shape has the run's."""
    one = FlowConfig(shift=3.0)
    assert one.of_tokens(1.0) == one and one.of_tokens(4.0).shift == 6.0
    t = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(flow._shift(flow._shift(t, 3.0), 2.0), flow._shift(t, 6.0))


def test_of_a_picture_no_frame_is_given(tmp_path):
    """It would be all of it, and of frames in place no loss would count."""
    made = train.parse(["--preset", "tiny", *FLAGS, "--data", "x", "--model.given", "--model.in-place", "--given-part", "1"])
    batch = jax.tree.map(lambda x: np.zeros((2, *x.shape[1:]), x.dtype), step.inputs(made.at(PICTURE), mesh.build(devices=jax.devices()[:1]))[1])
    assert np.isfinite(jax.jit(lambda: loss_fn(made)(make_model(made), batch, jax.random.key(0))[0])())


BUCKETS = ["--buckets", "4x12x16", "4x16x12", "1x12x12"]


def test_records_of_the_same_buckets_hold_the_same_clips(files, tmp_path, fails, capsys):
    """Of each video the first."""
    records.main(["--data", str(files), "--out", str(tmp_path / "set"), *BUCKETS])
    assert "--frames 4 --size 12x16 --buckets 4x12x16 4x16x12 1x12x12" in capsys.readouterr().out
    ours, theirs = open_sources(config(tmp_path / "set", *BUCKETS)), open_sources(config(files))
    for half, other in zip(ours, theirs):
        assert {shape: len(part) for shape, part in half.parts.items()} == {shape: len(part.videos) for shape, part in other.parts.items()}
        for shape, part in half.parts.items():
            first = [n for n in range(len(other.parts[shape])) if other.parts[shape].place(n)[1] == 0]
            for i, n in enumerate(first):
                np.testing.assert_array_equal(part[i]["video"], other.parts[shape][n]["video"])
    assert "holds clips of several shapes, 1x12x12, 4x12x16, 4x16x12: name them by" in fails(open_sources, dataclasses.replace(config(tmp_path / "set"), buckets=()))
    records.main(["--data", str(files / "table.csv"), "--out", str(tmp_path / "flat")])
    assert "holds clips of one shape; with --buckets" in fails(open_sources, config(tmp_path / "flat"))


def test_latents_of_the_same_buckets_are_a_source_for_each(files, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])  # clips go one by one
    small_autoencoder.write(tmp_path / "vae")
    shapes = ["--frames", "5", "--size", "16x32", "--buckets", "5x32x16", "1x16x16", "5x16x160"]
    latents.main(["--data", str(files), "--autoencoder", str(tmp_path / "vae"), "--out", str(tmp_path / "set"), *shapes])
    assert "no clip to train on has the shape 5x16x160" in caplog.text
    on_latents = ["--autoencoder", str(tmp_path / "vae"), "--model.channels", "16", "--model.patch", "1", "1", "1", "--model.no-wiener", *shapes]
    source, held_out = open_sources(config(tmp_path / "set", *on_latents))
    assert {shape: source.parts[shape][0]["video"].shape for shape in source.parts} == {
        (5, 16, 32): (2, 2, 4, 16), (5, 32, 16): (2, 4, 2, 16), (1, 16, 16): (1, 2, 2, 16),
    }  # fmt: skip
    assert [len(part) for part in source.parts.values()] == [4, 2, 3] and [len(part) for part in held_out.parts.values()] == [1, 1, 1]
    batches = loader(source, lambda example: {"video": example["video"]}, seed=0, batch=2)
    assert {next(batches)["video"].shape[1:4] for _ in range(9)} == {(2, 2, 4), (2, 4, 2), (1, 2, 2)}


def test_parts_of_hosts_are_one_dataset_of_each_bucket(tmp_path):
    """As `latents` lays them: a folder of a host, and in it one of each shape that it has."""
    row = lambda shape: {"video": np.zeros((*shape, 3), np.uint8), "caption": "", "scores": {}, "id": "a"}
    for host, shapes in enumerate([SHAPES, SHAPES[:1]]):
        write_buckets(tmp_path / f"host_{host:04}_of_0002", {named(shape): {"train": [row(shape)] * 2, "validation": [row(shape)]} for shape in shapes})
    source, held_out = open_sources(config(tmp_path))
    assert [len(part) for part in source.parts.values()] == [4, 2, 2] and [len(part) for part in held_out.parts.values()] == [2, 1, 1]


def test_a_plan_is_of_the_bucket_with_most_tokens():
    made = config("x", "--buckets", "4x16x12", "8x16x16", "1x12x12")
    assert planned(made, Of.TRAIN) == made.at((8, 16, 16)) and planned(made, Of.SAMPLE) == made.at(WIDE)
    assert "128 tokens a clip of 8x16x16, the most of 4 buckets, " in title(made, Of.TRAIN) and "48 tokens a clip, sampled" in title(made, Of.SAMPLE)


def test_hosts_of_which_one_lacks_a_file_all_say_so(files, monkeypatch):
    """What they compare holds which file has which shape."""
    told = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("videodit_jax.data.probe.exchanged", lambda path, mine: [mine])
    monkeypatch.setattr("videodit_jax.data.hosts.gathered", lambda value: told.append(value) or [value, value | {"digest": "another"}])
    with pytest.raises(ValueError, match="host 0 sees 15 clips to train on and 5 held out, host 1 the same numbers of other clips"):
        open_sources(config(files))
