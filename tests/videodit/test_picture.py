"""Wan 2.1's image-to-video: features of the picture, made once, read beside the text in training and sampling."""
import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from core_jax import mesh
from core_jax.mesh import MeshConfig
from core_jax.tensors import load_table, save_file
from core_jax.weights import named
from tests.core.video_files import make
from tests.videodit import small, small_image_encoder, small_wan
from videodit_jax import convert, export, latents, lora, sample, sampler, step, train
from videodit_jax.config import LoRAConfig
from videodit_jax.data import open_sources
from videodit_jax.data.records import write_records
from videodit_jax.model import abstract_model
from videodit_jax.objective import loss_fn
from videodit_jax.picture import VIT_H, PictureEncoder, features_of
from videodit_jax.presets import preset
from videodit_jax.run import Run, abstract_parts, make_model, to_sample

SIZE = ["--frames", "5", "--size", "16x16"]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with a Wan 2.1 that reads a picture, what is converted of it, and latents to train on."""
    root = tmp_path_factory.mktemp("picture")
    wan = str(small_wan.write(root / "wan", small_wan.I2V21))
    convert.main(["--pipeline", wan, "--out", str(root / "ours")])
    (root / "videos").mkdir()
    for name in "abc":
        make(root / "videos" / f"{name}.mp4", 12)
    by = ["--autoencoder", wan, "--text-encoder", wan, "--picture", "--image-encoder", wan]
    latents.main(["--data", str(root / "videos"), *by, "--out", str(root / "set"), *SIZE])
    return root


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_the_features_are_those_of_transformers_before_the_last_layer(tmp_path, act):
    torch = pytest.importorskip("torch", reason="torch is in the `reproduce` extra")
    transformers = pytest.importorskip("transformers", reason="transformers is in the `reproduce` extra")
    directory = small_image_encoder.write(tmp_path, hidden_act=act)
    theirs = transformers.CLIPVisionModel.from_pretrained(directory / "image_encoder").eval()
    prepare = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    encoder, rng = PictureEncoder(tmp_path, mesh.build()), np.random.default_rng(0)
    for shape in ((3, 40, 67, 3), (1, 71, 40, 3)):
        pictures = rng.integers(0, 256, shape).astype(np.uint8)
        with torch.no_grad():
            read = prepare(images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt")
            wanted = theirs(**read, output_hidden_states=True).hidden_states[-2].numpy()
        assert wanted.shape[1:] == features_of(directory) == small_image_encoder.FEATURES
        assert np.abs(encoder(pictures) - wanted).max() < 2e-3 * np.abs(wanted).max()  # they are float16


def test_the_encoder_lies_on_any_mesh(tmp_path):
    """Its tokens, an odd number, are cut by no axis."""
    small_image_encoder.write(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3)).astype(np.uint8)
    one, other = (PictureEncoder(tmp_path, mesh.build(MeshConfig(**axes)))(pictures) for axes in ({}, dict(data=1, fsdp=2, context=2, tensor=2)))
    np.testing.assert_allclose(other, one, rtol=2e-3, atol=1e-3)


def test_what_is_converted_reads_the_pipelines_own_encoder(there):
    config = Run.read(there / "ours").config
    assert dataclasses.replace(config.model, remat=small_wan.CONFIG.remat) == small_wan.I2V21
    assert config.image_encoder == config.autoencoder == str(there / "wan") and config.given_part == 1.0
    assert to_sample("runs/a", config) == "python -m videodit_jax.sample --run runs/a --image PICTURE"
    sizes = preset("14b", autoencoder="wan2.1", text_encoder="umt5-xxl", image_encoder=VIT_H)
    assert sizes.model.picture == (257, 1280) and sizes.model.gray
    assert to_sample("RUN", sizes).endswith("--autoencoder DIR --text-encoder DIR --image-encoder DIR --image PICTURE")


def test_latents_have_the_features_of_each_first_frame(there, tmp_path):
    config = dataclasses.replace(Run.read(there / "ours").config, data=str(there / "set"), frames=5, size="16x16")
    clips = [half[i] for half in open_sources(config) for i in range(len(half))]
    folders = latents.open_splits(there / "videos", (5, 16, 16))
    frames = np.stack([folder[i]["video"][0] for folder in folders for i in range(len(folder))])
    made = PictureEncoder(there / "wan", mesh.build())(frames)
    np.testing.assert_allclose(np.stack([clip["picture"] for clip in clips]), made, atol=2e-3)
    write_records(tmp_path / "bare", {"train": [{name: value for name, value in clip.items() if name != "picture"} for clip in clips]})
    with pytest.raises(ValueError, match=r"bare holds no features of first frames, and --image-encoder wants \[5, 20\]: videodit_jax.latents --image-encoder"):
        open_sources(dataclasses.replace(config, data=str(tmp_path / "bare")))


def test_an_interrupted_encoding_goes_on(there, tmp_path, monkeypatch):
    """A clip counts as done where its latents are, and its features are there by then."""
    asked, whole, write = [], latents.PictureEncoder.__call__, latents.write_array
    monkeypatch.setattr(latents.PictureEncoder, "__call__", lambda self, pictures: asked.append(len(pictures)) or whole(self, pictures))
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    wan, written = str(there / "wan"), []

    def once(path, array):
        written.append(path)
        if len(written) == 4:
            raise KeyboardInterrupt
        write(path, array)

    words = ["--data", str(there / "videos"), "--autoencoder", wan, "--picture", "--image-encoder", wan, "--out", str(tmp_path / "set"), *SIZE]
    monkeypatch.setattr(latents, "write_array", once)
    with pytest.raises(KeyboardInterrupt):
        latents.main(words)
    before = sum(asked)
    monkeypatch.setattr(latents, "write_array", write)
    latents.main(words)
    assert written[0].name.endswith(".picture.npy") and (before, sum(asked) - before) == (2, 5)  # six clips, of which one was done
    config = dataclasses.replace(Run.read(there / "ours").config, data=str(there / "set"), frames=5, size="16x16")
    assert (tmp_path / "set").exists() and len(open_sources(config)[0])


def test_it_samples_trains_by_lora_and_goes_back(there, tmp_path, monkeypatch, capsys):
    small.use(1, monkeypatch)
    videos = []
    monkeypatch.setattr(sample, "write_samples", lambda stem, made, *rest: videos.append(made) or [])
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(tmp_path / "first.png")
    asked = ["--prompt", "a red circle", "--n", "1", "--steps", "2", "--image", str(tmp_path / "first.png"), *SIZE]
    sample.main(["--run", str(there / "ours"), *asked])
    other = small_image_encoder.write(tmp_path / "other", seed=1)
    sample.main(["--run", str(there / "ours"), "--image-encoder", str(other), *asked])
    assert [video.shape for video in videos] == [(1, 5, 16, 16, 3)] * 2
    assert np.abs(videos[0].astype(int) - videos[1]).max() > 1, "the features count"

    flags = "--steps 2 --batch 2 --eval-examples 2 --lora.rank 2 --sampling.steps 2 --dtype float32 --optimizer.learning-rate 0.01 --optimizer.warmup 0"
    train.main(["--init", str(there / "ours"), "--data", str(there / "set"), "--out", str(tmp_path / "run"), *SIZE, *flags.split()])
    assert np.isfinite(small.losses(tmp_path / "run")).all() and (tmp_path / "run" / "samples" / "step_000002.png").exists()
    assert "--image PICTURE" in capsys.readouterr().out
    export.main(["--run", str(tmp_path / "run"), "--out", str(tmp_path / "lora")])
    table = load_table(tmp_path / "lora" / lora.FILE)
    assert np.abs(table["transformer.blocks.1.attn2.add_v_proj.lora_B.weight"]).max() > 0
    export.main(["--run", str(there / "ours"), "--diffusers", "--out", str(tmp_path / "back")])
    held = json.loads((tmp_path / "back" / "transformer" / "config.json").read_text())
    assert (held["image_dim"], held["added_kv_proj_dim"], held["in_channels"]) == (20, 72, 36)


def test_the_loss_and_its_gradients_reach_the_features(there):
    config = dataclasses.replace(Run.read(there / "ours").config, frames=5, size="16x16")
    model, rng = small.shaken(jax.jit(lambda: make_model(config))(), 0.1), np.random.default_rng(0)
    batch = {
        "video": rng.standard_normal((2, *config.stored.shape)).astype(np.float16), "scores": np.full((2, 3), np.nan, np.float32),
        "text": jax.tree.map(lambda *x: np.stack(x), *[config.model.text.tokenize("")] * 2),
        "picture": rng.standard_normal((2, *config.model.picture)).astype(np.float16),
    }  # fmt: skip
    loss = jax.jit(jax.value_and_grad(lambda model, picture: loss_fn(config)(model, batch | {"picture": picture}, jax.random.key(0))[0]))
    (one, grads), (other, _) = loss(model, batch["picture"]), loss(model, batch["picture"][::-1])
    assert one != other
    for leaf in jax.tree.leaves((grads.picture, grads.blocks.cross_attention.picture_kv, grads.blocks.cross_attention.picture_k_norm)):
        assert (leaf != 0).any()


def test_a_plan_counts_the_features(there):
    config, on = dataclasses.replace(Run.read(there / "ours").config, frames=5, size="16x16", batch=8), mesh.build()
    assert step.inputs(config, on)[1]["picture"].shape == (8, *small_image_encoder.FEATURES)
    with jax.set_mesh(on):
        lowered, _ = sampler.lower(config, on)
    assert (8, *small_image_encoder.FEATURES) in [one.shape for one in jax.tree.leaves(lowered.in_avals)]


@pytest.mark.parametrize("names", ["{}.attn2.add_k_proj", "{}.cross_attn.k_img"], ids=["diffusers", "Wan"])
def test_lora_of_others_is_read_by_its_names(there, tmp_path, names):
    config, rng = Run.read(there / "ours").config, np.random.default_rng(0)
    a, b, place = rng.standard_normal((2, 72), np.float32), rng.standard_normal((72, 2), np.float32), names.format("blocks.1")
    norm = {"{}.cross_attn.k_img": "img_emb.proj.3.diff_b"}.get(names, "condition_embedder.image_embedder.ff.net.2.diff_b")
    save_file(tmp_path / "x.safetensors", {f"{place}.lora_A.weight": a, f"{place}.lora_B.weight": b, norm: np.ones(72, np.float32)})
    model = small.shaken(jax.jit(lambda: make_model(config))())
    merged = lora.merge(model, config.model, [lora.read(tmp_path / "x.safetensors", 0.5, abstract_model(config.model))])
    change = lambda get: np.asarray(get(merged), np.float32) - np.asarray(get(model), np.float32)
    kv = change(lambda one: one.blocks.cross_attention.picture_kv.w[...])
    np.testing.assert_allclose(kv[1, :, 0].reshape(72, 72), 0.5 * (b @ a).T, rtol=1e-4, atol=1e-5)
    assert not kv[0].any() and not kv[1, :, 1].any()
    np.testing.assert_allclose(change(lambda one: one.picture.down.b[...]), 0.5, rtol=1e-5)


def test_bad_input_is_one_sentence(there, tmp_path, fails):
    wan, picture = str(there / "wan"), tmp_path / "first.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(picture)
    ours = ["--run", str(there / "ours"), "--prompt", "a", "--image", str(picture), "--out", str(tmp_path / "x.mp4"), *SIZE]
    assert f"give --image-encoder, a directory of the encoder whose features {there}/ours reads: nowhere is none" in fails(sample.main, [*ours, "--image-encoder", "nowhere"])
    large = small_image_encoder.write(tmp_path / "large", image_size=42)
    assert f"{large} gives 10 tokens of 20 features, and {there}/ours reads 5 of 20" in fails(sample.main, [*ours, "--image-encoder", str(large)])
    wrong = small_image_encoder.write(tmp_path / "wrong", hidden_act="relu")
    assert "describes a clip_vision_model of 3 layers with relu" in fails(sample.main, [*ours, "--image-encoder", str(wrong)])
    assert not (tmp_path / "x.mp4").exists()
    assert "--image-encoder x: " in fails(sample.main, ["--image-encoder", "x", "--out", str(tmp_path / "x.mp4")])
    data = ["--data", str(there / "videos"), "--autoencoder", wan, "--out", str(tmp_path / "set"), *SIZE]
    own = {"data": "x", "autoencoder": "y", "out": "z"}
    with pytest.raises(ValueError, match="--image-encoder w goes with --picture: features of a first frame come with its latents"):
        latents.LatentsConfig(**own, image_encoder="w")
    with pytest.raises(ValueError, match=f"--image-encoder {VIT_H}: a directory of its weights is wanted"):
        latents.LatentsConfig(**own, picture=True, image_encoder=VIT_H)
    assert "holds no image encoder: there is no config.json in it" in fails(latents.main, [*data, "--picture", "--image-encoder", str(there / "videos")])
    assert not (tmp_path / "set").exists()
    with pytest.raises(ValueError, match=f"--image-encoder {VIT_H} goes with --autoencoder: features of first frames come with latents"):
        dataclasses.replace(preset("tiny"), image_encoder=VIT_H)
    with pytest.raises(ValueError, match="--model.picture 5 20: two positive numbers are wanted, with --model.gray, or 0 0"):
        dataclasses.replace(preset("tiny").model, picture=(5, 20))
    with pytest.raises(ValueError, match="^--frames 1: with --picture the first frame is given, which of one frame would be all"):
        latents.LatentsConfig(**own, picture=True, frames=1)
    with pytest.raises(ValueError, match="^with --model.gray the first frame is given, which of one frame would be all: more --frames are wanted"):
        dataclasses.replace(Run.read(there / "ours").config, frames=1)
    with pytest.raises(ValueError, match="--image-encoder x: this model reads no features of a picture"):
        dataclasses.replace(preset("1.3b", autoencoder="wan2.1"), image_encoder="x")
    with pytest.raises(ValueError, match="--model.picture 5 20 goes with --image-encoder: features of a picture are read"):
        dataclasses.replace(Run.read(there / "ours").config, image_encoder=None)

    def converting(**changes):
        return fails(convert.main, ["--pipeline", str(small_wan.write(tmp_path / "other", small_wan.I2V21, **changes)), "--out", str(tmp_path / "ours")])

    for changes in ({"added_kv_proj_dim": None}, {"pos_embed_seq_len": 514}, {"image_dim": None}):
        assert "describes a Wan that reads features of an image in another way" in (said := converting(**changes))
        assert all(f"{name} of {value}" in said for name, value in changes.items())
    assert "the image encoder gives 20 features a token, and the transformer reads 24" in converting(image_dim=24)
    assert not (tmp_path / "ours").exists()


def test_the_products_of_lora_stand_beside_the_pictures_map_too(there):
    learned, _ = abstract_parts(dataclasses.replace(Run.read(there / "ours").config, lora=LoRAConfig(2)))
    assert "blocks.cross_attention.picture_kv.a.w" in named(learned)
