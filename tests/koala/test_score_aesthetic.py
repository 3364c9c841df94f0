"""The aesthetic predictor: CLIP's image tower against transformers', its weights, its column."""
import dataclasses
import functools

import jax
import numpy as np
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from core_jax import mesh, video
from core_jax.rngs import Rngs
from core_jax.weights import count
from koala_jax import score
from koala_jax.aesthetic import predictor
from koala_jax.aesthetic.clip import MEAN, STD, CLIPConfig, CLIPImage
from koala_jax.metrics.measure import Plan, measure
from koala_jax.metrics.pictures import Pictures, covered
from tests.core.video_files import make

SMALL = CLIPConfig(size=224, patch=56, width=16, layers=2, heads=4, mlp=24, out=768)


@pytest.fixture(scope="module")
def twin():
    """A small tower by transformers, all parameters away from what they start as."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, image_size=224, patch_size=56, projection_dim=768)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def files(twin, tmp_path):
    """CLIP as a file, with a text tower that is not read, and a head."""
    table = {name: x.contiguous() for name, x in twin.state_dict().items() if "position_ids" not in name}
    save_file(table | {"text_model.final_layer_norm.bias": torch.zeros(3)}, tmp_path / "clip.safetensors")
    head = torch.nn.Linear(768, 1)
    torch.save(head.state_dict(), tmp_path / "head.pth")
    return tmp_path, head


def test_scores_equal_pytorch(twin, files):
    folder, head = files
    tower = predictor.load_clip(folder / "clip.safetensors", SMALL)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 224, 224, 3)).astype(np.uint8)
    ours, embeddings = predictor.Aesthetic(tower, predictor.load_head(folder / "head.pth"), mesh.build())(pictures)
    x = (torch.from_numpy(pictures).float() - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        e = twin(pixel_values=x.permute(0, 3, 1, 2)).image_embeds
        theirs = head(e / e.norm(dim=-1, keepdim=True))[:, 0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embeddings, e / e.norm(dim=-1, keepdim=True), atol=1e-5)


def test_the_default_is_vit_l_14():
    assert count(jax.eval_shape(lambda: CLIPImage(CLIPConfig(), rngs=Rngs(0)))) == 303_966_208


def test_the_column_is_filled_with_weights_and_empty_without(files, tmp_path, monkeypatch):
    folder, _ = files
    make(tmp_path / "a.mp4", 6)
    monkeypatch.setattr(score, "load_clip", functools.partial(predictor.load_clip, config=SMALL))
    values = []
    for extra in ([], ["--aesthetic", str(folder / "clip.safetensors"), str(folder / "head.pth")]):
        out = tmp_path / f"{len(extra)}.parquet"
        score.main([str(tmp_path / "a.mp4"), "--out", str(out), "--metrics", "exposure", "--no-quality", "--workers", "1", *extra])
        values.append(pyarrow.parquet.read_table(out).to_pylist()[0])
    assert values[0]["aesthetic"] is None and "embedding" not in values[0]
    assert np.isfinite(values[1]["aesthetic"]) and len(values[1]["embedding"]) == 768


def test_wrong_weights_are_named(files, tmp_path):
    folder, _ = files
    with pytest.raises(ValueError, match=r": vision_model\S+ is, inputs first, \(16,\), and the model wants \(4, 5\)"):
        predictor.load_clip(folder / "clip.safetensors", dataclasses.replace(SMALL, width=20))
    with pytest.raises(ValueError, match="does not hold the weights of the model: missing vision_model.encoder.layers.2"):
        predictor.load_clip(folder / "clip.safetensors", dataclasses.replace(SMALL, layers=3))
    with pytest.raises(ValueError, match="is no aesthetic head"):
        predictor.load_head(folder / "clip.safetensors")


def test_pictures_are_the_centres_of_frames_from_all_over():
    assert sorted(Pictures(100, 4, (9, 9)).wanted) == [12, 37, 62, 87] and Pictures(2, 4, (9, 9)).wanted == {0, 1}
    wide = np.zeros((224, 448, 3), np.uint8)
    wide[:, 112:336] = 200
    assert (covered(wide, (224, 448))[:, 8:-8] == 200).all() and covered(wide[:, ::4], (224, 112)).shape == (224, 224, 3)


@pytest.mark.parametrize("rotate", [None, (90, False)])
def test_pictures_of_wide_pixels_have_the_shape_that_is_shown(rotate, tmp_path):
    path = make(tmp_path / "wide.mkv", 2, pixel=(2, 1), rotate=rotate)
    (picture,) = measure(path, Plan((), None, pictures=1)).pictures
    assert np.abs(picture.astype(int) - video.read_clip(path, [0.04], (224, 224))[0]).mean() < 1.5
