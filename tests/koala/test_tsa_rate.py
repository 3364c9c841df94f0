"""Rating clips: the order, the table, agreement, and the page's server."""
import json
import re
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from core_jax import cli, video
from koala_jax.tsa.labels import LabelTable
from koala_jax.tsa.playable import Playable, copy
from koala_jax.tsa.rate import RateConfig, Session, handler, main, show
from koala_jax.tsa.ratings import APART, ASPECTS, Rating, Ratings, order
from tests.core.video_files import level, make


@given(st.integers(1, 60), st.floats(0, 1), st.text("ab", min_size=1, max_size=3), st.integers(0, 99))
def test_every_clip_comes_once_and_repeats_come_later(number, repeats, rater, seed):
    files = [f"{i}.mp4" for i in range(number)]
    looks = order(files, repeats, rater, seed)
    first = {file: i for i, (file, repeat) in enumerate(looks) if not repeat}
    again = {file: i for i, (file, repeat) in enumerate(looks) if repeat}
    assert set(first) == set(files) and len(again) == round(repeats * number) and len(looks) == len(first) + len(again)
    assert all(again[file] > first[file] for file in again)
    assert looks == order(files, repeats, rater, seed)


def test_repeats_are_not_next_to_their_first_look():
    looks = order([f"{i}" for i in range(100)], 0.2, "ann", 0)
    assert all(looks.index((file, 1)) - looks.index((file, 0)) >= APART for file, repeat in looks if repeat)


def rate(ratings, rater, file, overall, repeat=0):
    ratings.add(Rating(rater, file, repeat, 3, 3, 3, overall))


def test_ratings_become_labels_and_agreement(tmp_path):
    ratings = Ratings(tmp_path / "labels.csv")
    for i, (ann, ben) in enumerate([(1, 2), (3, 3), (5, 5)]):
        rate(ratings, "ann", f"{i}.mp4", ann)
        rate(ratings, "ben", f"{i}.mp4", ben)
    rate(ratings, "ann", "0.mp4", 3, repeat=1)
    rate(ratings, "ben", "3, last.mp4", 4)
    rate(ratings, "ben", "3, last.mp4", 2)
    again = Ratings(tmp_path / "labels.csv")
    assert again.rows == ratings.rows and len(again.rows) == 8
    table = LabelTable.read(tmp_path / "labels.csv")
    assert table.raters == ("ann", "ben") and table.files == ("0.mp4", "1.mp4", "2.mp4", "3, last.mp4")
    assert table.ratings[:3].tolist() == [[2, 2], [3, 3], [5, 5]] and table.ratings[3, 1] == 2
    agreed = again.agreement()
    assert agreed["ann and ben"] == {"clips": 3, "SRCC": pytest.approx(1), "mean |difference|": pytest.approx(1 / 3)}
    assert agreed["ann again"]["clips"] == 1 and agreed["ann again"]["mean |difference|"] == 2


def test_an_agreement_that_is_none_says_why(tmp_path, capsys):
    session = Session(RateConfig(str(make(tmp_path / "0.mp4").parent), "ann", str(tmp_path / "labels.csv")))
    for file, ann, ben in (("0.mp4", 1, 2), ("1.mp4", 3, 2)):
        rate(session.ratings, "ann", file, ann)
        rate(session.ratings, "ben", file, ben)
    rate(session.ratings, "ann", "0.mp4", 3, repeat=1)
    show(session, cli.console())
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert rows == [
        ["ann and ben", "2", "one side is all alike", "1.00"], ["ann again", "1", "at least 2 clips are needed", "2.00"],
        ["ben again", "0", "at least 2 clips are needed", ""],
    ]  # fmt: skip


