"""Long videos with dense captions in the layouts that Vript and ActivityNet Captions are published in, written on the spot."""
import dataclasses
import json
import math
import os

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_jax.video_out import write_video
from core_jax.video_worker import DecodePool
from koala_jax.shots.detect import Seen
from koala_jax.transitions import Detection, Transition, Type
from owl_jax import run
from owl_jax.data import open_long_videos
from owl_jax.data.films import BEFORE, Films, LongVideo, runs, schedule
from owl_jax.data.vript import split_of
from owl_jax.films import open_films
from owl_jax.stages import Stage, stories
from videodit_jax.data.shapes import Split
from videodit_jax.data import hosts
from videodit_jax.presets import preset

FPS = 10


def scene(seed: int, seconds: float) -> np.ndarray:
    """A textured picture that shifts slowly."""
    picture = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).repeat(12, 0).repeat(12, 1).astype(np.uint8)
    return np.stack([np.roll(picture, t, 1) for t in range(round(seconds * FPS))])


def write_film(path, *lengths: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.concatenate([scene(i, seconds) for i, seconds in enumerate(lengths)]), FPS)


def vript(folder, name: str, spans, integrity: bool = True, keys=("start_time", "end_time")) -> None:
    ids = [f"{name}-Scene-{i + 1:03d}" for i in range(len(spans))]
    captions = folder / "vript_captions" / "vript_long_videos_captions" / f"{name}_caption.json"
    cuts = folder / "vript_long_videos_clips" / name / f"{name}_cut_meta.json"
    for path in (captions, cuts):
        path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        id: {"clip_id": id, "caption": {"shot_type": "wide", "camera_movement": "still", "content": f"scene {i}", "scene_title": "x"}}
        for i, id in enumerate(ids)
    }
    captions.write_text(json.dumps({"meta": {"video_id": name, "video_title": f"all of {name}", "integrity": integrity}, "data": data}))
    clips = [{"clip_id": f"{id}.mp4", keys[0]: start, keys[1]: end} for id, (start, end) in zip(ids, spans)]
    cuts.write_text(json.dumps({"clips": clips}))


def activitynet(folder, entries: dict) -> None:
    (folder / "captions").mkdir(parents=True, exist_ok=True)
    (folder / "captions" / "train.json").write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def pool():
    with DecodePool(1) as pool:
        yield pool


def test_vript_scenes_become_clips_and_cuts(tmp_path, pool):
    name = next(f"abc{i}" for i in range(100) if split_of(f"abc{i}") is Split.TRAIN)
    write_film(tmp_path / "vript_long_videos" / f"{name}.mp4", 4.0, 2.5)
    vript(tmp_path, name, [("0:00:00.0", "0:00:04.0"), ("0:00:04.0", "0:00:06.5")])
    (long,) = open_long_videos(tmp_path, 2.0, Split.TRAIN)
    assert long.title == f"all of {name}" and [clip[2] for clip in long.clips] == ["scene 0", "scene 0", "scene 1"]
    films = Films([long], (9, 16, 24), pool, tmp_path / "cache")
    film = films[0]
    assert [clip.cut for clip in film.clips] == [False, False, True] and [clip.dense for clip in film.clips] == [c[2] for c in long.clips]
    assert all(clip.video.shape == (9, 16, 24, 3) and clip.video.dtype == np.uint8 for clip in film.clips)
    first, second, third = (clip.video.astype(int) for clip in film.clips)
    assert np.array_equal(first[-1], second[0])
    inside = np.abs(np.diff(second, axis=0)).mean()
    assert np.abs(third[0] - second[-1]).mean() > 3 * inside  # the clip before the cut shows nothing of the new scene
    assert len(list((tmp_path / "cache").iterdir())) == 1 and films.transitions(long.file) == pytest.approx([4.0])


