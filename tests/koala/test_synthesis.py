"""Spliced videos: labels that are exact, joins that go from one shot to the other, disturbances that stay within theirs."""
import dataclasses

import numpy as np
import pytest

from core_jax.video import VideoError
from koala_jax.transitions import Type, labelled
from koala_jax.transitions.network import CLASSES
from koala_jax.transitions.sources import sources
from koala_jax.transitions.synthesis import disturbances, shots
from koala_jax.transitions.synthesis.joins import Join
from koala_jax.transitions.synthesis.corpus import corpus
from koala_jax.transitions.synthesis.splice import Splice, _jump, splice
from tests.core.video_files import make

SMALL = (10, 36, 64, 3)


@pytest.mark.parametrize("join", Join)
@pytest.mark.parametrize("seed", range(4))
def test_a_join_goes_from_one_shot_to_the_other(join, seed):
    a, b = np.full(SMALL, 40, np.uint8), np.full(SMALL, 200, np.uint8)
    mixed = join.function(a, b, np.random.default_rng(seed))
    assert mixed.shape == SMALL and mixed.dtype == np.uint8
    level = mixed.mean((1, 2, 3))
    assert abs(level[0] - 40) < abs(level[0] - 200) or join is Join.FADE
    assert abs(level[-1] - 200) < abs(level[-1] - 40) or join is Join.FADE
    if join is not Join.FADE:
        assert (np.diff(level) > -2).all() and np.ptp(level) > 60


@pytest.mark.parametrize("disturb", dict.fromkeys(disturbances.ALL))
def test_a_disturbance_leaves_frames_of_the_same_size(disturb):
    shot = shots.drawn(50, np.random.default_rng(0))
    out = disturb(np.array(shot), 15, np.random.default_rng(1))
    assert out.dtype == np.uint8 and out.shape[1:] == shot.shape[1:] and len(out) >= 20
    assert len(out) != len(shot) or not np.array_equal(out, shot)


def test_labels_say_what_was_joined_and_a_seed_gives_the_same_again(monkeypatch):
    monkeypatch.setattr("koala_jax.transitions.synthesis.splice.encoded", lambda frames, rng: frames)
    one, two = (splice([], np.random.default_rng(3), shots=5) for _ in range(2))
    assert np.array_equal(one.thumbs, two.thumbs) and np.array_equal(one.labels, two.labels)
    assert len(one.thumbs) == len(one.labels) + 1
    cuts = np.flatnonzero(one.labels == CLASSES.index(Type.CUT))
    change = np.abs(np.diff(one.thumbs.astype(int), axis=0)).mean((1, 2, 3))
    assert (change[cuts] > 5 * np.median(change[one.labels == 0])).all()


def test_shots_of_a_scene_are_of_one_source_in_one_light():
    sources = [shots.Source(str(grey), np.full((9, 120, 200, 3), grey, np.uint8)) for grey in (60, 120, 180)]
    colours = lambda scene: {tuple(shots.draw(sources, 9, np.random.default_rng(seed), scene).mean((0, 1, 2)).astype(int)) for seed in range(6)}  # noqa: E731
    assert all(len(colours(scene)) == 1 for scene in (1, 4))  # these two are not drawn ones
    assert colours(1) != colours(4)


def test_a_jump_is_one_only_where_it_can_be_seen():
    still = np.random.default_rng(0).integers(0, 256, (1, 96, 160, 3), np.uint8).repeat(80, 0)
    moved = still.copy()
    moved[40:, 20:60, 20:60] //= 4
    rng = np.random.default_rng(1)
    assert all(_jump(still, rng)[1] is None for _ in range(20))
    parts = [_jump(moved, rng) for _ in range(20)]
    seen = [(len(keep), len(after)) for keep, after in parts if after is not None]
    assert seen and all(keep <= 40 and after <= 40 for keep, after in seen)


