"""What is read off films: of the true story everything is right; of spoilt ones what was spoilt is wrong, and nothing else."""
import numpy as np
import pytest

from core_jax.words import markdown
from owl_jax import judge
from owl_jax.evaluate import cells, interval
from owl_jax.films import CUT
from owl_jax.ways import Way
from videodit_jax.data.check_stories import check
from videodit_jax.data.shapes import Split
from videodit_jax.data.stories import Stories, Story

STORIES = [Stories(split=Split.HELD_OUT)[i] for i in range(4)]


def embed(frames: np.ndarray) -> np.ndarray:
    x = frames.reshape(len(frames), -1).astype(np.float64) + 1
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def judged(story: Story, clips: np.ndarray, texts: list[str] | None = None, cuts: list[bool] | None = None) -> dict[str, float]:
    texts = texts or [CUT * clip.cut + clip.dense for clip in story.clips]
    cuts = cuts or [clip.cut for clip in story.clips]
    return judge.judge(story, judge.motion(clips_of(story), 4.0), clips, [check(clip) for clip in clips], texts, cuts, embed, 4.0)


def clips_of(story: Story) -> np.ndarray:
    return np.stack([clip.video for clip in story.clips])


@pytest.mark.parametrize("story", STORIES)
def test_the_true_story_has_nothing_wrong(story):
    found = judged(story, clips_of(story))
    for name in ("returning, colour and shape", "returning, colour", "returning, shape", "event", "event as its text says", "room"):
        assert found[name] == 1, name
    assert found["motion of the data's"] == found["dynamic degree of the data's"] == 1
    over = judge.by_clip(story, [check(clip) for clip in clips_of(story)])
    assert np.mean(over["room right"]) == np.mean(over["event right"]) == np.nanmean(over["actor right"]) == 1
    assert max(over["ground, levels off"]) < 1


def test_a_text_that_cuts_is_read_however_it_is_spaced():
    story = STORIES[0]
    wrong = [[f"{mark}it rests" if clip.cut else clip.dense for clip in story.clips] for mark in ("cut:", CUT)]
    close, spaced = (judged(story, clips_of(story), texts)["event as its text says"] for texts in wrong)
    assert close == spaced < 1


def test_another_actor_who_comes_back_is_wrong_and_the_others_stay_right():
    story, other = STORIES[0], STORIES[1]
    spoilt = clips_of(story)
    swapped = next(clip.video for clip in other.clips if clip.actor and clip.actor not in {one.actor for one in story.clips})
    for i, clip in enumerate(story.clips):
        if clip.returns and clip.actor:
            spoilt[i] = swapped
    found, true = judged(story, spoilt), judged(story, clips_of(story))
    assert found["returning, colour and shape"] == 0
    assert found["others, colour and shape"] == true["others, colour and shape"] == 1


def test_a_still_film_moves_nothing_and_a_jump_at_the_joins_shows():
    story = STORIES[0]
    still = np.repeat(clips_of(story)[:, :1], 9, axis=1)
    assert judged(story, still)["motion of the data's"] == judged(story, still)["dynamic degree"] == 0
    jumps = clips_of(story)  # each clip alone is as it was
    jumps[::2] = np.clip(jumps[::2].astype(int) + 40, 0, 255)
    assert judged(story, jumps)["join"] > 3 * max(judged(story, clips_of(story))["join"], 0.5)


def test_where_the_film_begins_a_scene_there_is_no_join():
    story, jump = STORIES[0], clips_of(STORIES[0])
    t = next(t for t in range(1, len(jump)) if not story.clips[t].cut)
    jump[t:] = np.clip(jump[t:].astype(int) + 90, 0, 255)
    cuts = [clip.cut or i == t for i, clip in enumerate(story.clips)]
    assert judged(story, jump, cuts=cuts)["join"] < 0.5 * judged(story, jump)["join"]
    assert np.isnan(judged(story, jump, cuts=[True] * len(cuts))["join"])


def test_dynamics_are_judged_by_the_event_that_they_name():
    story = STORIES[0]
    true = [CUT * clip.cut + clip.dense for clip in story.clips[1:]]
    assert judge.next_event(story, true) == {"next event foreseen": 1.0, "next cut foreseen": 1.0}
    assert judge.next_event(story, ["nonsense"] * 11)["next event foreseen"] == 0
    assert judged(story, clips_of(story), ["it rests"] * 12)["same text, most often"] == 12


def test_intervals_hold_the_mean_and_leave_out_what_does_not_apply():
    values = [*np.random.default_rng(0).random(50), np.nan]
    found = interval(values)
    assert found["value"] == pytest.approx(np.nanmean(values)) and found["stories"] == 50
    assert found["low"] < found["value"] < found["high"] and found["high"] - found["low"] == pytest.approx(4 * np.nanstd(values) / 50**0.5, rel=0.1)
    assert interval([np.nan]) == {}
    rows = markdown(*cells({Way.LOOP.value: {"room": found, "event": {}, "join": interval([0.5, np.nan])}})).splitlines()
    assert "±" in rows[2] and rows[3:] == ["| event | – |", "| join | 0.50 |"], "of one story no interval is known"