def test_a_file_that_has_changed_is_looked_at_again(tmp_path):
    path, asked = tmp_path / "a.mp4", []

    class Pool:
        def run(self, function, file, method):
            asked.append(file)
            seen = Seen(2, 2, (2, 2), np.arange(9.0), 9.0, None)
            return seen, Detection([Transition(len(asked), len(asked), Type.CUT, 1.0)], [], {})

    for content, begins in ((b"a", 1.0), (b"a", 1.0), (b"another", 2.0)):
        path.write_bytes(content)
        os.utime(path, (len(content), len(content)))
        assert Films([], (9, 16, 24), Pool(), tmp_path / "cache").transitions(str(path)) == [begins]
    for kept in (tmp_path / "cache").iterdir():
        kept.write_bytes(b"")  # as a host leaves it that goes down
    assert Films([], (9, 16, 24), Pool(), tmp_path / "cache").transitions(str(path)) == [3.0]


def test_a_cut_within_a_clip_marks_it(tmp_path, pool):
    write_film(tmp_path / "v_one.mp4", 3.0, 3.0)
    activitynet(tmp_path, {"v_one": {"duration": 6.0, "timestamps": [[0, 3], [3, 6]], "sentences": ["A man runs. ", " He stops."]}})
    (long,) = open_long_videos(tmp_path, 2.0, Split.TRAIN)
    assert long.title == "A man runs." and [clip[2] for clip in long.clips] == ["A man runs.", "A man runs.", "He stops."]
    assert [clip.cut for clip in Films([long], (5, 16, 16), pool)[0].clips] == [False, True, False]


def test_a_video_that_does_not_decode_is_passed_over(tmp_path, pool):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    write_film(tmp_path / "good.mp4", 2.0)
    long = [LongVideo(str(tmp_path / name), name, ((0.0, 2.0, "x"),)) for name in ("broken.mp4", "good.mp4")]
    films = Films(long, (5, 16, 16), pool)
    assert films[0].title == films[1].title == "good.mp4" and len(films.set_aside) == 1


def test_captions_that_overlap_and_leave_gaps():
    spans = [(0.0, 2.0, "a"), (1.5, 5.0, "b"), (9.0, 11.0, "c")]
    first, second = runs("f", "t", spans, 30.0, 2.0)
    assert first.clips == ((0.0, 2.0, "a"), (2.0, 4.0, "b"), (4.0, 6.0, "b"))
    assert second.clips == ((8.0, 10.0, "c"), (10.0, 12.0, "c"))
    assert list(runs("f", "t", [(0.0, 5.0, "a")], 1.9, 2.0)) == [] == list(runs("f", "t", [(0.0, 5.0, " ")], 9.0, 2.0))


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0.1, 20), st.sampled_from("abc")), min_size=1, max_size=6),
    st.floats(1, 60),
    st.floats(0.5, 8),
)
def test_clips_are_equal_lie_within_the_video_and_have_the_longest_caption(spans, duration, clip_s):
    captions = [(start, start + length, text) for start, length, text in spans]
    found = list(runs("f", "t", captions, duration, clip_s))
    for run in found:
        assert all(b == pytest.approx(a) for (_, b, _), (a, _, _) in zip(run.clips, run.clips[1:]))
        for a, b, text in run.clips:
            assert b - a == pytest.approx(clip_s) and b <= duration + 1e-4
            overlaps = [(min(b, end) - max(a, start), other) for start, end, other in captions]
            assert (best := max(overlaps)[0]) > 0 and any(other == text and shared == best for shared, other in overlaps)
    for run, later in zip(found, found[1:]):
        assert later.clips[0][0] - run.clips[-1][1] > clip_s - 1e-6


@given(st.integers(2, 9), st.lists(st.floats(0, 9), max_size=4))
def test_every_transition_within_the_run_marks_one_clip_and_is_not_seen_by_the_one_before(frames, transitions):
    long = LongVideo("f", "t", ((1.0, 3.0, "a"), (3.0, 5.0, "b"), (5.0, 7.0, "c")))
    times, cuts = schedule(long, frames, transitions)
    step = 2 / (frames - 1)
    assert times.shape == (3, frames) and (np.diff(times.ravel()) >= 0).all()
    covered = [t for t in transitions if 1 - step < t <= 7 - step]
    owners = {k for t in covered for k, a in enumerate((1, 3, 5)) if a - step < t <= a + 2 - step}
    assert [k for k, cut in enumerate(cuts) if cut] == sorted(owners)
    for k, b in enumerate((3, 5, 7)):
        late = [t for t in transitions if b - step < t <= b]
        if late and times[k, -1] > times[k, -2]:
            assert times[k, -1] + BEFORE < min(late)
        elif not late:
            assert times[k, -1] == b