def test_two_sessions_at_once_lose_nothing(tmp_path, monkeypatch):
    """Nor where one reads while the other has yet to write."""
    one, other = Ratings(tmp_path / "labels.csv"), Ratings(tmp_path / "labels.csv")
    read = Ratings._read
    monkeypatch.setattr(Ratings, "_read", lambda self: (read(self), time.sleep(0.02))[0])
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda ratings, rater: [rate(ratings, rater, f"{i}.mp4", score) for i, score in ((0, 1), (1, 3))], (one, other), ("ann", "ben")))
    table = LabelTable.read(tmp_path / "labels.csv")
    assert table.raters == ("ann", "ben") and table.ratings.tolist() == [[1, 1], [3, 3]] and len(Ratings(tmp_path / "labels.csv").rows) == 4


def test_a_rating_is_from_1_to_5(tmp_path):
    with pytest.raises(ValueError, match="overall 6: a rating is a whole number from 1 to 5"):
        Rating("ann", "a", 0, 1, 1, 1, 6)
    for no in (True, 3.0, "3"):
        with pytest.raises(ValueError, match="a rating is a whole number"):
            Rating("ann", "a", 0, 1, 1, 1, no)
    (tmp_path / "labels.ratings.csv").write_text("file,a\nx,1\n")
    with pytest.raises(ValueError, match="is no table of ratings"):
        Ratings(tmp_path / "labels.csv")


def test_labels_that_came_from_elsewhere_are_not_written_over(tmp_path):
    (tmp_path / "labels.csv").write_text("file,score\na.mp4,3.5\n")
    with pytest.raises(ValueError, match="labels.csv is there, and no labels.ratings.csv beside it.*give another --out"):
        Ratings(tmp_path / "labels.csv")


@pytest.fixture
def served(tmp_path):
    (tmp_path / "clips").mkdir()
    for i in range(3):
        make(tmp_path / "clips" / f"{i}.mp4", i + 1)
    session = Session(RateConfig(str(tmp_path / "clips"), "ann", str(tmp_path / "labels.csv"), repeats=0.34))
    with Playable() as playable, ThreadingHTTPServer(("127.0.0.1", 0), handler(session, playable)) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", session
        server.shutdown()


def get(address: str, **headers) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def post(address: str, answer, kind: str = "application/json", to: str = "rate") -> int:
    try:
        data = json.dumps(answer).encode()
        return urllib.request.urlopen(urllib.request.Request(f"{address}/{to}", data, {"Content-Type": kind})).status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_rater_goes_through_all_clips_and_the_page_is_not_told_which(served, tmp_path):
    address, session = served
    assert b"keydown" in get(address)[1]
    seen = []
    while not (look := json.loads(get(f"{address}/next")[1]))["done"]:
        assert set(look) == {"done", "look", "place", "all"} and look["place"] == len(seen) + 1
        seen.append(get(f"{address}/clip/{look['look']}")[1])
        assert post(address, {"look": look["look"], "dynamic": 1, "static": 2, "naturalness": 3, "overall": 4}) == 200
    assert len(seen) == 4 and set(seen) == {path.read_bytes() for path in (tmp_path / "clips").iterdir()}
    assert len(Ratings(session.config.out).rows) == 4
    first = f"{address}/clip/{next(iter(session.looks))}"
    assert get(first, Range="bytes=4-") == (206, seen[0][4:])
    assert get(first, Range="bytes=0-1") == (206, seen[0][:2]), "Safari plays nothing that answers this with more"


def test_what_a_browser_does_not_play_it_gets_as_a_copy(tmp_path):
    plain = [make(tmp_path / "a.mp4"), make(tmp_path / "b.webm", codec="libvpx-vp9")]
    others = [make(tmp_path / "c.mkv"), make(tmp_path / "d.mp4", codec="mpeg4"), make(tmp_path / "e.mp4", pix_fmt="yuv420p10le")]
    others.append(make(tmp_path / "f.mkv", stamps=[*range(0, 400, 40), *range(400, 1200, 80)]))
    with Playable() as playable:
        assert [playable(epath.Path(path)) for path in plain] == plain
        for path in others:
            copied = playable(epath.Path(path))
            was, now = video.probe(path), video.probe(copied)
            assert copied.suffix == ".mp4" and now.codec == "h264" and now.duration == pytest.approx(was.duration, abs=0.1) and playable(epath.Path(path)) == copied
            shown = [frame[-9:, -9:].mean() for _, _, frame in video.frames(copied)]
            assert len(shown) == 20 and shown[0] == pytest.approx(level(0), abs=4) and shown[-1] == pytest.approx(level(19), abs=4)
        (tmp_path / "text.mp4").write_text("no video")
        with pytest.raises(ValueError, match="text.mp4: FFmpeg says"):
            playable(epath.Path(tmp_path / "text.mp4"))
    assert not copied.exists()


