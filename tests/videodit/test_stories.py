"""Stories keep their promises: continuity, memory, a known grammar; and the checker reads them."""
import collections
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from videodit_jax.config import TrainConfig
from videodit_jax.data import open_sources
from videodit_jax.data.check_stories import check, said
from videodit_jax.data.shapes import COLOURS, SHAPES, Split
from videodit_jax.data.stories import ROOMS, Stories, StoryClips, ground_of
from videodit_jax.data.story_events import Event, Kind, Way, begins_empty, begins_on_screen, options
from videodit_jax.data.story_text import subject, tell
from videodit_jax.text import TextConfig

SCRIPTS = 400


@pytest.fixture(scope="module")
def scripts():
    return [Stories().script(i) for i in range(SCRIPTS)]


@pytest.fixture(scope="module")
def stories():
    return [Stories()[i] for i in range(20)] + [Stories(split=Split.HELD_OUT)[i] for i in range(10)]


def test_a_clip_begins_with_the_last_frame_of_the_one_before_unless_there_is_a_cut(stories):
    for story in stories:
        for before, clip in zip(story.clips, story.clips[1:]):
            assert np.array_equal(before.video[-1], clip.video[0]) != clip.cut
        assert [i for i, clip in enumerate(story.clips) if clip.cut] == [4, 8]
        film = story.video
        assert len(film) == 12 * 8 + 1
        for i, clip in enumerate(story.clips[:-1]):
            assert np.array_equal(film[8 * i : 8 * i + 8], clip.video[:-1])
        assert np.array_equal(film[-9:], story.clips[-1].video)


def test_the_third_scene_is_in_the_first_ones_room(stories):
    for story in stories:
        rooms = [clip.room for clip in story.clips]
        assert rooms[:4] == rooms[8:] == [rooms[0]] * 4 and rooms[4:8] == [rooms[4]] * 4 and rooms[0] != rooms[4]


def test_in_every_story_somebody_leaves_and_comes_back_the_same(scripts):
    for _, shots in scripts:
        assert any(shot.returns for shot in shots)
        left = {}
        for i, shot in enumerate(shots):
            event = shot.event
            if shot.returns:
                way, when = left[shot.actor]
                assert event.kind is Kind.COMES and event.way is way and i - when >= 2
                assert all(other.actor != shot.actor for other in shots[when + 1 : i])
            if event.kind is Kind.LEAVES:
                left[shot.actor] = event.way, i
        actors = {shot.event.actor: shot.actor for shot in shots if shot.actor}
        assert {shot.actor for shot in shots} - {None} == set(actors.values()) and len(actors) <= 2


def test_dense_texts_name_an_actor_once_and_some_never(scripts):
    never = 0
    for _, shots in scripts:
        named = collections.Counter(c for shot in shots for c in COLOURS if c in shot.dense.split())
        actors = {shot.actor for shot in shots} - {None}
        first = shots[0].actor
        seen_from_the_start = shots[0].event.kind is not Kind.COMES
        never += seen_from_the_start
        assert named == {actor.colour: 1 for actor in actors if actor != first or not seen_from_the_start}
        for i, shot in enumerate(shots):
            assert (shot.room in shot.dense.split()) == (shot.cut or i == 0)
            words, seen = shot.dense.split(), {other.actor for other in shots[: i + 1]} - {None}
            assert ("back" in words) == (shot.returns and not shot.cut)
            assert not ("it" in words and len(seen) == 2) and not ("one" in words and len(seen) == 1)
            if shot.actor:
                assert {shot.actor.colour, shot.actor.shape, shot.room} <= set(shot.caption.split())
    assert 0.4 < never / SCRIPTS < 0.6


def test_texts_are_short_of_few_words_and_both_splits_have_all(scripts):
    def words(scripts):
        texts = [text for title, shots in scripts for text in (title, *(t for shot in shots for t in (shot.caption, shot.dense)))]
        assert max(len(text.split()) for text in texts) <= 12 and all(re.fullmatch("[a-z ]+", text) for text in texts)
        assert all(TextConfig().tokenize(text)["length"] == len(text.split()) for text in texts)
        return set(" ".join(texts).split())

    held_out = Stories(split=Split.HELD_OUT)
    assert words(scripts) == words([held_out.script(i) for i in range(SCRIPTS)])
    assert len(words(scripts)) < 64
    assert not set(held_out.actors) & set(Stories().actors) and len(held_out.actors) + len(Stories().actors) == 24
    new = Stories(split=Split.HELD_OUT, unseen=False)
    assert set(new.actors) == set(Stories().actors) and [new.script(i) for i in range(9)] != [Stories().script(i) for i in range(9)]
    assert all({actor.colour for actor in s.actors} == set(COLOURS) and {actor.shape for actor in s.actors} == set(SHAPES) for s in (held_out, Stories()))


