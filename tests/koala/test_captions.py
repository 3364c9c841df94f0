"""Captions of six parts: schema, checks, endpoint, known texts."""
import itertools
import json
import math
import threading
import time
import urllib.error

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from koala_jax.captions.backend import Failure, Request
from koala_jax.captions.checks import Problem, problems
from koala_jax.captions.clips import Clip
from koala_jax.captions.endpoint import Endpoint, EndpointConfig, Refused
from koala_jax.captions.known import template
from koala_jax.captions.run import Captioned, caption_group
from koala_jax.captions.schema import WORDS, Caption, Part, prompt, whole_sentences
from tests.koala.caption_server import GOOD, Mood, serving

FRAMES = np.zeros((2, 8, 8, 3), np.uint8)
FAST = dict(backoff=0.01, tries=3)


def requests(number: int = 1) -> list[Request]:
    return [Request(Clip(f"{i}.mp4", f"{i}.mp4"), FRAMES, part) for i in range(number) for part in Part]


def test_the_prompts_ask_for_about_two_hundred_words_and_name_each_part_once():
    assert sum(WORDS.values()) == 200 and WORDS.keys() == set(Part)
    assert len({prompt(part) for part in Part}) == 6


def test_parts_are_merged_in_order_into_sentences():
    merged = Caption.of({Part.ACTIONS: "It  runs\nfast", Part.SUBJECT: "A dog.", Part.WORLD_KNOWLEDGE: "A setter?"})
    assert merged.text == "A dog. It runs fast. A setter?"
    assert Caption.of({}).text == ""


@given(st.dictionaries(st.sampled_from(Part), st.text(max_size=30)))
def test_merging_loses_no_word(texts):
    merged = Caption.of(texts)
    assert [w.rstrip(".") for w in merged.text.split()] == [w.rstrip(".") for part in Part for w in merged[part].split()]


@pytest.mark.parametrize("text, found", [
    ("", [Problem.MISSING]),
    (" … ", [Problem.MISSING]),
    ("A dog.", [Problem.SHORT]),
    (" ".join(f"word{i}" for i in range(136)), [Problem.LONG]),
    ("the dog runs and " * 6, [Problem.REPEATED]),
    ("I’m sorry, but I cannot describe people.", [Problem.REFUSED]),
    ("As an AI I see a dog that runs over the grass.", [Problem.REFUSED]),
    ("There are no images attached. Please provide the video.", [Problem.REFUSED]),
    ("I don't see any video in your message.", [Problem.REFUSED]),
    ("“I'm unable to help with this request.”", [Problem.REFUSED]),
    ("I'm not comfortable identifying the person in this clip, but it is a tall man.", [Problem.REFUSED]),
    ("I don't identify people based on their appearance.", [Problem.REFUSED]),
    ("I must decline to name the person who walks here.", [Problem.REFUSED]),
    ("There is no video attached to this message, only a text.", [Problem.REFUSED]),
    ("I apologize, but the frames are too dark to say more.", [Problem.REFUSED]),
    ("It seems that you haven't uploaded anything that could be described.", [Problem.REFUSED]),
    ("<think>A dog, it seems, and it runs.</think> A brown dog runs over the grass.", [Problem.THINKS]),
    ("Okay, so the user wants me to describe the subject. Let me look at the frames.", [Problem.THINKS]),
    ("The picture shows a dog. Wait, maybe it is a fox. I should say so.", [Problem.THINKS]),
    ("Sure! Here is a description of the clip: a brown dog runs over the grass.", [Problem.FORM]),
    ("Here's a caption: a brown dog runs over the grass.", [Problem.FORM]),
    ("- A brown dog with a collar\n- A meadow of short grass", [Problem.FORM]),
    ("1. A brown dog with a collar\n2. A meadow of short grass", [Problem.FORM]),
    ("**Subject:** a brown dog that runs over the grass.", [Problem.FORM]),
    ("Camera language: a medium shot that pans slowly.", [Problem.FORM]),
    ('```json\n{"subject": "a brown dog runs over the grass"}\n```', [Problem.FORM]),
    ('{"subject": "a brown dog runs over the short grass"}', [Problem.FORM]),
    ('["A brown dog", "runs over the short grass"]', [Problem.FORM]),
    ("<|im_start|>assistant A brown dog runs over the grass.", [Problem.FORM]),
    ('A woman holds a sign that says "I can\'t breathe" in red letters.', []),
    ("Собака бежит по траве the dog runs", [Problem.SCRIPT]),
    ("Señor Müller crosses the Ångström bridge at noon, an old man.", []),
    *((text, []) for text in GOOD.values()),
])  # fmt: skip
def test_what_is_wrong_with_a_text_is_found(text, found):
    assert problems(Part.SUBJECT, text) == found