def test_a_corpus_is_kept_apart_by_its_sources_and_by_what_made_it(tmp_path, monkeypatch):
    """Else weights were trained on a clip that --exclude left out, or on what another version had spliced."""
    made = []
    monkeypatch.setattr("koala_jax.transitions.synthesis.corpus.splice", lambda sources, rng: made.append(len(sources)) or Splice(*SPLICE))
    clip = shots.Source("a.mp4", np.zeros((2, 4, 4, 3), np.uint8))
    for sources in ([], [clip], [], [clip], [dataclasses.replace(clip, frames=clip.frames + 1)]):
        (one,) = corpus(tmp_path, sources, 1, 0)
        assert np.array_equal(one.thumbs, SPLICE[0]) and np.array_equal(one.labels, SPLICE[1])
    assert made == [0, 1, 1]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])  # as a host leaves it that goes down
    assert [len(one.thumbs) for one in corpus(tmp_path, [], 1, 0)] == [3] and made == [0, 1, 1, 0]
    (code := tmp_path / "code.py").write_text("as another version writes it")
    monkeypatch.setattr("koala_jax.transitions.synthesis.corpus.CODE", [code])
    assert len(list(corpus(tmp_path, [], 1, 0))) == 1 and made == [0, 1, 1, 0, 0]


SPLICE = np.arange(3 * 96 * 64, dtype=np.uint32).astype(np.uint8).reshape(3, 96, 64), np.array([0, 1], np.int8)


def test_xfade_starts_with_the_outgoing_shot():
    a, b = np.zeros((8, 36, 64, 3), np.uint8), np.full((8, 36, 64, 3), 200, np.uint8)
    level = labelled.xfade(a, b, "fade").mean((1, 2, 3))
    assert level[0] == 0 and (np.diff(level) > 0).all() and level[-1] < 200


def test_a_file_without_a_frame_is_named(monkeypatch):
    monkeypatch.setattr(shots.video, "decode", lambda path: iter(()))
    with pytest.raises(VideoError, match="^a.mp4: holds no frame that decodes$"):
        shots.read("a.mp4")


def test_a_clip_that_cannot_be_read_costs_itself_alone(tmp_path, capsys):
    good, text, picture = make(tmp_path / "good.mp4", 4), tmp_path / "text.mp4", tmp_path / "picture.png"
    text.write_text("no video")
    picture.write_text("no picture")
    read = sources([str(text), str(good), str(picture)], (24, 32))
    assert [(one.name, one.frames.shape) for one in read] == [("good.mp4", (4, 24, 32, 3))]
    said = capsys.readouterr().out
    assert f"left out: {text}: " in said and f"left out: {picture}: is no picture that OpenCV can read" in said
    with pytest.raises(ValueError, match="of 1 clip none can be read"):
        sources([str(text)])
    assert sources([]) == [], "then all is drawn"


def test_a_benchmark_can_be_spliced_of_clips_that_are_just_long_enough(monkeypatch):
    monkeypatch.setattr(labelled, "xfade", lambda a, b, effect: a)
    sources = [shots.Source(name, np.zeros((labelled.SHORTEST, 36, 64, 3), np.uint8)) for name in "ab"]
    for number in range(12):
        frames, truth = labelled._splice("x", sources, np.random.default_rng(number), number)
        assert len(frames) == truth.frames and len(truth.transitions) == labelled.SHOTS - 1
        assert len(truth.disturbances) == 3


def test_a_benchmark_that_is_there_is_read_and_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled, "xfade", lambda a, b, effect: a)
    black = np.zeros((labelled.SHORTEST, 36, 64, 3), np.uint8)
    monkeypatch.setattr(labelled, "sources", lambda clips, size: [shots.Source(name, black) for name in clips])
    made = labelled.build(tmp_path, ["a.mp4", "b.mp4"], 1, 0)
    monkeypatch.setattr(labelled, "sources", lambda *_: pytest.fail("made again"))
    (again,) = labelled.build(tmp_path, ["a.mp4", "b.mp4"], 1, 0)
    assert again.transitions == made[0].transitions and (tmp_path / again.file).exists()
    with pytest.raises(ValueError, match="holds a benchmark of other clips"):
        labelled.build(tmp_path, ["a.mp4", "c.mp4"], 1, 0)
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(ValueError, match="labels.json does not hold a benchmark's labels"):
        labelled.build(tmp_path, ["a.mp4", "b.mp4"], 1, 0)
