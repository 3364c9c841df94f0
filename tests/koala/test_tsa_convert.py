"""The converter: every official name both ways, starting points, and what it refuses."""
import io
import os
import pickle
import zipfile

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save, save_file

from koala_jax.tsa import names
from koala_jax.tsa.convert import convert, main, shapes
from koala_jax.tsa.model import SuitabilityConfig, VideoScorerConfig
from koala_jax.tsa.scorer import ScorerConfig, load
from koala_jax.tsa.torch_twin import TorchSuitabilityScorer, TorchVideoScorer
from etils import epath
from core_jax import mesh

NETWORKS = {"released": (VideoScorerConfig, TorchVideoScorer, 197), "paper": (SuitabilityConfig, TorchSuitabilityScorer, 419)}


@pytest.fixture(scope="module")
def twins():
    """Both networks in PyTorch, full size, with the official names."""
    torch.manual_seed(0)
    return {name: twin() for name, (_, twin, _) in NETWORKS.items()}


@pytest.fixture(scope="module")
def whole(twins):
    """The paper's network under our names."""
    tensors = {name: tensor.numpy() for name, tensor in twins["paper"].state_dict().items()}
    return names.from_official(tensors, shapes(ScorerConfig(SuitabilityConfig())))


@pytest.mark.parametrize("network", NETWORKS)
def test_official_weights_go_in_and_come_back_bit_for_bit(network, twins, tmp_path):
    config, _, entries = NETWORKS[network]
    table = twins[network].state_dict()
    torch.save({"state_dict": table}, tmp_path / "infer.pth")
    said = convert(epath.Path(tmp_path / "infer.pth"), epath.Path(tmp_path / "tsa.safetensors"))
    assert said.startswith("python -m koala_jax.score CLIPS") == (network == "released") and ("its 15 labels are" in said) == (network == "paper")
    read, model = load(tmp_path / "tsa.safetensors", mesh.build(devices=jax.devices()[:1]))
    assert read.network == config() and len(table) == entries
    assert convert(epath.Path(tmp_path / "tsa.safetensors"), epath.Path(tmp_path / "back.pth")) == "load it with the official code, strict=True"
    back = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert back.keys() == table.keys()
    for name, tensor in table.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name
    twins[network].load_state_dict(back, strict=True)


def test_of_a_network_of_other_sizes_it_is_not_said_that_the_official_code_loads_it(tmp_path):
    save_file({"dynamic.embed.b": np.zeros(24, np.float32)}, tmp_path / "small.safetensors")
    said = convert(epath.Path(tmp_path / "small.safetensors"), epath.Path(tmp_path / "small.pth"))
    assert "strict" not in said and "dynamic.embed.b the first" in said


@pytest.mark.parametrize("network", NETWORKS)
def test_names_and_shapes_are_those_of_the_published_list(network):
    folder = os.environ.get("VIDEOGEN_TEST_DATA")
    if not folder:
        pytest.skip("VIDEOGEN_TEST_DATA names no folder with ../papers/koala-tsa-weights.txt")
    parts = (epath.Path(folder).parent / "papers" / "koala-tsa-weights.txt").read_text().split("\n# ")
    part = next(p for p in parts if p.startswith({"released": "RELEASED", "paper": "FULL"}[network]))
    rows = [line.split("\t") for line in part.splitlines() if line.count("\t") == 3]
    listed = {name: tuple(int(n) for n in shape.strip("()").split(",") if n.strip()) for name, shape, *_ in rows}
    ours = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes(ScorerConfig(NETWORKS[network][0]())).items()}
    assert {name: tensor.shape for name, tensor in names.to_official(ours).items()} == listed
    assert len(listed) == NETWORKS[network][2]


def torchvision_swin(name: str) -> str:
    """The name that torchvision gives a tensor of the dynamic tower."""
    name = name.removeprefix("fragments_backbone.").replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")
    parts = name.split(".")
    if parts[0] != "layers":
        return name
    stage = 2 * int(parts[1])
    return ".".join(["features", str(stage), *parts[3:]] if parts[2] == "blocks" else ["features", str(stage + 1), *parts[3:]])


def timm_convnext(name: str) -> str:
    """The name that timm gives a tensor of the static tower."""
    name = name.removeprefix("image_backbone.")
    name = name.replace("dwconv", "conv_dw").replace("pwconv", "mlp.fc")
    parts = name.split(".")
    if parts[0] == "downsample_layers":
        return ".".join(["stem", *parts[2:]] if parts[1] == "0" else ["stages", parts[1], "downsample", *parts[2:]])
    if parts[0] == "stages":
        return ".".join([*parts[:2], "blocks", *parts[2:]])
    return {"norm": "head.norm", "head": "head.fc"}[parts[0]] + "." + parts[1]