def predictability(clips: int) -> float:
    """How often the best guess of the next event, kind and way, is right for one who knows all before; by enumeration.

    The first clip of a story is not counted.
    """
    states = collections.Counter()
    for state in begins_empty(clips):
        states[state] += 0.5 / 4
    for state in begins_on_screen(clips):
        for p, event in options(state):
            states[state.after(event)] += 0.5 / 12 * p
    right = 0.0
    for _ in range(clips - 1):
        then = collections.Counter()
        for state, weight in states.items():
            choice = options(state)
            right += weight * max(p for p, _ in choice)
            for p, event in choice:
                then[state.after(event)] += weight * p
        states = then
    return right / (clips - 1)


def test_the_next_event_is_predictable_mostly_and_as_often_as_enumeration_says():
    """A player of the grammar that always bets on the likeliest option wins as often as `predictability` says."""
    assert 0.75 < predictability(12) < 0.85
    rng, wins, bets = np.random.default_rng(0), 0, 0
    for _ in range(1500):
        starts = begins_empty(12) if rng.random() < 0.5 else begins_on_screen(12)
        state = starts[rng.integers(len(starts))]
        while state.clips:
            possible = options(state)
            assert sum(p for p, _ in possible) == pytest.approx(1) and len({(e.kind, e.way) for _, e in possible}) == len(possible)
            event = possible[rng.choice(len(possible), p=[p for p, _ in possible])][1]
            if state.clips < 12:
                wins, bets = wins + (event == possible[0][1]), bets + 1
            assert possible[0][0] == max(p for p, _ in possible)
            state = state.after(event)
        assert state.returned
    assert wins / bets == pytest.approx(predictability(12), abs=0.012)


def test_stories_follow_the_grammars_frequencies(scripts):
    """After one comes in, and there is time, it crosses to the other side in 8 of 10 stories."""
    pairs = [(a.event, b.event) for _, shots in scripts for a, b in zip(shots, shots[1:-4]) if a.event.kind is Kind.COMES]
    crosses = np.mean([b == Event(Kind.MOVES, a.way.opposite) for a, b in pairs])
    assert len(pairs) > 300 and abs(crosses - 0.8) < 0.06


@given(st.integers(0, 10**6), st.sampled_from(Split))
def test_what_is_told_is_read(index, split):
    _, shots = Stories(split=split).script(index)
    for shot in shots:
        assert said(shot.caption) == said(shot.dense) == shot.event
        if "one" in shot.dense.split():
            assert said(shot.dense).actor == shot.event.actor


@given(
    st.one_of(
        st.just(Event(Kind.EMPTY)),
        st.builds(Event, st.just(Kind.RESTS), st.none(), st.just(0)),
        st.builds(Event, st.just(Kind.MOVES), st.sampled_from(Way), st.just(1)),
        st.builds(Event, st.sampled_from([Kind.LEAVES, Kind.COMES]), st.sampled_from([Way.LEFT, Way.RIGHT]), st.just(1)),
    ),
    st.sampled_from([None, *ROOMS]),
    st.integers(1, 2),
    st.booleans(),
)
def test_every_event_can_be_told_and_read(event, room, known, returns):
    who = subject(event.actor, known) if event.actor is not None else ""
    assert said(tell(event, who, room, returns)) == event


@given(st.lists(st.sampled_from("in the dark room it a red circle first one moves comes back from to left up stays empty".split()), max_size=12))
def test_whatever_is_read_is_a_sentence_of_the_language(words):
    event = said(" ".join(words))
    if event is not None:
        assert words[-1] == str(event).split()[-1] and event.kind.value.split()[0] in words


@pytest.mark.parametrize("text", ["", "it moves", "it moves sideways", "it leaves to the up", "moves left", "it moves left left", "it rests."])
def test_what_is_no_text_of_a_clip_names_no_event(text):
    assert said(text) is None


def accuracy(stories, change=lambda video: video) -> dict[str, float]:
    right = collections.defaultdict(list)
    for clip in (clip for story in stories for clip in story.clips):
        seen = check(change(clip.video))
        right["room"].append(seen.room == clip.room)
        right["presence"].append((seen.present > 0) == (clip.actor is not None))
        right["event"].append(seen.event == clip.event)
        right["ground"].append(seen.ground)
        if clip.actor:
            right["colour"].append(seen.colour == clip.actor.colour)
            right["wholly"].append(seen.wholly > 0)
        if clip.actor and seen.wholly:
            right["shape"].append(seen.shape == clip.actor.shape)
    return {name: float(np.mean(hits)) for name, hits in right.items()}


