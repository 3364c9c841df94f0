"""Embeddings by transformers' directories: equal to transformers on random weights."""
import json

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from core_jax import mesh
from koala_jax.tsa import fragments
from videodit_jax.evaluate import embeddings, vit
from videodit_jax.evaluate.embeddings import Kind

SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32)
MODELS = {
    Kind.DINO: lambda: ViTModel(ViTConfig(**SIZES, image_size=64, patch_size=16)),
    Kind.DINOV2: lambda: Dinov2Model(Dinov2Config(**SIZES | {"mlp_ratio": 2}, image_size=70, patch_size=14)),
    Kind.CLIP: lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES, image_size=224, patch_size=32, projection_dim=8)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Small models with all parameters away from what they start as, and their directories."""
    torch.manual_seed(0)
    result = {}
    for kind, build in MODELS.items():
        model = build().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        directory = tmp_path_factory.mktemp(kind.value)
        model.save_pretrained(directory)
        result[kind] = model, directory
    return result


def theirs(kind, model, frames):
    mean, std = (torch.tensor(x) for x in ((fragments.MEAN, fragments.STD) if kind is not Kind.CLIP else (embeddings.MEAN, embeddings.STD)))
    x = ((torch.from_numpy(frames).float() - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        if kind is Kind.CLIP:
            e = model(x).image_embeds
        elif kind is Kind.DINO:
            e = model(x, interpolate_pos_encoding=True).last_hidden_state[:, 0]
        else:
            e = model(x).last_hidden_state[:, 0]
    return (e / e.norm(dim=-1, keepdim=True)).numpy()


@pytest.mark.parametrize(
    ("kind", "shape"), [(Kind.DINO, (64, 96)), (Kind.DINO, (224, 224)), (Kind.DINOV2, (70, 112)), (Kind.CLIP, (224, 224))], ids=str
)
def test_embeddings_equal_transformers(made, kind, shape):
    model, directory = made[kind]
    frames = np.random.default_rng(0).integers(0, 256, (3, *shape, 3)).astype(np.uint8)
    ours = embeddings.load(directory, mesh.build())
    assert ours.kind is kind
    np.testing.assert_allclose(ours(frames), theirs(kind, model, frames), atol=1e-5, rtol=1e-4)


def test_positions_are_torchs_bicubic():
    grid = np.random.default_rng(0).standard_normal((5, 5)).astype(np.float32)
    for h, w in ((5, 5), (7, 9), (3, 4)):
        wanted = torch.nn.functional.interpolate(torch.from_numpy(grid)[None, None], (h, w), mode="bicubic")[0, 0]
        np.testing.assert_allclose(vit.bicubic(5, h) @ grid @ vit.bicubic(5, w).T, wanted, atol=1e-5)


def test_pixels_that_fill_no_patch_are_left_out(made):
    ours = embeddings.load(made[Kind.DINO][1], mesh.build())
    frames = np.random.default_rng(0).integers(0, 256, (1, 64, 79, 3)).astype(np.uint8)
    np.testing.assert_array_equal(ours(frames), ours(frames[:, :, :64]))


def test_directories_that_do_not_fit_are_refused_in_a_sentence(made, tmp_path):
    on = mesh.build()
    with pytest.raises(ValueError, match="is no model directory: its config.json cannot be read"):
        embeddings.load(tmp_path, on)
    config = json.loads((made[Kind.DINO][1] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds no weights: model.safetensors or pytorch_model.bin is wanted"):
        embeddings.load(tmp_path, on)
    (tmp_path / "model.safetensors").symlink_to(made[Kind.DINO][1] / "model.safetensors")
    for change, sentence in (
        ({"model_type": "bert"}, "holds a model of type bert, and vit, dinov2, clip"),
        ({"hidden_act": "relu"}, "a ViT is known here with gelu"),
        ({"intermediate_size": None}, "config.json: intermediate_size must be a whole number of at least 1, and not None"),
        ({"num_hidden_layers": 3}, "does not hold the weights of the model: missing encoder.layer.2.attention.attention.key.bias"),
        ({"patch_size": 8}, "is, inputs first, .* and the model wants"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=sentence):
            embeddings.load(tmp_path, on)


def test_a_torch_file_reads_as_safetensors_do(made, tmp_path):
    model, directory = made[Kind.CLIP]
    (tmp_path / "config.json").symlink_to(directory / "config.json")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    one, other = (embeddings.load(path, mesh.build()) for path in (directory, tmp_path))
    frames = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)
    np.testing.assert_array_equal(one(frames), other(frames))
    assert one.name != other.name, "the manifest knows the file"
