"""The record of a video: its clips by length and time, and the tables of many."""
import dataclasses
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from koala_jax.shots import record
from koala_jax.shots.detect import Seen


def test_tables_of_many_videos_are_not_held_as_rows(tmp_path):
    change = {"start_frame": 1, "end_frame": 2, "start_s": 0.1, "end_s": 0.2, "type": "cut", "score": 0.5}
    clips = [record.Clip(k, k + 1, k / 25, (k + 1) / 25, f"clips/a/{k:04d}.mp4") for k in range(60)]
    records = [record.Record(f"{k:04d}.mp4", 1, 1, 90, 160, 60, 2.4, [change] * 60, [], clips, [], None) for k in range(400)]
    tracemalloc.start()
    try:
        record.write_tables(epath.Path(tmp_path), records, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    rows = pq.read_table(tmp_path / "clips.parquet").to_pylist()
    assert len(rows) == 24000 and rows[-1] == {"source": "0399.mp4", "clip": 59, **dataclasses.asdict(clips[-1]), "file": None}
    assert peak < 12e6, f"{peak / 1e6:.1f} MB"


def test_parts_that_would_be_too_short_are_as_long_as_may_be():
    seen = Seen(1, 1, (1, 1), np.arange(55) / 25, 2.2, None)
    assert record.of_lengths([(0, 55)], seen, 1.5, 2.0) == [(0, 50)]
    assert record.of_lengths([(0, 55)], seen, 1.0, 2.0) == [(0, 28), (28, 55)]


def test_a_clip_as_long_as_the_shortest_may_be_stays():
    """2.28 - 0.28 is a little less than 2.0."""
    seen = Seen(1, 1, (1, 1), np.arange(100) / 25, 4.0, None)
    assert seen.at(57) - seen.at(7) < 2.0 and record.of_lengths([(7, 57), (7, 56)], seen, 2.0, 9.0) == [(7, 57)]


def test_a_time_that_two_shots_share_belongs_to_no_clip():
    seconds = np.arange(40) / 25
    seconds[20] = seconds[19]
    seen = Seen(1, 1, (1, 1), seconds, 1.6, None)
    found = record.of_lengths([(0, 20), (20, 40)], seen, 0.1, 9.0)
    assert found == [(0, 19), (21, 40)]
    for start, end in found:
        assert ((seconds >= seen.at(start)) & (seconds < seen.at(end))).sum() == end - start


@given(st.lists(st.integers(1, 50), min_size=2, max_size=80), st.floats(0, 3), st.floats(0.05, 6), st.data())
def test_lengths_hold(steps, shortest, more, data):
    longest = shortest + more
    seconds = np.cumsum(steps) / 25.0
    seen = Seen(1, 1, (1, 1), seconds, float(seconds[-1] + 0.04), None)
    start = data.draw(st.integers(0, len(steps) - 1))
    end = data.draw(st.integers(start + 1, len(steps)))
    parts = record.of_lengths([(start, end)], seen, shortest, longest)
    length, frame = seen.at(end) - seen.at(start), max(steps) / 25.0 + 1e-6
    if length < shortest - 1e-9:
        assert parts == []
        return
    lost = length - (seen.at(parts[-1][1]) - seen.at(start))
    assert parts[0][0] == start and all(a[1] == b[0] for a, b in zip(parts, parts[1:]))
    assert abs(lost) < 1e-9 or 2 * shortest > longest - frame and lost < longest + frame, "only what would have been too short"
    for a, b in parts:  # one frame can be longer than that
        assert a < b and shortest - frame <= seen.at(b) - seen.at(a) <= longest + frame