def test_what_lacks_dense_captions_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        open_long_videos(tmp_path / "nothing", 2.0, Split.TRAIN)
    write_film(tmp_path / "a.mp4", 1.0)
    with pytest.raises(ValueError, match="holds no dense captions"):
        open_long_videos(tmp_path, 2.0, Split.TRAIN)
    activitynet(tmp_path, {"v_gone": {"duration": 9, "timestamps": [[0, 9]], "sentences": ["Nobody has this video."]}})
    with pytest.raises(ValueError, match="no video of theirs"):
        open_long_videos(tmp_path, 2.0, Split.TRAIN)
    with pytest.raises(ValueError, match="there is no val_1.json"):
        open_long_videos(tmp_path, 2.0, Split.HELD_OUT)
    activitynet(tmp_path, {"v_odd": {"duration": 9, "timestamps": [[0, 9], [1, 2]], "sentences": ["One."]}})
    with pytest.raises(ValueError, match="v_odd is not in the layout"):
        open_long_videos(tmp_path, 2.0, Split.TRAIN)
    for broken in ("{", "[]"):
        (tmp_path / "captions" / "train.json").write_text(broken)
        with pytest.raises(ValueError, match="train.json is not in the layout of ActivityNet Captions, which is a JSON object"):
            open_long_videos(tmp_path, 2.0, Split.TRAIN)


def test_a_vript_video_without_the_times_of_its_scenes_is_refused(tmp_path):
    name = next(f"abc{i}" for i in range(100) if split_of(f"abc{i}") is Split.HELD_OUT)
    write_film(tmp_path / f"{name}.mp4", 1.0)
    vript(tmp_path, name, [(0.0, 1.0)], keys=("from", "to"))
    with pytest.raises(ValueError, match="neither start_time nor start"):
        open_long_videos(tmp_path, 0.5, Split.HELD_OUT)
    with pytest.raises(ValueError, match="no video of theirs for train"):
        open_long_videos(tmp_path, 0.5, Split.TRAIN)
    next(tmp_path.rglob("*_cut_meta.json")).unlink()
    with pytest.raises(ValueError, match="when the scenes of 1 of 1 videos begin is not known, for there is no"):
        open_long_videos(tmp_path, 0.5, Split.HELD_OUT)


def test_one_vript_video_without_the_times_of_its_scenes_costs_itself_alone(tmp_path, caplog):
    bad, good = [f"abc{i}" for i in range(100) if split_of(f"abc{i}") is Split.TRAIN][:2]
    for name in (bad, good):
        (tmp_path / f"{name}.mp4").touch()
        vript(tmp_path, name, [(0.0, 2.0), (2.0, 4.0)])
    next(tmp_path.rglob(f"{bad}_cut_meta.json")).unlink()
    (found,) = open_long_videos(tmp_path, 2.0, Split.TRAIN)
    assert found.file.endswith(f"{good}.mp4") and f"1 of 2 videos begin is not known, for there is no {bad}_cut_meta.json" in caplog.text


