"""What the commands of a world model refuse and say of themselves, where nothing is trained or filmed."""
import dataclasses
from unittest import mock

import numpy as np
import pytest
from etils import epath

from owl_jax import evaluate, generate, run, train, ways
from owl_jax.stages import Stage, stories
from tests.owl.small import pieces
from videodit_jax import train as film_train


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--lmm", "nowhere"], "there is no file or folder"),
        (["--data", "nowhere"], "there is no file or folder nowhere"),
        (["--data", "empty"], "empty holds no video"),
        (["--clips", "4"], "--clips 4: stories have three scenes"),
        (["--out", "[3]"], "for [ in a path means a pattern"),
    ],
)
def test_what_cannot_be_is_said_before_a_film_model_is_trained(flags, said, tmp_path, monkeypatch, fails):
    monkeypatch.setattr(train, "film_model", lambda config: pytest.fail("hours have begun"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert said in fails(train.main, ["--stage", "align", "--out", "new", *flags])


@pytest.mark.parametrize(
    "name, held, said", [("notes.txt", "mine", "align is not empty and holds no stage; give another --out"), ("config.json", "{}", "not the config of a stage")]
)
def test_a_folder_of_something_else_is_refused_before_the_films_are_opened(name, held, said, tmp_path, monkeypatch, fails):
    monkeypatch.setattr(train, "open_films", lambda *_: pytest.fail("hours have begun"))
    (tmp_path / "align").mkdir()
    (tmp_path / "align" / name).write_text(held)
    for film in ([], ["--film", str(tmp_path / "align")]):
        assert said in fails(train.main, ["--stage", "align", "--out", str(tmp_path), *film])
    assert [path.name for path in tmp_path.rglob("*.*")] == [name]


def test_a_stage_keeps_whole_paths_of_its_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = train.parse(["--stage", "film", "--film", "runs/x", "--lmm", "gs://bucket/lmm"])
    assert config.film == str(tmp_path / "runs" / "x") and config.lmm == "gs://bucket/lmm" and train.parse(["--stage", "film"]).film is None


def test_the_command_that_goes_on_has_the_settings_in_which_stages_agree():
    assert train.following(train.parse(["--stage", "world", "--out", "my runs"])) == "owl_jax.generate --run 'my runs'"
    then = lambda *flags: train.following(train.parse(["--out", "runs/x", *flags])).split()[1:]
    assert then("--stage", "align") == "--stage film --preset stories --out runs/x".split()
    after = then(*"--stage align --data clips --film /runs/film --owl.queries 4 --tuning lora --batch 3".split())
    assert after == "--stage film --preset stories --film /runs/film --tuning lora --owl.queries 4 --data clips --out runs/x".split()
    assert train.parse(after).owl.queries == 4
    assert then("--stage", "film", "--data", "clips")[-4:] == ["--data", "VRIPT_OR_ACTIVITYNET", "--out", "runs/x"]


def test_a_film_model_of_more_steps_than_its_preset_has_ended(tmp_path):
    config = train.parse(["--stage", "align", "--out", str(tmp_path)])
    with mock.patch.object(train, "newest", lambda path: train.film_preset("stories").steps + 1):
        assert train.film_model(config)
    with mock.patch.object(train, "newest", lambda path: 1), mock.patch.object(film_train, "train") as trained:
        assert not train.film_model(config) and trained.call_args.args[0].out == str(tmp_path / "video")
        trained.return_value.step = train.film_preset("stories").steps
        assert train.film_model(config)


@pytest.mark.parametrize("setting", ["history_noise", "own_history"])
def test_a_change_of_pixels_is_refused_where_the_language_model_reads_codes(setting):
    config = dataclasses.replace(stories(Stage.WORLD), **{setting: 0.5})
    train.refuse(config, pieces(), 1024)
    with pytest.raises(ValueError, match="both change pixels, and this language model reads codes"):
        train.refuse(config, dataclasses.replace(pieces(), encode=lambda frames: frames), 1024)


def test_films_are_made_on_one_host(fails):
    with mock.patch.object(run.jax, "process_count", lambda: 2):
        for command in (generate, evaluate):
            assert "films are made on one host, and this job has 2" in fails(command.main, [])


def test_a_typed_line_that_is_too_long_is_asked_for_again():
    console, current = mock.Mock(input=mock.Mock(side_effect=["it rests " * 20, "it rests"])), mock.Mock(pieces=pieces())
    assert generate.asking(console, mock.Mock(said=lambda t: None))(current, 0) == ["it rests"]
    assert "and the model takes 6" in console.print.call_args.args[0]
    current.hear.assert_called_once_with(["it rests"])


def test_who_ends_the_input_has_ended_the_film():
    for end in ("q", EOFError):
        with pytest.raises(generate.Quit):
            generate.asking(mock.Mock(input=mock.Mock(side_effect=[end])), mock.Mock(said=lambda t: None))(mock.Mock(), 0)


def test_films_that_were_lost_are_made_again(tmp_path):
    path, made = epath.Path(tmp_path) / "loop.npz", ways.Filmed(np.zeros((1, 1, 2, 8, 8, 3), np.uint8), [["it rests"]])
    assert evaluate._kept(path, "as now") is None
    evaluate._keep(path, made, "as now")
    assert evaluate._kept(path, "as now").said == made.said and evaluate._kept(path, "otherwise") is None
    for left in (100, 0):
        path.write_bytes(path.read_bytes()[:left])
        assert evaluate._kept(path, "as now") is None
