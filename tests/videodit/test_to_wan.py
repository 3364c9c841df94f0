"""Export to diffusers: what was converted comes back bit for bit, and diffusers reads it; what no Wan has is refused."""
import dataclasses
import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import tensors
from core_jax.tensors import Tensors, load_table, save_file
from core_jax.weights import named
from tests.videodit import small, small_wan
from videodit_jax import convert, export, to_wan
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import LoRAConfig
from videodit_jax.flow import Target
from videodit_jax.model import VideoDiT
from videodit_jax.names import UNUSED
from videodit_jax.run import WEIGHTS, Run

STEM = "diffusion_pytorch_model"
IN_PLACE = dataclasses.replace(small_wan.WAN22, given=True, in_place=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Transformers of small Wans, by the config that each is converted to, beside a text encoder."""
    root = tmp_path_factory.mktemp("wan")
    kinds = {small_wan.CONFIG: "t2v", IN_PLACE: "ti2v", small_wan.I2V: "i2v", small_wan.I2V21: "picture"}
    return {c: small_wan.write(root / name, small_wan.WAN22 if c == IN_PLACE else c) / "transformer" for c, name in kinds.items()}


def converted(directory, config) -> VideoDiT:
    return convert.load(directory, config, np.zeros(config.text.width))


@pytest.mark.parametrize("config", [small_wan.CONFIG, IN_PLACE, small_wan.I2V, small_wan.I2V21], ids=["2.1", "TI2V-5B", "I2V-A14B", "2.1 I2V"])
def test_what_was_converted_comes_back_bit_for_bit(written, config, tmp_path, monkeypatch):
    """Of I2V each mask's four weights come back as a quarter of their sum, and as our one bit for bit."""
    held = load_table(written[config] / f"{STEM}.safetensors")
    before = {name: tensor for name, tensor in held.items() if not re.match(UNUSED, name)}
    model = converted(written[config], config)
    monkeypatch.setattr(tensors.save_file, "__defaults__", (10**5, None))
    to_wan.write(tmp_path, config, model)
    after = Tensors(tmp_path, STEM)
    assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 2 and not (tmp_path / f"{STEM}.safetensors").exists()
    assert json.loads((tmp_path / f"{STEM}.safetensors.index.json").read_text())["metadata"] == {"total_size": sum(x.nbytes for x in before.values())}
    masks = slice(16, 20) if config.gray else slice(0)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        if config.gray and name == "patch_embedding.weight":
            tensor[:, masks] = tensor[:, masks].sum(1, keepdims=True) / 4
            np.testing.assert_allclose(after[name], tensor, rtol=1e-5, atol=1e-6)
        else:
            assert after[name].dtype == np.float32 and after[name].shape == tensor.shape and after[name].tobytes() == tensor.tobytes(), name
    back = named(converted(tmp_path, config))
    for name, array in named(model).items():
        assert name.startswith("scores.") or np.asarray(array).tobytes() == np.asarray(back[name]).tobytes(), name
    assert dataclasses.replace(convert.read_config(tmp_path), in_place=config.in_place, given=config.given, picture=config.picture) == config


@pytest.mark.parametrize("config", [small_wan.CONFIG, IN_PLACE, small_wan.I2V, small_wan.I2V21], ids=["2.1", "TI2V-5B", "I2V-A14B", "2.1 I2V"])
def test_diffusers_reads_what_is_written_and_makes_the_same(written, config, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is in the `reproduce` extra")
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in the `reproduce` extra")
    if not importlib.util.find_spec("accelerate"):  # without which diffusers cannot keep some modules in fp32 where others are not
        monkeypatch.setattr(diffusers.WanTransformer3DModel, "_keep_in_fp32_modules", None)
    model = converted(written[config], config)
    to_wan.write(tmp_path, config, model)
    one = diffusers.WanTransformer3DModel.from_pretrained(written[config])
    other, info = diffusers.WanTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 2 * config.channels + 4 if config.gray else config.channels, 3, 4, 6), np.float32)
    x[:, 16:20] = x[:, 16:17] if config.gray else x[:, 16:20]  # a mask's four are one
    text = rng.standard_normal((2, 512 if any(config.picture) else 5, config.text.width), np.float32)
    picture = torch.from_numpy(rng.standard_normal((2, *config.picture), np.float32)) if any(config.picture) else None
    predict = lambda wan, t: wan(torch.from_numpy(x), t, torch.from_numpy(text), picture).sample.detach().numpy()
    for t in (torch.tensor([250.0, 900.0]), torch.rand(2, 18) * 1000)[: 1 + config.in_place]:
        before, after = predict(one, t), predict(other, t)
        assert np.abs(after - before).max() <= 2e-6 * np.abs(before).max()  # torch adds in another order where a tensor lies otherwise in memory
    if not config.given:  # with scores that were trained it is ours without any
        model = jax.tree.map(lambda x: x, model)
        model.scores = small.shaken(model.scores)
        to_wan.write(tmp_path / "scores", config, model)
        theirs = predict(diffusers.WanTransformer3DModel.from_pretrained(tmp_path / "scores"), torch.tensor([250.0, 900.0]))
        tokens = {"features": jnp.asarray(text), "length": jnp.full(2, 5)}
        ours = jax.jit(VideoDiT.__call__)(model, np.moveaxis(x, 1, -1), np.array([0.25, 0.9], np.float32), tokens, jnp.full((2, 3), jnp.nan))
        assert np.abs(np.moveaxis(theirs, 1, -1) - ours).max() < 1e-5 * np.abs(theirs).max()
        assert np.abs(theirs - before).max() > 1e-2 * np.abs(before).max()


