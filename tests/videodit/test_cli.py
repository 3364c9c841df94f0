"""The command line of training: the names that others rely on, and bad input."""
import pytest

from core_jax.mesh import MeshConfig
from tests.videodit import small
from videodit_jax import train
from videodit_jax.config import Dtype, Schedule
from videodit_jax.presets import preset
from videodit_jax.run import Run

SURFACE = "--preset --data --steps --out --seed --dtype --checkpoint-every --mesh.data --mesh.fsdp --mesh.context --mesh.tensor".split()


def test_the_flags_that_others_rely_on_are_there(capsys):
    with pytest.raises(SystemExit) as caught:
        train.main(["--help"])
    words = capsys.readouterr().out.split()
    assert caught.value.code == 0 and not set(SURFACE) - set(words)


def test_flags_change_the_presets_settings():
    assert train.parse([]) == preset("tiny")
    values = "0.057b folder 7 there 3 bfloat16 5 2 2 1 2".split()
    config = train.parse([word for pair in zip(SURFACE, values) for word in pair])
    assert config.model == preset("0.057b").model
    assert (config.data, config.steps, config.out, config.seed, config.dtype) == ("folder", 7, "there", 3, Dtype.BFLOAT16)
    assert (config.checkpoint_every, config.mesh) == (5, MeshConfig(2, 2, 1, 2))
    assert train.parse(["--preset=0.057b"]) == preset("0.057b")
    assert train.parse(["--data=videos"]).model.wiener and not train.parse(["--data=shapes"]).model.wiener
    assert train.parse(["--optimizer.schedule", "wsd"]).optimizer.schedule is Schedule.WSD
    encoders = ["--autoencoder", "wan2.1", "--text-encoder", "umt5-xxl"]
    assert train.parse([word.replace("t-e", "t_e") for word in encoders]) == train.parse(encoders), "tyro takes either spelling"


@pytest.mark.parametrize(
    "args, said",
    [
        ("--preset tinny", "no preset named 'tinny'; there are tiny"),
        ("--mesh.data 3", "mesh (data 3, fsdp 1, context 1, tensor 1) does not fit 8 devices: its product is 3"),
        ("--size 25x24", "8 frames, 25×24 cannot be cut into patches"),
        ("--size wide", "--size 'wide': height x width is wanted"),
        ("--batch 12", "dim B has size 12, which mesh axes ('data', 'fsdp') of 8 devices do not divide"),
        ("--mesh.data 1 --mesh.tensor 8", "dim K has size"),
        ("--steps 0", "--steps 0: at least 1 is needed"),
        ("--out TMP/[3]", "[3] could not be read again, for [ in a path means a pattern: name another folder"),
        ("--data EMPTY", "holds no video"),
        ("--data /nowhere", "there is no file or folder /nowhere"),
        ("--no-such-flag 3", "--no-such-flag"),
        ("--steps many", "many"),
    ],
)
def test_bad_input_is_said_and_writes_nothing(args, said, tmp_path, fails):
    (tmp_path / "empty").mkdir()
    words = args.replace("EMPTY", str(tmp_path / "empty")).replace("TMP", str(tmp_path)).split()
    message = fails(train.main, ["--out", str(tmp_path / "out"), *words])
    assert said in " ".join(message.split())
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def write_run(out, **changes) -> None:
    """A folder as a run leaves it, made from flags and the data that they name."""
    config = train.parse(["--preset", "tiny", "--out", str(out), *small.FLAGS])
    source, _ = train.open_sources(config)
    statistics = train.statistics_of(config, source)
    Run(config, statistics, changes.get("fingerprint", source.fingerprint)).write(out)


def test_a_folder_that_holds_another_run_is_left_alone(tmp_path, fails):
    out = tmp_path / "run"
    write_run(out)
    before = (out / "config.json").read_bytes()
    message = fails(train.main, ["--preset", "tiny", "--out", str(out), *small.FLAGS, "--seed", "5", "--batch", "16"])
    assert "holds another run" in message and "seed was 0, now 5" in message and "batch was 8, now 16" in message
    assert [path.name for path in out.iterdir()] == ["config.json"] and (out / "config.json").read_bytes() == before


def test_other_data_under_the_same_settings_is_refused(tmp_path, fails):
    write_run(tmp_path, fingerprint="of something else")
    message = fails(train.main, ["--preset", "tiny", "--out", str(tmp_path), *small.FLAGS])
    assert "was trained on other data" in message


def test_a_folder_of_something_else_is_left_alone(tmp_path, fails):
    (tmp_path / "thesis.txt").write_text("three years of work")
    message = fails(train.main, ["--preset", "tiny", "--out", str(tmp_path), *small.FLAGS])
    assert "is not empty and holds no run" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--out OTHER --seed 5", "seed was 0, now 5"),
        ("--out PAPERS/thesis.txt/run", "cannot be written"),
        ("--out PAPERS", "is not empty and holds no run"),
        ("--out NEW --preset tiny --init NOWHERE", "there is no file or folder"),
    ],
)
def test_what_no_data_can_mend_is_said_before_the_data_is_looked_at(flags, said, tmp_path, fails, monkeypatch):
    """Of many videos that takes hours."""
    write_run(tmp_path / "OTHER")
    (tmp_path / "PAPERS").mkdir()
    (tmp_path / "PAPERS" / "thesis.txt").write_text("three years of work")
    monkeypatch.delattr(train, "open_sources")
    words = [str(tmp_path / word) if word[:3].isupper() else word for word in flags.split()]
    assert said in fails(train.main, ["--preset", "tiny", *small.FLAGS, *words])


def test_the_exit_status_and_one_line_on_stderr():
    process = small.start("videodit_jax.train", "--preset", "tinny")
    out, err = process.communicate()
    assert process.returncode == 1 and out == ""
    assert err.startswith("error: no preset named 'tinny'") and err.count("\n") == 1