@pytest.mark.parametrize("torn", ["_caption.json", "_cut_meta.json"])
def test_a_vript_file_that_is_torn_costs_its_video_alone(torn, tmp_path, caplog):
    names = [f"abc{i}" for i in range(100) if split_of(f"abc{i}") is Split.TRAIN][:3]
    for name in names:
        (tmp_path / f"{name}.mp4").touch()
        vript(tmp_path, name, [(0.0, 2.0), (2.0, 4.0)])
    for left, name in ((0, names[0]), (40, names[1])):
        path = next(tmp_path.rglob(f"{name}{torn}"))
        path.write_text(path.read_text()[:left])
    (found,) = open_long_videos(tmp_path, 2.0, Split.TRAIN)
    said = [record.getMessage() for record in caplog.records]
    assert found.file.endswith(f"{names[2]}.mp4") and len(said) == 2
    for name, one in zip(names, said):
        assert one.startswith("left out: ") and f"{name}_caption.json, {name}_cut_meta.json: not in the layout of Vript (JSONDecodeError" in one
    next(tmp_path.rglob(f"{names[2]}{torn}")).write_bytes(b"")
    with pytest.raises(ValueError, match=f"{names[0]}_caption.json, .*not in the layout of Vript"):
        open_long_videos(tmp_path, 2.0, Split.TRAIN)


def test_an_odd_entry_of_activitynet_costs_its_video_alone(tmp_path, caplog):
    good = {"duration": 4, "timestamps": [[0, 4]], "sentences": [" A frog. "]}
    odd = {
        "v_more": good | {"timestamps": [[0, 4], [1, 2]]}, "v_when": {"timestamps": [[0, 4]], "sentences": ["A"]}, "v_none": None,
        "v_text": good | {"sentences": [7]}, "v_nan": good | {"duration": math.nan}, "v_inf": good | {"timestamps": [[0, math.inf]]},
    }  # fmt: skip
    for name in (*odd, "v_good"):
        (tmp_path / f"{name}.mp4").touch()
    activitynet(tmp_path, odd | {"v_good": good})
    (found,) = open_long_videos(tmp_path, 2.0, Split.TRAIN)
    assert found.file.endswith("v_good.mp4") and found.title == "A frog." and len(found.clips) == 2
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(odd) and all(f"left out: {tmp_path}" in one and f"train.json: {name} is not in the layout" in one for name, one in zip(odd, said))


def test_vript_text_or_time_of_another_kind_costs_its_video_alone(tmp_path, caplog):
    names = [f"abc{i}" for i in range(100) if split_of(f"abc{i}") is Split.TRAIN][:3]
    for name, span in zip(names, ([(0.0, 2.0)], [(0.0, math.inf)], [(0.0, 2.0)])):
        (tmp_path / f"{name}.mp4").touch()
        vript(tmp_path, name, span)
    path = next(tmp_path.rglob(f"{names[0]}_caption.json"))
    path.write_text(path.read_text().replace('"scene 0"', "[1]"))
    (found,) = open_long_videos(tmp_path, 2.0, Split.TRAIN)
    assert found.file.endswith(f"{names[2]}.mp4") and len(caplog.records) == 2


def test_a_scene_without_a_caption_is_a_gap(tmp_path):
    name = next(f"abc{i}" for i in range(100) if split_of(f"abc{i}") is Split.TRAIN)
    write_film(tmp_path / f"{name}.mp4", 1.0)
    vript(tmp_path, name, [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (6.0, 8.0)], integrity=False)
    path = next(tmp_path.rglob("*_caption.json"))
    content = json.loads(path.read_text())
    content["data"][f"{name}-Scene-002"]["caption"] = None
    del content["data"][f"{name}-Scene-003"]["caption"]
    path.write_text(json.dumps(content))
    first, second = open_long_videos(tmp_path, 2.0, Split.TRAIN)
    assert first.clips == ((0.0, 2.0, "scene 0"),) and second.clips == ((6.0, 8.0, "scene 3"),)