def run_of(folder, written, **changes):
    """A run on Wan's small transformer, exported by us."""
    config = convert.settings(written[small_wan.CONFIG].parent, small_wan.CONFIG)
    config = dataclasses.replace(config, **{name: value for name, value in changes.items() if "." not in name})
    for name, value in changes.items():
        if "." in name:
            part, field = name.split(".")
            config = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **{field: value})})
    Run(config, ScoreStatistics({name: () for name in config.model.scores}), "").write(folder)
    return folder, config


def test_the_command_writes_it_beside_the_other_expert_and_over_nothing(written, tmp_path, capsys, fails):
    model = converted(written[small_wan.CONFIG], small_wan.CONFIG)
    for name, between in (("high", (0.875, 1.0)), ("low", (0.0, 0.875))):
        folder, _ = run_of(tmp_path / name, written, **{"flow.between": between})
        save_file(folder / WEIGHTS, model)
        export.main(["--run", str(folder), "--out", str(tmp_path / "out"), "--diffusers", *["--half"] * (name == "low")])
    high, low = (load_table(tmp_path / "out" / name / f"{STEM}.safetensors") for name in ("transformer", "transformer_2"))
    np.testing.assert_equal(high, load_table(written[small_wan.CONFIG] / f"{STEM}.safetensors"))
    assert low["proj_out.weight"].dtype == np.float16
    assert f"wrote {tmp_path}/out/transformer_2, which diffusers' WanTransformer3DModel.from_pretrained reads" in capsys.readouterr().out
    said = fails(export.main, ["--run", str(tmp_path / "low"), "--out", str(tmp_path / "out"), "--diffusers"])
    assert said == f"{tmp_path}/out/transformer_2 holds a model already: take another folder"


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model.wiener": True}, "--model.wiener, which no Wan has"),
        ({"model.absolute": True}, "--model.absolute, which"),
        ({"model.given": True}, "--model.given, which"),
        ({"flow.target": Target.X0, "model.absolute": True}, "--model.absolute, --flow.target x0, which"),
        ({"lora": LoRAConfig(2), "init": "x"}, "--diffusers goes with --merged"),
    ],
)
def test_what_no_wan_has_is_refused_before_anything_is_read(written, tmp_path, changes, said, monkeypatch, fails):
    monkeypatch.setattr(export, "load_model", None)
    folder, _ = run_of(tmp_path / "run", written, **changes)
    assert said in fails(export.main, ["--run", str(folder), "--out", str(tmp_path / "out"), "--diffusers"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_bytes_of_captions_are_not_wans(tmp_path, fails):
    Run(small.CONFIG, ScoreStatistics({}), "").write(tmp_path / "run")
    assert "trained with --model.absolute, --model.text.reads bytes, --flow.target x0, which no Wan has" in fails(export.main, ["--run", str(tmp_path / "run"), "--out", str(tmp_path), "--diffusers"])
