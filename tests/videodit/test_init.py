"""`train --init`: a run that starts from the weights of another, of a file, or of the package."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import mesh
from core_jax.mesh import MeshConfig
from core_jax.tensors import save_file
from core_jax.weights import named
from tests.videodit import small
from videodit_jax import export, train
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import TrainConfig
from videodit_jax.flow import Target
from videodit_jax.run import PRETRAINED, WEIGHTS, Run, initial, load_model, make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Exported weights."""
    out = tmp_path_factory.mktemp("exported")
    Run(small.CONFIG, ScoreStatistics({}), "data").write(out)
    model = jax.jit(lambda: make_model(small.CONFIG))()
    save_file(out / WEIGHTS, jax.tree.map(lambda x: (x + 0.01 * jnp.arange(x.size).reshape(x.shape) / x.size).astype(jnp.float16), model))
    return out


def started(init, **changes) -> dict[str, np.ndarray]:
    """The weights that training would start from, by name."""
    on = mesh.build(devices=jax.devices()[:2])
    return {name: np.asarray(x) for name, x in named(initial(small.config("out", init=str(init), **changes), on)).items()}


def test_weights_of_a_folder_and_of_a_file_are_the_same_and_in_fp32(folder):
    ours = started(folder)
    np.testing.assert_equal(started(folder / WEIGHTS), ours)
    assert all(x.dtype == np.float32 for x in ours.values()) and np.abs(ours["blocks.mlp.up.w"]).max() > 0.1


def test_weights_in_several_files_are_the_same(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    run, on = Run.read(folder), mesh.build(devices=jax.devices()[:2])
    save_file(tmp_path / WEIGHTS, load_model(folder, run, on), largest=20_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    np.testing.assert_equal(started(tmp_path), started(folder))


def test_each_device_takes_its_part_of_a_file(folder, monkeypatch):
    monkeypatch.setattr(jax, "device_put", lambda *_: pytest.fail("jax compares what hosts put, whole on every device"))
    on = mesh.build(MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    for model in (initial(small.config("out", init=str(folder / WEIGHTS)), on), load_model(folder, Run.read(folder), on)):
        weight = named(model)["blocks.mlp.up.w"]
        assert weight.addressable_shards[0].data.size * 2 == weight.size


@pytest.mark.parametrize("of", ["", WEIGHTS])
def test_the_channels_of_given_frames_start_at_zero(folder, of):
    ours, grown = started(folder), started(folder / of, model=dataclasses.replace(small.MODEL, given=True))
    rows = len(ours["patches.w"])
    assert len(grown["patches.w"]) == rows // 3 * 7 and (grown["patches.w"][rows:] == 0).all()
    np.testing.assert_equal(grown | {"patches.w": grown["patches.w"][:rows]}, ours)


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(model=dataclasses.replace(small.MODEL, mlp=32)), r"mlp.down.w has shape \(2, 64, 32\), and the model wants \(2, 32, 32\); blocks.mlp.up.b"),
        (dict(model=dataclasses.replace(small.MODEL, wiener=True)), r"missing \['wiener.gain.b', 'wiener.gain.w'\], unknown none"),
        (dict(flow=dataclasses.replace(small.CONFIG.flow, target=Target.V)), "was trained for something else: flow.target was 'x0', now 'v'"),
        (dict(model=dataclasses.replace(small.MODEL, patch=(4, 2, 4))), r"something else: model.patch was \[2, 4, 4\], now \[4, 2, 4\]"),
    ],
)
def test_weights_of_another_model_are_refused(folder, changes, says):
    with pytest.raises(ValueError, match=f"--init {folder}:? .*{says}"):
        started(folder, **changes)


def test_a_file_of_another_model_is_refused(folder):
    file = folder / WEIGHTS
    with pytest.raises(ValueError, match=rf"--init {file}: {file}: blocks.mlp.down.w is, inputs first, \(2, 64, 32\), and the model wants \(2, 32, 32\)"):
        started(file, model=dataclasses.replace(small.MODEL, mlp=32))
    with pytest.raises(ValueError, match=f"--init {file}: {folder} does not hold .*: missing wiener.gain.b, wiener.gain.w, left over nothing"):
        started(file, model=dataclasses.replace(small.MODEL, wiener=True))


@pytest.mark.parametrize("of", ["", WEIGHTS])
def test_weights_of_another_model_are_refused_before_the_data_is_opened(folder, of, tmp_path, monkeypatch, fails):
    monkeypatch.setattr(train, "open_sources", lambda *_: pytest.fail("hours have begun"))
    said = fails(train.main, ["--init", str(folder / of), "--preset", "tiny", *small.FLAGS, "--model.mlp", "32", "--out", str(tmp_path / "run")])
    assert said.startswith(f"--init {folder / of}: ") and "the model wants (2, 32, 32)" in said and not (tmp_path / "run").exists()


def test_where_no_weights_are_it_is_said_and_nothing_written(tmp_path, fails):
    for name, says in (("no", "there is no file or folder"), ("no.safetensors", "there is no file or folder")):
        said = fails(train.main, ["--init", str(tmp_path / name), "--preset", "tiny", *small.FLAGS, "--out", str(tmp_path / "run")])
        assert says in said and not (tmp_path / "run").exists()


def test_the_config_of_something_else_is_not_written_over(folder, tmp_path, fails):
    (tmp_path / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    said = fails(export.main, ["--run", str(folder), "--out", str(tmp_path)])
    assert "holds the config.json of something else, which would be written over" in said
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"] and "Wan" in (tmp_path / "config.json").read_text()


def test_the_settings_of_the_run_are_the_defaults_unless_a_preset_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    config = train.parse(["--init", folder.name, "--steps", "7"])
    assert config == dataclasses.replace(small.CONFIG, init=str(folder), steps=7, out="runs/tuned")
    Run(config, ScoreStatistics({}), "data").write("begun")
    assert train.parse(["--init", "gone", "--out", "begun"]).steps == 7, "once it has begun, it needs that run no more"
    assert train.parse(["--init", folder.name, "--preset", "stories"]).model.given
    shipped = train.parse(["--init", "pretrained", "--data", "videos"])
    assert shipped.init == "pretrained" and shipped.data == "videos" and shipped.model == Run.read(PRETRAINED).config.model
    assert TrainConfig().init is None
