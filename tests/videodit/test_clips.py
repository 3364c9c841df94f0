"""Clips that are set aside, and what is no reason to set one aside."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_jax.video_error import Unread, VideoError
from core_jax.video_worker import DecodePool
from tests.core.video_files import make
from videodit_jax.data.clips import Clips, SetAside, split_last
from videodit_jax.data.folder import halves, open_splits
from videodit_jax.data.loader import loader


class Given(Clips):
    """Clips that are their own numbers, but for those that a function raises an error of."""

    def __init__(self, number, error):
        super().__init__("these", SetAside())
        self.number, self.error = number, error

    def __len__(self):
        return self.number

    def read(self, id):
        if error := self.error(id):
            raise error
        return {"id": id}


def test_a_clip_whose_bytes_cannot_be_read_is_not_set_aside():
    clips = Given(10, lambda id: Unread("gs://bucket/a.mp4", "503") if away else None)
    away = True
    with pytest.raises(Unread, match="gs://bucket/a.mp4: 503"):
        clips[3]
    away = False
    assert clips[3] == {"id": 3} and not clips.set_aside


def test_a_video_whose_bytes_cannot_be_read_at_the_first_start_does_not_stay_out(tmp_path, monkeypatch):
    make(tmp_path / "a.mp4")
    monkeypatch.setattr(DecodePool, "probe", lambda pool, path: (_ for _ in ()).throw(Unread(path, "503")))
    with pytest.raises(Unread, match="a.mp4: 503"):
        open_splits(tmp_path, (4, 12, 16))


def test_a_fault_of_a_store_ends_a_run_in_the_stores_own_words():
    clips = Given(10, lambda id: Unread("gs://bucket/a.mp4", "503"))
    with pytest.raises(Unread, match="^gs://bucket/a.mp4: 503"):
        next(loader(clips, lambda example: example, seed=0, batch=2))


def test_a_run_that_loses_more_than_a_tenth_of_its_clips_ends():
    clips = Given(1000, lambda id: VideoError(f"{id}.mp4", "is torn") if id % 5 == 0 else None)
    with pytest.raises(ValueError, match="^18 of the first 103 clips of these could not be used, more than 10%; 0.mp4: is torn; 5.mp4: is torn; 10.mp4: is torn$"):
        [clips[i] for i in range(1000)]


@pytest.mark.parametrize("number, every", [(1000, 11), (90, 5)])
def test_a_run_that_loses_fewer_goes_on(number, every):
    """Or one that has too few to judge by."""
    clips = Given(number, lambda id: VideoError(f"{id}.mp4", "is torn") if id % every == 0 else None)
    assert len({clips[i]["id"] for i in range(number)}) == number - len(range(0, number, every))
    assert len(clips.set_aside) == len(range(0, number, every))


@pytest.mark.parametrize("number, held_out", [(1, 1), (2, 1), (14, 1), (15, 2), (40_960, 4096), (10**7, 4096)])
def test_a_tenth_is_held_out_and_no_more_than_an_evaluation_can_use(number, held_out):
    first, last = split_last(number)
    assert len(last) == held_out and last[-1] == number - 1 and (number == 1 or first == range(number - held_out))


@given(st.sets(st.integers(0, 99), min_size=3, max_size=60), st.sets(st.integers(100, 199), min_size=1, max_size=20))
def test_no_more_videos_change_halves_than_others_come(before, come):
    halves_of = lambda numbers: halves("clips", [f"{number}.mp4" for number in sorted(numbers)])
    held, after = halves_of(before)[1], halves_of(before | come)[1]
    assert len(held ^ (after & {f"{number}.mp4" for number in before})) <= len(come)