def test_a_copy_has_the_shape_that_is_shown(tmp_path):
    """Of 48 × 64 pixels each half as wide again as it is high, upright and on their side."""
    for name, rotate, shape in (("a.mkv", None, (48, 96)), ("b.mkv", (90, False), (96, 48))):
        copy(str(make(tmp_path / name, 4, pixel=(3, 2), rotate=rotate)), str(tmp_path / "copy.mp4"))
        assert next(video.frames(tmp_path / "copy.mp4"))[2].shape[:2] == shape


def test_a_page_left_open_rates_its_own_clip_though_others_have_come(served, tmp_path):
    _, session = served
    look = session.next()["look"]
    file = session.looks[look][0]
    for i in range(9):
        (tmp_path / "clips" / f"new{i}.mp4").touch()
    again = Session(session.config)
    assert list(again.looks) != list(session.looks)[: len(again.looks)] and len(again.looks) > len(session.looks)
    assert all(again._look(name) == seen for name, seen in session.looks.items() if not seen[1]), "which come again may have changed"
    again.rate({"look": look, "dynamic": 1, "static": 2, "naturalness": 3, "overall": 4})
    assert [row.file for row in again.ratings.rows] == [file]


def test_what_is_no_rating_is_refused_and_files_are_not_reached(served):
    address, session = served
    whole = {"look": session.next()["look"], "dynamic": 1, "static": 2, "naturalness": 3, "overall": 4}
    assert all(post(address, whole | {"overall": score}) == 400 for score in (0, 6, "x", "3", 2.5, True, None)) and post(address, whole | {"look": 99}) == 400
    assert post(address, [1]) == 400 and post(address, whole | {"look": [1]}) == 400 and post(address, {"look": whole["look"]}) == 400 and post(address, whole, "text/plain") == 404
    for away in ("../labels.csv", "../../../../../../../../etc/passwd", "%2e%2e%2flabels.csv", "//etc/passwd", "0.mp4", ""):
        assert get(f"{address}/clip/{away}")[0] == 400 and get(f"{address}/{away or 'clip'}")[0] == 404
    assert get(f"{address}/clip/-1")[0] == 400 and get(f"{address}/etc")[0] == 404
    assert session.ratings.rows == []


def test_of_ratings_that_come_at_once_each_look_keeps_one_and_none_is_lost(served, tmp_path, monkeypatch):
    """As from two windows of one rater, with time enough between reading and writing for another to come."""
    address, session = served
    read = Ratings._read
    monkeypatch.setattr(Ratings, "_read", lambda self: (read(self), time.sleep(0.02))[0])
    answers = [{"look": look, "dynamic": 1, "static": 2, "naturalness": 3, "overall": score} for score in (1, 5) for look in session.looks]
    with ThreadPoolExecutor(8) as clients:
        assert set(clients.map(lambda answer: post(address, answer), answers)) == {200}
    assert post(address, answers[0] | {"overall": 4}) == 200
    kept = {(row.file, row.repeat): row.overall for row in Ratings(tmp_path / "labels.csv").rows}
    assert len(session.ratings.rows) == len(kept) == 4 and kept.pop(session.looks[answers[0]["look"]]) == 4 and set(kept.values()) <= {1, 5}
    assert json.loads(get(f"{address}/next")[1]) == {"done": True}