def test_the_checker_reads_true_clips(stories):
    right = accuracy(stories)
    assert right["ground"] < 0.5 and right["wholly"] == 1
    assert right["colour"] >= 0.99 and min(right["shape"], right["room"], right["presence"], right["event"]) >= 0.97, right


def test_the_checker_reads_blurred_and_noisy_clips(stories):
    rng = np.random.default_rng(0)

    def spoil(video):
        blurred = gaussian_filter(video.astype(float), (0, 1, 1, 0), mode="nearest")
        return (blurred + rng.normal(0, 12, video.shape)).clip(0, 255).astype(np.uint8)

    right = accuracy(stories[:10], spoil)
    assert min(right[name] for name in ("room", "presence", "colour", "shape", "event")) >= 0.95 and right["wholly"] >= 0.97, right


def test_the_checker_is_not_fooled_by_the_wrong_clip(stories):
    """Clips of other stories are read as what they are, so against these stories' truth it is right by chance alone."""
    wrong = [a.actor for story in stories for a in story.clips], [check(b.video).actor for story in stories[7:] + stories[:7] for b in story.clips]
    both = [(a, b) for a, b in zip(*wrong) if a and b]
    assert np.mean([a == b for a, b in both]) < 0.2


def test_a_ground_that_drifts_is_measured():
    room = ground_of("grey", 16, 16)
    video = np.repeat((room + 9)[None], 9, 0).astype(np.uint8)
    seen = check(video)
    assert seen.room == "grey" and seen.event == Event(Kind.EMPTY) and seen.colour is None and seen.actor is None
    assert seen.ground == pytest.approx(9, abs=0.6)


def test_stories_depend_on_seed_split_and_index_alone():
    one, again, other = Stories()[5], Stories(length=9)[5], Stories(seed=1)[5]
    assert np.array_equal(one.video, again.video) and one.title == again.title
    assert not np.array_equal(one.video, other.video)
    assert Stories().fingerprint != Stories(seed=1).fingerprint != Stories(seed=1, clips=6).fingerprint


@given(st.integers(2, 12), st.integers(12, 40), st.integers(12, 40), st.sampled_from([(5, 1), (6, 3), (12, 2), (24, 6)]), st.integers(0, 10**5))
def test_stories_of_any_size(frames, height, width, parts, index):
    stories = Stories(frames, height, width, *parts)
    story = stories[index]
    assert len(story.clips) == parts[0] and sum(clip.cut for clip in story.clips) == parts[1] - 1
    assert story.video.shape == (parts[0] * (frames - 1) + 1, height, width, 3) and story.video.dtype == np.uint8
    assert any(clip.returns for clip in story.clips)
    for before, clip in zip(story.clips, story.clips[1:]):
        assert clip.cut or np.array_equal(before.video[-1], clip.video[0])
    for clip in story.clips:  # outside is outside
        if clip.event.kind in (Kind.COMES, Kind.LEAVES):
            empty = clip.video[0 if clip.event.kind is Kind.COMES else -1]
            assert np.array_equal(empty, (ground_of(clip.room, height, width) + np.float32(0.5)).astype(np.uint8))


def test_single_clips_are_a_source_of_the_trainer():
    train, held_out = open_sources(TrainConfig(data="stories", frames=8, size="16x16"))
    assert isinstance(train, StoryClips) and len(train) == 1 << 20 and train.fingerprint == held_out.fingerprint
    example, story = train[7], train.stories[7]
    assert np.array_equal(example["video"], story.clips[7].video) and example["caption"] == story.clips[7].caption
    motion = train.scores()["motion"]
    assert motion.shape == (2048,) and motion[7] == example["scores"]["motion"] and motion.min() == 0 and 1 < motion.max() < 2
    trained = {str(actor) for actor in train.stories.actors}
    assert all(not any(actor in held_out[i]["caption"] for actor in trained) for i in range(50))


def test_the_clips_held_out_are_the_same_for_every_seed():
    (train, held_out), (other, same) = (open_sources(TrainConfig(data="stories", frames=8, size="16x16", seed=seed)) for seed in (0, 3))
    assert not np.array_equal(train[7]["video"], other[7]["video"]) and np.array_equal(held_out[7]["video"], same[7]["video"])


@pytest.mark.parametrize("wrong, sentence", [
    ({"height": 8}, "8×16"), ({"frames": 1}, "1 frames"), ({"clips": 4, "scenes": 1}, "4 clips"), ({"scenes": 5}, "12 clips in 5 scenes"),
])  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        Stories(**wrong)


def test_the_checker_refuses_what_is_no_clip():
    with pytest.raises(ValueError, match="float32"):
        check(np.zeros((9, 16, 16, 3), np.float32))