@pytest.mark.parametrize("layout", ["vript", "activitynet"])
def test_a_bucket_is_read_as_a_folder_is(tmp_path, bucket, layout):
    """The same long videos, by their place in it."""
    name = next(f"abc{i}" for i in range(100) if split_of(f"abc{i}") is Split.TRAIN)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"a video")
    if layout == "vript":
        vript(tmp_path, name, [(0.0, 2.0), (2.0, 4.0)])
    else:
        activitynet(tmp_path, {name: {"duration": 4.0, "timestamps": [[0, 4]], "sentences": ["He runs."]}})
    for path in filter(lambda path: path.is_file(), tmp_path.rglob("*")):
        (bucket / str(path.relative_to(tmp_path))).write_bytes(path.read_bytes())
    here, there = list(open_long_videos(tmp_path, 2.0, Split.TRAIN)), list(open_long_videos(str(bucket), 2.0, Split.TRAIN))
    assert [(one.title, one.clips) for one in there] == [(one.title, one.clips) for one in here] and len(here[0].clips) == 2
    assert there[0].file == f"gs://bucket/run/videos/{name}.mp4"


def test_hosts_that_see_other_long_videos_all_refuse(tmp_path, monkeypatch):
    """Two hosts, the second with a longer video."""
    rows = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "gathered", lambda row: rows.append(row) or [rows[0], row])
    config = dataclasses.replace(stories(Stage.WORLD), clips=2, out=str(tmp_path / "out"))
    for host, seconds in enumerate((4.0, 8.0)):
        folder = tmp_path / str(host)
        activitynet(folder, {"v_a": {"duration": seconds, "timestamps": [[0, seconds]], "sentences": ["He runs."]}})
        (folder / "captions" / "val_1.json").write_text((folder / "captions" / "train.json").read_text())
        (folder / "v_a.mp4").write_bytes(b"a video")
        call = lambda: open_films(dataclasses.replace(config, data=str(folder)), preset("stories"))
        if not host:
            assert len(call()[0]) == 1
    with pytest.raises(ValueError, match="every host needs the same data, and in .* host 0 sees 1 clips .*, host 1 2 clips"):
        call()


def test_a_video_that_could_not_be_used_as_a_stage_began_stays_out_of_it(tmp_path):
    for name in ("a", "b", "c"):
        write_film(tmp_path / "videos" / f"{name}.mp4", 3.0)
    whole = (tmp_path / "videos" / "a.mp4").read_bytes()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"not yet")
    film = preset("stories")
    config = dataclasses.replace(stories(Stage.ALIGN), clips=1, data=str(tmp_path / "videos"), out=str(tmp_path / "out"))
    began, _ = open_films(config, film)
    run.resume(config, began.fingerprint, began.unused)
    (tmp_path / "videos" / "a.mp4").write_bytes(whole)
    again, _ = open_films(config, film)
    assert began.unused == again.unused == ("a.mp4",) and again.fingerprint == began.fingerprint


def test_a_model_in_a_bucket_is_the_same_from_any_folder(bucket, tmp_path, monkeypatch):
    """Else its films would be made again, or refused as another model's."""
    (bucket / "align" / "config.json").write_text('{"config": {}}')
    keys = set()
    for folder in (tmp_path, "/"):
        monkeypatch.chdir(folder)
        keys.add(run.key(dataclasses.replace(stories(Stage.ALIGN), out=str(bucket))))
    assert len(keys) == 1 and keys.pop().startswith("gs://bucket/run/align at step 0")


def test_vript_times_may_be_seconds(tmp_path):
    name = next(f"abc{i}" for i in range(100) if split_of(f"abc{i}") is Split.TRAIN)
    write_film(tmp_path / f"{name}.mp4", 2.0)
    vript(tmp_path, name, [(0.0, 1.0), (1.0, 2.0)], keys=("start", "end"))
    (long,) = open_long_videos(tmp_path, 1.0, Split.TRAIN)
    assert long.clips == ((0.0, 1.0, "scene 0"), (1.0, 2.0, "scene 1"))


def test_the_films_held_out_are_the_same_for_every_seed():
    """With the same of them in silence."""
    config = dataclasses.replace(stories(Stage.WORLD), dynamics_dropout=0.5)
    (train, held_out), (other, same) = (open_films(dataclasses.replace(config, seed=seed), preset("stories")) for seed in (0, 3))
    assert not np.array_equal(train[2].clips, other[2].clips)
    for i in range(6):
        assert np.array_equal(held_out[i].clips, same[i].clips) and held_out[i].said == same[i].said
