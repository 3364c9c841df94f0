"""What a dataset keeps of its scores and captions, so that no start reads its records for them."""
import shutil

import jax
import numpy as np
import pytest

from core_jax.files import read_kept
from tests.videodit import small
from videodit_jax import train
from videodit_jax.data import records, sampled
from videodit_jax.data.clips import host_folder
from videodit_jax.data.records import Records, open_splits, write_records
from videodit_jax.data.sampled import FILE, Looked, Sample
from videodit_jax.run import Run
from videodit_jax.text import Reads, TextConfig

CLIP = jax.ShapeDtypeStruct((1, 2, 2, 3), np.uint8)
TEXT = TextConfig(width=8, reads=Reads.FEATURES)


def examples(number, first=0):
    for i in range(first, first + number):
        scores = {"motion": i / 3, "flicker": np.nan if i % 2 else float(i)}
        yield {"video": np.zeros(CLIP.shape, np.uint8), "caption": "a cat " * (i % 5), "scores": scores, "id": i, "text": np.zeros((i % 7, 8), np.float16)}


def found(path):
    """What both halves say, and are."""
    halves = open_splits(path, CLIP, text=TEXT, scores=("motion", "flicker")), open_splits(path, CLIP, scores=("motion", "flicker"))
    return [[(half.scores(), half.lengths(), half.fingerprint) for half in both] for both in halves]


def test_what_is_kept_is_what_the_records_say(tmp_path, monkeypatch):
    write_records(tmp_path / "set", {"train": examples(40)})
    shutil.copytree(tmp_path / "set", tmp_path / "old")
    (tmp_path / "old" / FILE).unlink()
    np.testing.assert_equal(found(tmp_path / "set"), found(tmp_path / "old"))
    (tmp_path / "old" / FILE).write_text('{"train"')
    np.testing.assert_equal(found(tmp_path / "set"), found(tmp_path / "old"))
    half, _ = open_splits(tmp_path / "set", CLIP, scores=("motion", "flicker"))
    monkeypatch.setattr(Records, "_record", lambda *_: pytest.fail("a record was read"))
    np.testing.assert_array_equal(half.scores()["motion"], np.arange(36, dtype=np.float32) / np.float32(3))
    assert half.lengths() == [2 * (i % 5) for i in range(36)]


@pytest.mark.parametrize("number", [0, 7, 8, 16, 1000, 1025])
def test_of_any_number_evenly_spaced_ones_are_kept(number, monkeypatch):
    monkeypatch.setattr(sampled, "COUNTED", 8)
    sample = Sample()
    for i in range(number):
        sample.add(i)
    assert sample.kept == list(range(0, number, sample.step)) and min(8, number) <= len(sample.kept) < 16 and len(sample.kept) * sample.step < number + sample.step


def test_parts_of_several_hosts_count_by_their_numbers(tmp_path, monkeypatch):
    """Of the second a fourth is kept: so a fourth of each is read, and of the last tenth, which is held out, nothing."""
    monkeypatch.setattr(sampled, "COUNTED", 8)
    numbers = 20, 60, 0, 30
    for host, number in enumerate(numbers):
        rows = {"train": examples(number, 100 * host)} if number else {"other": examples(1)}
        write_records(host_folder(tmp_path / "set", host, 4), rows)
    steps = [read_kept(host_folder(tmp_path / "set", host, 4) / FILE).get("train", {}).get("step") for host in range(4)]
    assert steps == [2, 4, None, 2]
    half, held_out = open_splits(tmp_path / "set", CLIP, scores=("motion",))
    order = [round(3 * float(half._light[row]["motion"])) for row in range(110)]
    kept = half.scores()["motion"] * 3
    assert order == [100 * host + i for host, number in enumerate(numbers) for i in range(number)] and len(half) == 99
    assert np.round(kept).tolist() == [i for i in order[:99] if i % 4 == 0]
    assert np.round(held_out.scores()["motion"] * 3).tolist() == [i for i in order[99:] if i % 4 == 0]


def test_of_a_dataset_that_keeps_nothing_no_more_is_read_than_half_a_gigabyte(tmp_path, monkeypatch):
    write_records(tmp_path / "set", {"train": examples(40)})
    (tmp_path / "set" / FILE).unlink()
    half, _ = open_splits(tmp_path / "set", CLIP, scores=("motion",))
    monkeypatch.setattr(records, "READ_BYTES", half.builder.info.splits["train"].num_bytes // 4 + 1)
    np.testing.assert_array_equal(np.round(3 * half.scores()["motion"]), np.linspace(0, 35, 10).astype(int))


def test_it_is_read_from_a_store(bucket):
    assert sampled.read([bucket], [3], "train", range(3)) == sampled.read([], [], "train", range(3)) == []
    sample = Sample()
    for i in range(3):
        sample.add(Looked({"motion": np.nan}, i, 0))
    sampled.write(bucket, {"train": sample})
    assert [one.words for one in sampled.read([bucket], [3], "train", range(1, 3))] == [1, 2]


def test_a_run_that_goes_on_keeps_the_scores_that_it_began_with(tmp_path, monkeypatch):
    """And reads no record to know them, nor to say how long captions are."""
    like, run = small.CONFIG.stored, tmp_path / "run"
    write_records(tmp_path / "set", {"train": (one | {"video": np.zeros(like.shape, like.dtype)} for one in examples(20))})
    (tmp_path / "set" / FILE).unlink()

    def begun(*_):
        raise InterruptedError

    monkeypatch.setattr(train, "Checkpoints", begun)
    for _ in range(2):
        with pytest.raises(InterruptedError):
            train.main([*small.FLAGS, "--data", str(tmp_path / "set"), "--out", str(run)])
        statistics = Run.read(run).statistics
        assert statistics.range("motion") == (0, np.float32(17) / np.float32(3))
        monkeypatch.setattr(Records, "_looked", property(lambda self: pytest.fail("looked at records")))


def test_a_looked_at_example_counts_words_and_marks():
    assert Looked.at({}, "A cat, and a dog.", 3) == Looked({}, 7, 3)
