"""The three stages by their command, one after the other on tiny sizes: what learns, resuming, what a run refuses; then a film and its figures."""
import dataclasses
import functools
import json
import shutil
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image

from core_jax import mesh, video
from core_jax.cores import cores
from core_jax.tensors import save_file
from core_jax.weights import named
from owl_jax import evaluate, generate, run, train, ways, world
from owl_jax.stages import SMALL_DECODER, SMALL_TOWER, Stage
from tests.videodit import small as film_small
from videodit_jax import train as film_train
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import Dtype
from videodit_jax.flow import Guidance
from videodit_jax.model import abstract_model
from videodit_jax.run import WEIGHTS, Run, is_map

FILM = [*film_small.FLAGS, *"--preset tiny --data stories --model.given --model.layers 1 --frames 5 --model.patch 5 4 4 --fps 2".split()]
ALL = mesh.build
"""over all devices"""
OWL = (
    "--clips 6 --owl.queries 3 --owl.words 16 --owl.width 16 --owl.layers 0 --owl.heads 2 --batch 2 --filmed 2 --eval-films 2 --report.no-tensorboard "
    "--checkpoint-every 1 --eval-every 2"
).split()


@pytest.fixture(scope="module", autouse=True)
def small():
    """What is compared here is neither sizes nor how devices share the work. Most of the time goes into compiling three steps."""
    one = functools.partial(mesh.build, devices=jax.devices()[:1])
    decoder = dataclasses.replace(SMALL_DECODER, width=32, layers=1, heads=2, kv_heads=2, mlp=32)
    tower = dataclasses.replace(SMALL_TOWER, width=16, layers=1, heads=2, mlp=16)
    sizes = mock.patch.multiple(run, SMALL_DECODER=decoder, SMALL_TOWER=tower)
    with sizes, mock.patch.object(mesh, "build", one):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All stages, two steps each; the clips are of 12×12."""
    out = tmp_path_factory.mktemp("owl")
    config = film_train.parse([*FILM, "--steps", "2"])
    statistics = ScoreStatistics.of({name: np.array([]) for name in config.model.scores})
    (out / "film").mkdir()
    Run(config, statistics, "").write(out / "film")
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract_model(config.model))
    save_file(out / "film" / WEIGHTS, film_small.shaken(zeros))
    for stage in Stage:
        step(out, stage)
    return out


def step(out, stage: Stage, *flags: str) -> None:
    train.main(["--stage", stage.value, "--film", str(out / "film"), "--out", str(out / "run"), *OWL, "--steps", "2", *flags])


def losses(out, stage: Stage) -> list[float]:
    rows = [json.loads(line) for line in (out / "run" / stage.value / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def model(out, stage: Stage | None):
    config, on = run.read(out / "run", stage or Stage.ALIGN), mesh.build()
    with jax.set_mesh(on):
        owl, *_ = run.build(config, on)
        return named(owl if stage is None else run.restored(config, owl, on))


def test_each_stage_changes_what_it_shall_and_starts_from_the_one_before(folder):
    start, align, film, world = (model(folder, stage) for stage in (None, *Stage))
    changed = lambda a, b, part: any((np.asarray(a[name]) != np.asarray(b[name])).any() for name in a if name.startswith(part))
    assert not changed(start, align, "film.") and all(changed(start, align, part) for part in ("lmm.", "queries.", "connector."))
    assert changed(align, film, "film.blocks") and not changed(align, film, "film.text.") and changed(align, film, "null")
    assert changed(film, world, "lmm.") and changed(film, world, "film.blocks")
    nearer = lambda a, b, c: np.abs(np.asarray(a) - b).mean() < np.abs(np.asarray(a) - c).mean()
    name = "connector.down.w"
    assert nearer(film[name], align[name], start[name]), "a stage goes on from the one before"
    assert all(len(losses(folder, stage)) == 2 and np.isfinite(losses(folder, stage)).all() for stage in Stage)


def test_a_stage_that_was_interrupted_ends_as_if_it_had_not_been(folder, tmp_path, capsys):
    for stage in ("align", "film"):
        shutil.copytree(folder / "run" / stage, tmp_path / "run" / stage)
    shutil.rmtree(tmp_path / "run" / "film" / "checkpoints" / "2")
    args = ["--stage", "film", "--film", str(folder / "film"), "--out", str(tmp_path / "run"), *OWL, "--steps", "2"]
    train.main(args)
    whole, again = model(folder, Stage.FILM), model(tmp_path, Stage.FILM)
    for name in whole:
        np.testing.assert_array_equal(whole[name], again[name])
    assert len(losses(tmp_path, Stage.FILM)) == 2
    following = f"next: python -m owl_jax.train --stage world --preset stories --film {folder / 'film'} --owl.queries 3 "
    assert "".join(following.split()) in "".join(capsys.readouterr().out.split()), "without these the next stage is refused"
    log = (tmp_path / "run" / "film" / "log.jsonl").read_bytes()
    train.main(args)
    said = capsys.readouterr().out
    assert "film has made all its 2 steps; next: python -m owl_jax.train --stage world" in said and "loss" not in said
    assert (tmp_path / "run" / "film" / "log.jsonl").read_bytes() == log


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--stage", "world", "--out", "NEW"], "has no stage film: run python -m owl_jax.train --stage film"),
        (["--stage", "align", "--film", "/nowhere", "--out", "NEW"], "there is no file or folder /nowhere"),
        (["--stage", "align", "--out", __file__], "test_train.py is no folder"),
        (["--stage", "play"], "the stages are align, film, world"),
        (["--stage", "world", "--preset", "none"], "the presets stories, 7b"),
        (["--stage", "world", "--owl.queries", "4"], "queries"),
        (["--stage", "align", "--out", "NEW", "--batch", "8", "--clips", "7"], "three scenes"),
        (["--stage", "align", "--out", "NEW", "--batch", "8", "--clips", "3"], "a multiple of 3, at least 6"),
        (["--stage", "align", "--steps", "0"], "--steps 0"),
        (["--stage", "align", "--state-dropout", "2"], "--state-dropout 2"),
        *(
            (["--stage", "world", flag, value], f"{flag} {value}: a number")
            for flag in ("--history-noise", "--learning-rate", "--film-learning-rate", "--text-weight", "--align-weight")
            for value in ("-1", "nan", "inf")
        ),
        *((["--stage", "align", flag, "0"], f"{flag} 0: at least 1 is needed") for flag in ("--workers", "--owl.heads", "--owl.numbers", "--owl.words")),
        (["--stage", "align", "--out", "NEW", "--clips", "60"], "the language model's context is 1024: lower --clips"),
    ],
)
def test_bad_input_is_one_sentence(folder, tmp_path, fails, flags, said):
    flags = [flag.replace("NEW", str(tmp_path / "new")) for flag in flags]
    base = ["--film", str(folder / "film"), "--out", str(folder / "run"), *OWL, "--steps", "2"]
    message = fails(train.main, [*base, *flags])
    assert said in message
    assert not (tmp_path / "new").exists()


def test_a_film_model_that_was_trained_further_is_refused(folder, tmp_path, fails):
    """Its text encoder is what states were aligned with."""
    shutil.copytree(folder / "run" / "align", tmp_path / "run" / "align")
    args = ["--film", str(folder / "film"), "--out", str(tmp_path / "run"), *OWL, "--steps", "2"]
    with mock.patch.object(run.checkpoint, "newest", lambda path: 7 if path == folder / "film" else 2):
        for stage in ("align", "film"):
            assert "trained from" in (said := fails(train.main, ["--stage", stage, *args])) and "at step 0, which stands at 7 now" in said
        assert "at step 0, which stands at 7 now" in fails(generate.main, ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "film.mp4")])
    assert not (tmp_path / "run" / "film").exists()


def test_a_stage_does_not_start_from_one_that_has_not_ended(folder, tmp_path, fails):
    shutil.copytree(folder / "run" / "align", tmp_path / "run" / "align")
    shutil.rmtree(tmp_path / "run" / "align" / "checkpoints" / "2")
    args = ["--stage", "film", "--film", str(folder / "film"), "--out", str(tmp_path / "run"), *OWL, "--steps", "2"]
    assert "stands at 1 of 2 steps: let it end first" in fails(train.main, args)
    assert not (tmp_path / "run" / "film").exists()


@pytest.fixture
def this(folder, tmp_path):
    """A run whose texts tell of the clip seen."""
    shutil.copytree(folder / "run" / "world", tmp_path / "run" / "world")
    path = tmp_path / "run" / "world" / "config.json"
    path.write_text(path.read_text().replace('"caption": "next"', '"caption": "this"'))
    return tmp_path / "run"


def test_texts_that_tell_of_the_clip_seen_neither_ask_for_the_next_nor_are_judged(this, fails):
    for flags in (["--dynamics", "lines.txt"], ["--interactive"]):
        assert "none can ask for the next" in fails(generate.main, ["--run", str(this), *flags])
    assert "tell of the clip seen" in fails(evaluate.main, ["--run", str(this)])


def test_the_held_out_loss_counts_each_film_once(folder, tmp_path):
    """Three films in batches of two: the mean does not depend on which of them stands alone, or on what fills its batch."""
    opened, found = train.open_films, []
    for order in ([0, 1, 2], [2, 0, 1]):
        out = tmp_path / str(order[0])
        shutil.copytree(folder / "run" / "align", out / "align")
        (out / "align" / "log.jsonl").unlink()  # a stage whose last figures are missing makes them
        turned = lambda *given: (opened(*given)[0], [opened(*given)[1][i] for i in order])
        with mock.patch.object(train, "open_films", turned), mock.patch.object(train.Report, "evaluation") as told:
            train.main(["--stage", "align", "--film", str(folder / "film"), "--out", str(out), *OWL, "--steps", "2", "--eval-films", "3"])
        found.append(told.call_args.args[1]["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_film_its_storyboard_and_its_figures(folder, tmp_path, capsys):
    Image.fromarray(np.full((12, 12, 3), 200, np.uint8)).save(tmp_path / "first.png")
    (tmp_path / "lines.txt").write_text("it rests\ncut: in the pale room it moves left\n")
    args = ["--run", str(folder / "run"), "--steps", "1", "--image", str(tmp_path / "first.png"), "--prompt", "it moves left", "--seconds", "8", "--motion", "2"]
    out = tmp_path / "film.mp4"
    generate.main([*args, "--out", str(out), "--dynamics", str(tmp_path / "lines.txt"), "--json", str(tmp_path / "film.json")])
    assert len(list(video.frames(out))) == 4 * 4 + 1
    assert {path.name for path in tmp_path.iterdir()} == {
        "first.png", "lines.txt", "film.mp4", "film.gif", "film.json", "film.storyboard.png", "film.storyboard.html",
    }  # fmt: skip
    told = json.loads((tmp_path / "film.json").read_text())["clips"]
    assert [clip["cut"] for clip in told][:3] == [False, False, True] and told[1]["text"] == "it rests" and len(told) == 4
    assert "next: python -m owl_jax.evaluate" in capsys.readouterr().out


def test_a_film_model_in_the_dtype_of_its_computation_films_the_same(folder, tmp_path):
    """Who films takes it so, which is half of its memory; who trains does not."""
    read, made, held = Run.read, {}, []
    in_bfloat16 = lambda folder: dataclasses.replace(read(folder), config=dataclasses.replace(read(folder).config, dtype=Dtype.BFLOAT16))
    images, config, on = np.full((1, 12, 12, 3), 200, np.uint8), run.trained(folder / "run", None), mesh.build()

    def taken(owl, *_, **__):
        held.append(named(owl.film))
        raise KeyboardInterrupt

    with mock.patch.object(run.Run, "read", in_bfloat16), jax.set_mesh(on):
        for only_films in (False, True):
            bare, pieces, film = run.build(config, on, only_films)
            owl = run.restored(config, bare, on)
            turns = list(world.run(world.World(owl, pieces, film.config, temperature=0), images, ["it rests"], clips=2, dynamics=world.foreseen))
            made[only_films] = np.stack([turn.clips for turn in turns]), [turn.said for turn in turns]
            held.append(named(owl.film))
        for command, flags in ((generate, ["--steps", "1", "--out", str(tmp_path / "x.mp4")]), (evaluate, ["--ways", "loop", "--out", str(tmp_path / "x")])):
            with mock.patch.object(command, "World", taken), pytest.raises((SystemExit, KeyboardInterrupt)):
                command.main(["--run", str(folder / "run"), *flags])
    assert made[False][0].std() > 1 and made[False][1] == made[True][1]
    np.testing.assert_array_equal(made[False][0], made[True][0])
    in_fp32 = [{name for name, x in film.items() if x.dtype == np.float32} for film in held]
    assert in_fp32 == [set(held[0])] + [{name for name in held[0] if not is_map(name)}] * 3


def test_films_on_eight_devices_are_those_of_one(folder, tmp_path, monkeypatch):
    """One film, and two stories, which eight devices do not divide."""
    monkeypatch.setattr(evaluate, "curves", lambda *_: b"")
    Image.fromarray(np.full((12, 12, 3), 200, np.uint8)).save(tmp_path / "first.png")
    base = ["--run", str(folder / "run")]

    def made(name: str) -> tuple[np.ndarray, np.ndarray]:
        film = tmp_path / f"{name}.mp4"
        generate.main([*base, "--steps", "1", "--image", str(tmp_path / "first.png"), "--prompt", "it rests", "--seconds", "4", "--out", str(film)])
        evaluate.main([*base, "--stories", "2", "--batch", "2", "--clips", "6", "--ways", "loop", "video", "--out", str(tmp_path / name)])
        films = [np.load(tmp_path / name / "films" / f"{way}.npz")["clips"] for way in ("loop", "video")]
        return np.stack([frame for *_, frame in video.frames(film)]), np.stack(films)

    one = made("one")
    with mock.patch.object(mesh, "build", ALL):
        assert mesh.build().shape["data"] == 8
        eight = made("eight")
    for a, b in zip(one, eight):
        assert a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 8, "levels of 255; the first is a video, compressed"


def test_a_clip_that_followed_another_text_is_made_again_with_all_behind_it(folder, tmp_path):
    args = ["--run", str(folder / "run"), "--steps", "1", "--prompt", "it rests", "--seconds", "8", "--dynamics"]
    shoot, made = generate.World.shoot, []

    def counted(self, *inputs):
        made.append(1)
        if len(made) == 4:
            raise KeyboardInterrupt
        return shoot(self, *inputs)

    with mock.patch.object(generate.World, "shoot", counted):
        (tmp_path / "lines.txt").write_text("it rests\nit rests\nit rests\n")
        with pytest.raises(SystemExit, match="the same command goes on"):
            generate.main([*args, str(tmp_path / "lines.txt"), "--out", str(tmp_path / "film.mp4")])
        (tmp_path / "others.txt").write_text("it rests\nit moves left\nit rests\n")
        generate.main([*args, str(tmp_path / "others.txt"), "--out", str(tmp_path / "film.mp4")])
    assert len(made) == 4 + 2, "clips 2 and 3; clips 0 and 1 followed what they follow now"


def test_an_interrupted_film_goes_on_and_another_is_refused(folder, tmp_path, fails):
    """The clips that were made are not made again; what they lead to is the same film."""
    args = ["--run", str(folder / "run"), "--steps", "1", "--prompt", "it rests", "--seconds", "6"]
    generate.main([*args, "--out", str(tmp_path / "whole.mp4")])
    whole = [frame for *_, frame in video.frames(tmp_path / "whole.mp4")]
    shoot, made = generate.World.shoot, []

    def interrupted(self, *inputs):
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return shoot(self, *inputs)

    with mock.patch.object(generate.World, "shoot", interrupted), pytest.raises(SystemExit, match="the same command goes on"):
        generate.main([*args, "--out", str(tmp_path / "part.mp4")])
    assert not (tmp_path / "part.mp4").exists()
    (tmp_path / ".part.clips" / "000001.npz").write_bytes(b"")  # as a host leaves it that goes down
    assert "holds the clips of another film (seed differ)" in fails(generate.main, [*args, "--out", str(tmp_path / "part.mp4"), "--seed", "1"])
    with mock.patch.object(run, "key", lambda _: "trained further"):
        assert "holds the clips of another film (run differ)" in fails(generate.main, [*args, "--out", str(tmp_path / "part.mp4")])
    with mock.patch.object(run, "build", sampled_otherwise(run.build)):
        assert "(sampling differ)" in fails(generate.main, [*args, "--out", str(tmp_path / "part.mp4")])
    with mock.patch.object(generate.Sampler, "__call__", side_effect=AssertionError("the first frame is there")):
        with mock.patch.object(generate.World, "shoot", interrupted):
            generate.main([*args, "--out", str(tmp_path / "part.mp4")])
    assert len(made) == 3 + 2, "the command that went on filmed the clip that was lost and the last one"
    for one, other in zip([frame for *_, frame in video.frames(tmp_path / "part.mp4")], whole, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--dynamics", "LONG"], "has 9 lines, and a film of 4 s has 1 clip after the first"),
        (["--dynamics", "WORDY"], "and the model takes 16"),
        (["--prompt", "it rests " * 20], "--prompt has"),
        (["--dynamics", "nowhere.txt"], "--dynamics nowhere.txt cannot be read"),
        (["--image", "nowhere.png"], "nowhere.png: cannot be read: No such file"),
        (["--image", "film.gif", "--out", "film.mp4"], "--image film.gif would be written over: write to another file"),
        (["--dynamics", "said.json", "--json", "said.json"], "--dynamics said.json would be written over"),
        (["--run", "nowhere"], "nowhere holds no world model"),
        (["--run", "no where"], "run python -m owl_jax.train --stage align --out 'no where' first"),
        (["--context.window", "100"], "lower --context.window"),
        (["--seconds", "0"], "a positive number is wanted"),
        (["--seconds", "inf"], "a positive number is wanted"),
        (["--seed", "-1"], "--seed -1: a number from 0 to 4294967295"),
        (["--steps", "0"], "--steps 0: at least 1 is needed"),
        (["--temperature", "-1"], "--temperature -1: a number from 0 on"),
        (["--silent", "--interactive"], "exclude"),
        (["--motion", "nan"], "--motion nan: a number is wanted"),
    ],
)
def test_a_film_that_cannot_be_made_is_one_sentence(folder, tmp_path, fails, flags, said):
    (tmp_path / "LONG").write_text("it rests\n" * 9)
    (tmp_path / "WORDY").write_text("it rests " * 20)
    flags = [str(tmp_path / flag) if flag in ("LONG", "WORDY") else flag for flag in flags]
    base = ["--run", str(folder / "run"), "--steps", "1", "--seconds", "4", "--out", str(tmp_path / "made" / "x.mp4")]
    assert said in " ".join(fails(generate.main, [*base, *flags]).split())
    assert not (tmp_path / "made").exists()


def test_a_film_from_texts_of_the_clip_seen_is_not_sent_to_the_evaluation_that_refuses_it(this, tmp_path, capsys):
    generate.main(["--run", str(this), "--steps", "1", "--seconds", "4", "--seed", str(2**32 - 1), "--silent", "--out", str(tmp_path / "film.mp4")])
    said = " ".join(capsys.readouterr().out.split())
    assert "next: python -m videodit_jax.evaluate" in said and "owl_jax.evaluate" not in said


def test_what_was_typed_is_not_asked_for_again(folder, tmp_path):
    """An interactive film that was interrupted goes on behind its last clip."""
    args = ["--run", str(folder / "run"), "--steps", "1", "--prompt", "it rests", "--seconds", "8", "--interactive", "--out", str(tmp_path / "film.mp4")]
    with mock.patch.object(generate.Console, "input", side_effect=["it moves left", KeyboardInterrupt]), pytest.raises(SystemExit, match="goes on"):
        generate.main(args)
    with mock.patch.object(generate.Console, "input", side_effect=["it moves right", "q"]):
        generate.main([*args, "--json", str(tmp_path / "film.json")])
    told = json.loads((tmp_path / "film.json").read_text())["clips"]
    assert [clip["text"] for clip in told] == ["it rests", "it moves left", "it moves right"]


def sampled_otherwise(build):
    """The same model in a run whose sampling settings were changed."""

    def changed(*given, **how):
        owl, pieces, film = build(*given, **how)
        sampling = dataclasses.replace(film.config.sampling, guidance=Guidance(text=3.0))
        return owl, pieces, dataclasses.replace(film, config=dataclasses.replace(film.config, sampling=sampling))

    return changed


def test_a_folder_that_cannot_be_made_is_said_before_films_are(folder, tmp_path, fails):
    (tmp_path / "file").touch()
    with mock.patch.object(run, "build", side_effect=AssertionError("built")):
        assert str(tmp_path / "file") in fails(evaluate.main, ["--run", str(folder / "run"), "--out", str(tmp_path / "file" / "x")])


def test_evaluation_writes_a_row_a_way_and_keeps_its_films(folder, capsys, monkeypatch):
    args = ["--run", str(folder / "run"), "--stories", "2", "--batch", "2", "--clips", "6", "--ways", "loop", "last-frame", "foreseen"]
    evaluate.main(args)
    assert "stories filmed" in capsys.readouterr().out
    figures = json.loads((folder / "run" / "evaluation" / "figures.json").read_text())
    assert set(figures["ways"]) == {"loop", "last-frame", "foreseen"} and figures["embedding"] == "pixels"
    assert (folder / "run" / "evaluation" / "time.png").stat().st_size > 1000
    monkeypatch.setattr(evaluate, "curves", lambda *_: b"")  # which takes as long as the films
    with mock.patch.object(evaluate, "film", side_effect=InterruptedError("filmed again")):
        evaluate.main(args)
        assert json.loads((folder / "run" / "evaluation" / "figures.json").read_text()) == figures
        for changed in (mock.patch.object(run, "build", sampled_otherwise(run.build)), mock.patch.object(run, "key", lambda _: "another run")):
            with changed, pytest.raises(InterruptedError):
                evaluate.main(args)
    cutting = lambda way, *given: dataclasses.replace(ways.film(way, *given), said=[["cut: it rests"] * 6] * 2)
    with mock.patch.object(evaluate, "film", side_effect=cutting) as filmed:
        evaluate.main([*args, "--temperature", "0"])
        assert [call.args[0] for call in filmed.call_args_list] == [ways.Way.FORESEEN], "the other ways say nothing of their own"
    boards = [(folder / "run" / "evaluation" / f"{way}.storyboard.html").read_text() for way in ("foreseen", "loop")]
    assert [board.count("(new scene)") for board in boards] == [5, 2], "its own scenes, and the story's"
    evaluate.main([*args, "--unseen"])
    told = capsys.readouterr().out
    assert "stories filmed" in told and "unseen pairs" in told
    assert json.loads((folder / "run" / "evaluation-unseen" / "figures.json").read_text())["unseen"]


def test_a_trained_model_is_told_from_another(folder, tmp_path):
    """By folder, step and settings."""
    shutil.copytree(folder / "run" / "align", tmp_path / "run" / "align")
    key = lambda out: run.key(run.read(out / "run", Stage.ALIGN))
    keys = [key(folder), key(tmp_path)]
    shutil.rmtree(tmp_path / "run" / "align" / "checkpoints" / "2")
    keys.append(key(tmp_path))
    path = tmp_path / "run" / "align" / "config.json"
    path.write_text(path.read_text().replace(f'"workers": {cores()}', f'"workers": {cores() + 3}'))
    assert key(tmp_path) == keys[-1], "decoded by more processes it is the same model"
    path.write_text(path.read_text().replace('"queries": 3', '"queries": 4'))
    assert len({*keys, key(tmp_path)}) == 4