def test_the_page_asks_for_what_is_kept_at_the_addresses_that_answer(served):
    address, _ = served
    page = get(address)[1].decode()
    assert tuple(json.loads(re.search(r"const aspects = (\[.*?\]);", page)[1])) == ASPECTS
    assert tuple(re.findall(r"^  (\w+): \"", re.search(r"const questions = {(.*?)};", page, re.S)[1], re.M)) == ASPECTS
    assert set(re.findall(r"fetch\(\"(\w+)\"", page)) == {"next", "rate", "skip"} and "`clip/${look.look}`" in page
    used = set(re.findall(r"at\(\"(\w+)\"\)", page))
    assert used == set(re.findall(r"id=\"(\w+)\"", page)), "each element that the script takes is there"
    assert "http" not in page, "it fetches nothing from elsewhere"


def test_a_clip_that_was_not_seen_is_left_out_with_its_repeat_and_not_rated(served):
    address, session = served
    page = get(address)[1].decode()
    assert re.search(r"event.key <= \"5\" && !at\(\"clip\"\).hidden", page) and re.search(r"failed && event.key.toLowerCase\(\) === \"s\"", page)
    look = session.next()["look"]
    file = session.looks[look][0]
    assert post(address, {"look": look}, to="skip") == 200 and all(post(address, what, to="skip") == 400 for what in ([1], {}, {"look": 9}, {"look": "x"}))
    shown = []
    while not (following := session.next())["done"]:
        shown.append(session.looks[following["look"]][0])
        assert post(address, {"look": following["look"], "dynamic": 1, "static": 2, "naturalness": 3, "overall": 4}) == 200
    assert file not in shown and len(set(shown)) == 2 and file not in {row.file for row in session.ratings.rows}
    assert not Session(session.config).next()["done"], "it is shown again by the next start"


def test_what_the_disk_refuses_is_said_on_the_page(served, tmp_path):
    address, session = served
    look = session.next()["look"]
    (tmp_path / "labels.ratings.csv").mkdir()
    assert post(address, {"look": look, "dynamic": 1, "static": 2, "naturalness": 3, "overall": 4}) == 500
    session.clip(look).unlink()
    assert get(f"{address}/clip/{look}") == (400, f"there is no file or folder {session.clip(look)}".encode())


def test_who_moves_on_before_an_answer_leaves_no_traceback(tmp_path, capsys):
    """As a browser does with a clip that cannot be read."""
    asked, left = threading.Event(), threading.Event()

    def slow(path):
        asked.set()
        left.wait(10)
        raise ValueError("x" * 10**7)

    session = Session(RateConfig(str(make(tmp_path / "0.mp4").parent), "ann", str(tmp_path / "labels.csv")))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(session, slow)) as server:
        server.daemon_threads = False  # closing waits for what is being answered
        threading.Thread(target=server.serve_forever).start()
        with socket.create_connection(server.server_address) as client:
            client.sendall(f"GET /clip/{session.next()['look']} HTTP/1.0\r\n\r\n".encode())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed at once, as by a reset
            asked.wait(10)
        left.set()
        server.shutdown()
    assert capsys.readouterr().err == ""


def test_bad_settings_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="--repeats 2: a number from 0 to 1"):
        RateConfig("x", "ann", repeats=2)
    with pytest.raises(ValueError, match="a name is wanted"):
        RateConfig("x", " ")
    with pytest.raises(ValueError, match="--port 65536: a number from 0"):
        RateConfig("x", "ann", port=65536)
    (tmp_path / "a.csv").mkdir()
    for out, said in (("labels.parquet", "must end in .csv"), (str(tmp_path / "a.csv"), "is a folder, and a file is wanted")):
        with pytest.raises(ValueError, match=f"--out {out} {said}"):
            RateConfig("x", "ann", out)


def test_a_port_that_another_has_is_named(served, tmp_path, fails):
    address, _ = served
    port = address.rsplit(":", 1)[1]
    assert f"--port {port}: Address already in use; name another one" in fails(main, [str(tmp_path / "clips"), "--rater", "ben", "--port", port])


def test_who_stops_before_the_first_rating_is_told_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "0.mp4").touch()
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", lambda self: None)
    main([str(tmp_path), "--rater", "ann", "--port", "0", "--out", str(tmp_path / "labels.csv")])
    said = capsys.readouterr().out
    assert "nothing was rated" in said and "wrote" not in said