SUBJECTS = (
    "A brown dog with a red collar", "Queen Elizabeth I", "The user of a tablet", "An elderly man in a \"Sure! Here is my heart\" T-shirt", "Player no. 10",
    "A blindfolded woman, unable to see the ball,", "A veteran of World War I", "An assistant in a white coat", "A crowd of 3-4 people",
)  # fmt: skip
DEEDS = (
    "walks from left to right", "asks the others for the ball", "holds a sign that reads I AM A MAN", "declines the drink and turns away", "thinks aloud, then waits",
    "plays guitar: first slowly, then fast", "types <b>bold</b> into an editor", "fails to lift the box", "points at a poster of “Let me be”", "scores 2*3 points",
    "stands before a note, \"I'm sorry, closed\", and leaves", "answers the question asked on the board in two words",
)  # fmt: skip
PLACES = (
    "in a hall where no video is shown", "beside a list of prices", "under a wide, overcast sky - it is noon", "in front of the #1 booth", "at 1.5 m from the camera",
    "on the stage of the Okay, Alright! festival", "where frames of bicycles hang",
)  # fmt: skip
SENTENCES = ["{} {} {}.".format(*words) for words in itertools.product(SUBJECTS, DEEDS, PLACES)]


def test_what_each_of_many_sentences_tells_is_taken_for_what_is_there():
    assert {text: found for text in SENTENCES if (found := problems(Part.SUBJECT, text))} == {}


@given(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=4), st.sampled_from((" ", "\n")))
def test_a_caption_that_tells_what_is_there_is_neither_refusal_nor_thought_nor_list(sentences, between):
    assert not {*problems(Part.SUBJECT, between.join(sentences))} - {Problem.LONG, Problem.REPEATED}


@pytest.mark.parametrize("text", ["1. FC Köln plays in red on its own ground.", "Sorry, we are closed, says a sign.", "Measured, not seen: things move 1.50 pixels a frame."])
def test_a_good_caption_may_begin_like_a_bad_one(text):
    assert problems(Part.SUBJECT, text) == []


@given(st.sampled_from(Part), st.text())
def test_any_text_can_be_checked(part, text):
    problems(part, text)