def torchvision_convnext(name: str) -> str:
    """The name that torchvision gives a tensor of the static tower."""
    parts = name.removeprefix("image_backbone.").split(".")
    if parts[0] == "downsample_layers":
        return f"features.{2 * int(parts[1])}.{parts[2]}.{parts[3]}"
    if parts[0] == "stages":
        new = {"dwconv": "block.0", "norm": "block.2", "pwconv1": "block.3", "pwconv2": "block.5", "gamma": "layer_scale"}[parts[3]]
        return ".".join([f"features.{2 * int(parts[1]) + 1}", parts[2], new, *parts[4:]])
    return {"norm": "classifier.0", "head": "classifier.2"}[parts[0]] + "." + parts[1]


STARTS = {
    "swin, torchvision": ("fragments_backbone.", torchvision_swin),
    "swin, mmaction": ("fragments_backbone.", lambda name: name.replace("fragments_backbone.", "backbone.")),
    "convnext, timm": ("image_backbone.", timm_convnext),
    "convnext, torchvision": ("image_backbone.", torchvision_convnext),
    "convnext, its authors": ("image_backbone.", lambda name: name.removeprefix("image_backbone.")),
}


@pytest.mark.parametrize("start", STARTS)
def test_published_towers_become_starting_points(start, twins, whole, tmp_path):
    prefix, foreign = STARTS[start]
    table = {name: tensor.numpy() for name, tensor in twins["paper"].state_dict().items() if name.startswith(prefix)}
    published = {foreign(name): x for name, x in table.items() if "fragment_position" not in name}
    published = {name: x.reshape(-1, 1, 1) if name.endswith("layer_scale") else x for name, x in published.items()}
    if "swin" in start:
        published |= {"head.weight": np.zeros((400, 768), np.float32)}  # the video classifier
    assert len(published) > 100
    save_file({name: np.ascontiguousarray(x) for name, x in published.items()}, tmp_path / "start.safetensors")
    convert(epath.Path(tmp_path / "start.safetensors"), epath.Path(tmp_path / "ours.safetensors"))
    ours = load_file(tmp_path / "ours.safetensors")
    tower = "dynamic." if prefix == "fragments_backbone." else "static."
    assert set(ours) == {name for name in whole if name.startswith(tower) and not name.endswith(".fragment")}
    for name, x in ours.items():
        np.testing.assert_array_equal(x, whole[name], err_msg=name)


def bad(change):
    def make(table):
        table = dict(table)
        change(table)
        return table

    return make


BAD = {
    "missing": (bad(lambda t: t.pop("vqa_head.fc_last.bias")), "missing vqa_head.fc_last.bias; unknown none"),
    "unknown": (bad(lambda t: t.update(extra=torch.zeros(1))), "missing none; unknown extra"),
    "misshapen": (bad(lambda t: t.update({"vqa_head.fc_hid.bias": torch.zeros(65)})), "vqa_head.fc_hid.bias has shape (65,), and the network wants (64,)"),
    "other windows": (
        bad(lambda t: t.update({"fragments_backbone.layers.0.blocks.0.attn.relative_position_index": torch.zeros(392, 392)})),
        "layers.0.blocks.0.attn.relative_position_index is not the index",
    ),
    "no tensors": (lambda t: {"state_dict": [1, 2]}, "is no table of tensors"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_weights_are_refused_by_name(case, twins, tmp_path, fails):
    change, sentence = BAD[case]
    torch.save(change(twins["released"].state_dict()), tmp_path / "infer.pth")
    assert sentence in fails(main, [str(tmp_path / "infer.pth"), str(tmp_path / "tsa.safetensors")])
    assert not (tmp_path / "tsa.safetensors").exists()


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, fails, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Code()}, "infer.pth")
    buffer = io.BytesIO()
    pickle.dump(Code(), buffer)
    (tmp_path / "plain.pth").write_bytes(buffer.getvalue())
    for name in ("infer.pth", "plain.pth"):
        assert "holds more than tensors" in fails(main, [name, "tsa.safetensors"])
    assert not recwarn.list, "the sentence is all that is said"
    assert not (tmp_path / "ran").exists()


def test_what_is_no_weights_is_refused(tmp_path, fails):
    torch.save({"a": torch.ones(3)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    files = {
        "notes.txt": b"is it weights?", "more.txt": b"Bring cake.", "even.txt": b"notes", "bytes.pth": bytes(range(128, 256)), "empty.pth": b"",
        "cut.pth": whole[: len(whole) // 2], "text.safetensors": b"no weights", "empty.safetensors": b"", "cut.safetensors": save({"a": np.ones(3)})[:20],
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as pictures:
        pictures.writestr("1.png", "no picture either")
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name in (*files, "pictures.zip"):
        said = fails(main, [str(tmp_path / name), str(tmp_path / "b.safetensors")])
        wanted = "cannot be read as safetensors" if name.endswith(".safetensors") else "a .pth of tensors alone"
        assert f"{name} " in said and wanted in said
    assert not (tmp_path / "b.safetensors").exists()
    assert "nowhere.pth" in fails(main, [str(tmp_path / "nowhere.pth"), str(tmp_path / "b.safetensors")])
    save_file({"strange": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    said = fails(main, [str(tmp_path / "other.safetensors"), str(tmp_path / "b.safetensors")])
    assert f"{tmp_path / 'other.safetensors'}: these are not the weights of this network" in said and "unknown strange" in said