def test_an_endpoint_answers_every_part_with_bounded_concurrency_and_counts_its_cost(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    with serving(Mood.WELL) as server:
        endpoint = Endpoint(EndpointConfig(server.url, "m", "SOME_KEY", concurrency=3, price_in=2.0, price_out=10.0))
        asked = requests(2)
        assert endpoint(asked) == [GOOD[request.part] for request in asked]
    assert 1 < server.most <= 3 and set(server.keys) == {"Bearer secret"}
    assert endpoint.spent["calls"] == 12 and endpoint.spent["cost"] == pytest.approx(12 * (1000 * 2 + 50 * 10) / 1e6)
    images = [entry for entry in server.bodies[0]["messages"][0]["content"] if entry["type"] == "image_url"]
    assert len(images) == 2 and images[0]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")


def test_an_error_that_passes_is_survived():
    with serving(Mood.ERROR_ONCE) as server:
        asked = requests()
        assert Endpoint(EndpointConfig(server.url, **FAST))(asked) == [GOOD[request.part] for request in asked]
    assert len(server.parts) == 12


@pytest.mark.parametrize("mood, reason, calls", [
    (Mood.ERROR, "status 500 (3 tries)", 3),
    (Mood.SLOW, "no answer in 0.2 s (3 tries)", 3),
    (Mood.NONSENSE, "an answer that is no chat completion: b'<html>hello</html>' (3 tries)", 3),
    (Mood.TOO_LONG, "status 400: too many images [/INST] for Bearer (the key) (1 try)", 1),
    (Mood.CUT, "an answer that is no chat completion: b'{\"choices\": [{\"messa' (3 tries)", 3),
    (Mood.ENDLESS, "an answer that is no chat completion: b'{\"choices\": [{\"message\": {\"content\": \"A brown dog with a red' (3 tries)", 3),
    (Mood.NO_HTTP, "no connection: an answer that is no HTTP (3 tries)", 3),
    (Mood.DRIPS, "no answer in 0.2 s (3 tries)", 3),
])  # fmt: skip
def test_an_endpoint_that_stays_bad_costs_its_request_alone(mood, reason, calls, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(mood) as server:
        endpoint = Endpoint(EndpointConfig(server.url, seconds=0.2, **FAST))
        assert endpoint(requests()[:1]) == [Failure(reason)]
        assert len(server.parts) == calls


@pytest.mark.parametrize("mood, words", [(Mood.ERROR, "status 500: out of order"), (Mood.TOO_LONG, r"status 400: too many images .*"), (Mood.NONSENSE, "an answer that is no chat .*")])
def test_a_server_that_answers_nothing_ends_the_run_in_its_own_words(mood, words, monkeypatch):
    monkeypatch.setattr("koala_jax.captions.endpoint.IN_A_ROW", 12)
    with serving(mood) as server:
        endpoint = Endpoint(EndpointConfig(server.url, tries=1))
        endpoint(requests()), endpoint(requests()[:5])
        with pytest.raises(Refused, match=f"^{server.url} answered none of the last 17 requests: {words}; once it does the same command goes on$"):
            endpoint(requests())
        endpoint._failed = 11
        server.mood = Mood.WELL
        assert endpoint(requests()[:1]) == [GOOD[Part.SUBJECT]] and not endpoint._failed, "an answer says that it is there"


def test_a_wrong_key_and_a_server_that_is_not_there_are_told_apart():
    with serving(Mood.WRONG_KEY) as server, pytest.raises(Refused, match="refuses with status 401: no such key"):
        Endpoint(EndpointConfig(server.url, **FAST))(requests()[:1])
    with pytest.raises(Refused, match=r"^http://\S+: no connection: Connection refused \(3 tries\); once it answers the same command goes on$"):
        Endpoint(EndpointConfig(server.url, **FAST))(requests())


def test_one_request_without_a_connection_among_good_ones_costs_itself_alone(monkeypatch):
    with serving(Mood.WELL) as server:
        endpoint, asked = Endpoint(EndpointConfig(server.url, **FAST)), requests()
        reach = endpoint._opener.open

        def once(call, timeout):
            if prompt(Part.SUBJECT)[:20].encode() in call.data:
                raise urllib.error.URLError(ConnectionRefusedError(111, "Connection refused"))
            return reach(call, timeout=timeout)

        monkeypatch.setattr(endpoint._opener, "open", once)
        answers = endpoint(asked)
    assert answers[0].reason == "no connection: Connection refused (3 tries)"
    assert answers[1:] == [GOOD[request.part] for request in asked[1:]]


@pytest.mark.parametrize("drops", [ConnectionResetError(104, "Connection reset by peer"), BrokenPipeError(32, "Broken pipe")])
def test_a_server_that_drops_what_it_took_is_there(drops, monkeypatch):
    """As one to which a clip is too large: the clips behind it are asked about."""
    endpoint = Endpoint(EndpointConfig(**FAST))
    monkeypatch.setattr(endpoint._opener, "open", lambda *_, **__: (_ for _ in ()).throw(urllib.error.URLError(drops)))
    assert endpoint(requests()[:1]) == [Failure(f"no connection: {drops.strerror} (3 tries)")]


def test_a_key_goes_to_no_other_address_and_into_no_message(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    with serving(Mood.WELL) as server:
        Endpoint(EndpointConfig(server.url))(requests()[:1])
    assert server.keys == ["Bearer secret"]
    with serving(Mood.MOVED) as server, pytest.raises(Refused, match="status 302: http://localhost:1/v1"):
        Endpoint(EndpointConfig(server.url))(requests()[:1])
    monkeypatch.setenv("OPENAI_API_KEY", "sec\nret")
    with pytest.raises(ValueError, match="^the key in OPENAI_API_KEY holds a character that no header can hold$"):
        Endpoint(EndpointConfig())
    with pytest.raises(ValueError, match="'localhost:8000/v1' must begin with http:// or https://"):
        Endpoint(EndpointConfig("localhost:8000/v1"))


@pytest.mark.parametrize(
    "name, value, least",
    [("tries", 0, 1), ("most", 0, 1), ("seconds", 0.0, 0.001), ("seconds", math.inf, 0.001), ("backoff", -1.0, 0), ("price-in", math.nan, 0), ("price-out", -1.0, 0)],
)
def test_a_wrong_setting_of_an_endpoint_is_named(name, value, least):
    with pytest.raises(ValueError, match=f"^--endpoint.{name} {value:g}: a number from {least} to 1000000 is wanted$"):
        EndpointConfig(**{name.replace("-", "_"): value})


def test_what_ends_a_run_ends_the_pauses_too():
    begun = time.monotonic()
    with serving(Mood.WRONG_FOR_ONE) as server, pytest.raises(Refused, match="status 401"):
        Endpoint(EndpointConfig(server.url, backoff=60))(requests(2))
    while any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()):
        assert time.monotonic() - begun < 5, "a request waits to be tried again"
        time.sleep(0.01)
    assert len(server.parts) <= 12


@pytest.mark.parametrize("mood", [Mood.SLOW, Mood.DRIPS])
def test_who_stops_does_not_wait_for_answers(mood):
    with serving(mood) as server:

        def stopped():
            yield from requests()[:2]
            while len(server.parts) < 2:
                time.sleep(0.01)
            time.sleep(0.1)  # drips have begun
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Endpoint(EndpointConfig(server.url))(stopped())
        begun = time.monotonic()
        while any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()):
            assert time.monotonic() - begun < 0.7, "an answer is waited for"
            time.sleep(0.01)


@pytest.mark.parametrize("text, whole", [
    ("It runs. It turns (slowly). It st", "It runs. It turns (slowly)."),
    ("He says “Stop!” and ru", "He says “Stop!”"),
    ("At 1.5 m from the ca", "At 1.5 m from the ca"),
    ("", ""),
])  # fmt: skip
def test_of_an_answer_that_was_cut_off_the_whole_sentences_stay(text, whole):
    assert whole_sentences(text) == whole
    with serving(Mood.WELL, GOOD | {Part.SUBJECT: "It is brown. It wears a red collar."}) as server:
        answers = [Endpoint(EndpointConfig(server.url, most=most))(requests()[:1]) for most in (4, 8)]
    assert answers == [["It is brown."], ["It is brown. It wears a red collar."]]


def test_half_a_character_becomes_one_that_a_table_can_hold():
    with serving(Mood.HALF_A_CHARACTER) as server:
        (answer,) = Endpoint(EndpointConfig(server.url))(requests()[:1])
    assert answer == GOOD[Part.SUBJECT] + "?"


def test_a_refusal_is_asked_again_and_counted():
    with serving(Mood.REFUSAL_FIRST) as server:
        (done,) = caption_group([(Captioned(Clip("a", "a")), FRAMES)], Endpoint(EndpointConfig(server.url, **FAST)), attempts=3)
    assert done.caption == Caption.of(GOOD) and not done.problems
    assert done.caught == {"refuses": 6} and done.attempts == 12
    assert {body["temperature"] for body in server.bodies} == {0.0, 0.7}


@pytest.mark.parametrize("useless, why", [("I'm sorry, I cannot.", "refuses"), ("<think>So I look at it, and then", "thinks aloud")])
def test_what_stays_wrong_is_marked_and_what_says_nothing_of_the_clip_is_never_kept(useless, why):
    answers = {Part.SUBJECT: useless, Part.ACTIONS: Failure("status 500"), Part.ENVIRONMENT: "Grass."}
    asked = []

    def answer(requests: list[Request]) -> list[str | Failure]:
        asked.extend(request.part for request in requests)
        return [answers.get(request.part, GOOD[request.part]) for request in requests]

    (done,) = caption_group([(Captioned(Clip("a", "a")), FRAMES)], answer, attempts=2)
    assert sorted(asked[6:], key=list(Part).index) == [Part.SUBJECT, Part.ENVIRONMENT], "a failure has had its tries"
    assert done.problems == {Part.SUBJECT: why, Part.ACTIONS: "status 500", Part.ENVIRONMENT: "too short"}
    assert (done.caption.subject, done.caption.actions, done.caption.environment) == ("", "", "Grass.")


def test_only_what_is_wrong_is_asked_again_and_a_failure_takes_no_text_away():
    new = Captioned(Clip("a", "a"))
    answers = GOOD | {Part.ACTIONS: "It runs.", Part.ENVIRONMENT: Failure("status 500")}
    (first,) = caption_group([(new, FRAMES)], lambda asked: [answers[r.part] for r in asked], attempts=1)
    first = Captioned.of(new.clip, json.loads(json.dumps(first.row())))
    assert first.problems == {Part.ACTIONS: "too short", Part.ENVIRONMENT: "status 500"} and first.attempts == 6
    asked = []

    def down(requests: list[Request]) -> list[Failure]:
        asked.extend((request.part, request.attempt) for request in requests)
        return [Failure("no connection") for _ in requests]

    (second,) = caption_group([(first, FRAMES)], down, attempts=1)
    assert asked == [(Part.ACTIONS, 1), (Part.ENVIRONMENT, 0)], "what was answered once is drawn, and not said again"
    assert second.caption == first.caption and second.caption.actions == "It runs."
    assert second.problems == {Part.ACTIONS: "too short", Part.ENVIRONMENT: "no connection"} and second.attempts == 8
    (third,) = caption_group([(second, FRAMES)], lambda asked: [GOOD[r.part] for r in asked], attempts=1)
    assert third.done and third.caption == Caption.of(GOOD)


def test_the_template_says_what_metrics_know_and_nothing_else():
    clip = Clip("a.mp4", "a.mp4", row={"motion": 1.5, "clarity": "0.75", "aesthetic": float("nan")})
    said = dict(zip(Part, template([Request(clip, FRAMES, part) for part in Part])))
    assert said[Part.ACTIONS] == "Measured, not seen: things move 1.50 pixels a frame."
    assert said[Part.VISUAL_LANGUAGE] == "Measured, not seen: the clarity is 0.75 of 1."
    assert not any(said[part] for part in (Part.SUBJECT, Part.ENVIRONMENT, Part.CAMERA_LANGUAGE, Part.WORLD_KNOWLEDGE))
