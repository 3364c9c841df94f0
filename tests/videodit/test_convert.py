"""Wan's weights become a run's, which samples, and from which training goes on with captions as features."""
import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from core_jax import mesh
from core_jax.tensors import load_table, save_file
from tests.core.video_files import make
from tests.videodit import small, small_autoencoder, small_text_encoder, small_wan
from videodit_jax import convert, latents, sample, train
from videodit_jax.autoencoder import SIZES
from videodit_jax.autoencoder.codec import Codec
from videodit_jax.config import Dtype, refuse_other_run
from videodit_jax.data import open_sources
from videodit_jax.flow import Target
from videodit_jax.presets import preset
from videodit_jax.run import Run
from videodit_jax.umt5.captions import Captions
from videodit_jax.umt5.encoder import TextEncoder

SIZE = ["--frames", "5", "--size", "16x16"]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with Wan 2.1, what is converted of it, and videos."""
    root = tmp_path_factory.mktemp("wan")
    small_wan.write(root / "wan")
    convert.main(["--pipeline", str(root / "wan"), "--out", str(root / "ours")])
    (root / "videos").mkdir()
    for name in "abc":
        make(root / "videos" / f"{name}.mp4", 12)
    (root / "videos" / "table.csv").write_text("file,caption\na.mp4,a red circle\nb.mp4,the fox\n")
    return root


def dataset(root, out="set"):
    latents.main(["--data", str(root / "videos"), "--autoencoder", str(root / "wan"), "--text-encoder", str(root / "wan"), "--out", str(root / out), *SIZE])


@pytest.mark.parametrize(
    "autoencoder, image, boundary",
    [(small_autoencoder.CONFIG, False, None), (small_autoencoder.CONFIG, True, None), (small_autoencoder.WAN22, False, None),
     (small_autoencoder.WAN22, True, None), (small_autoencoder.CONFIG, False, 0.875), (small_autoencoder.CONFIG, True, 0.9)],
    ids=["2.1", "2.1 from an image", "2.2", "2.2 from an image", "two experts", "two experts from an image"],
)  # fmt: skip
def test_a_random_wan_is_the_one_of_diffusers_from_prompt_to_latents(autoencoder, image, boundary, capfd):
    pytest.importorskip("diffusers", reason="diffusers is in the `reproduce` extra")
    from tests.reproduce.wan import compare_pipeline

    assert compare_pipeline(autoencoder, image, boundary).outputs < 2e-3  # captions' features and latents are float16
    assert "it/s]" not in capfd.readouterr().err, "what is written says nothing between our lines"


def test_what_is_converted_has_wans_settings_and_scores_to_train(there):
    run, table = Run.read(there / "ours"), load_table(there / "ours" / "weights.safetensors")
    c = run.config
    assert dataclasses.replace(c.model, remat=small_wan.CONFIG.remat) == small_wan.CONFIG
    assert (c.flow.target, c.flow.shift, c.fps, c.sampling.guidance.scores) == (Target.V, 5.0, 16.0, 1.0)
    assert c.autoencoder == c.text_encoder == str(there / "wan")
    (none,) = TextEncoder(there / "wan", mesh.build(), jnp.float32, 512)([""])
    np.testing.assert_allclose(table["text.none"], none[0], atol=0.03 * np.abs(none).max())  # it is made in bfloat16
    assert not table["scores.mlps.down.w"].any() and table["scores.mlps.up.w"].std() > 0.1  # zero both, they would never learn


def test_a_scheduler_that_names_no_shift_leaves_the_presets_own(tmp_path):
    for held, shift in (('{"flow_shift": null}', 3.0), ('{"flow_shift": null, "shift": 8.0}', 8.0)):
        (tmp_path / "scheduler").mkdir(exist_ok=True)
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(held)
        assert convert.settings(tmp_path, small_wan.CONFIG).flow.shift == shift


def test_wan_22_is_converted_encodes_is_trained_on_and_samples(tmp_path, there, monkeypatch):
    """With its own settings, of other sizes than Wan 2.1's."""
    small.use(1, monkeypatch)
    wan, ours, size = str(small_wan.write(tmp_path / "wan", small_wan.WAN22)), str(tmp_path / "ours"), ["--frames", "5", "--size", "32x64"]
    convert.main(["--pipeline", wan, "--out", ours])
    config = Run.read(ours).config
    assert (config.preset, config.video, config.fps, config.flow.shift, config.latents) == ("5b", (121, 704, 1280), 24.0, 5.0, SIZES["wan2.2"])
    assert config.model.given and config.model.in_place
    latents.main(["--data", str(there / "videos"), "--autoencoder", wan, "--text-encoder", wan, "--out", str(tmp_path / "set"), *size])
    steps = ["--steps", "2", "--batch", "2", "--eval-examples", "2", "--sampling.steps", "2", "--dtype", "float32"]
    train.main(["--init", ours, "--data", str(tmp_path / "set"), "--out", str(tmp_path / "run"), *size, *steps])
    assert (tmp_path / "run" / "samples" / "step_000002.png").exists()
    videos = []
    monkeypatch.setattr(sample, "write_samples", lambda stem, made, *rest: videos.append(made) or [])
    asked = ["--run", str(tmp_path / "run"), "--prompt", "a red circle", "--n", "1", "--steps", "2"]
    Image.fromarray(np.full((32, 64, 3), 200, np.uint8)).save(tmp_path / "first.png")
    sample.main([*asked, "--image", str(tmp_path / "first.png")])
    assert [video.shape for video in videos] == [(1, 5, 32, 64, 3)]
    codec = Codec(wan, mesh.build(), Dtype.FLOAT32.jax)
    first = codec.decode(codec.encode(np.full((1, 1, 32, 64, 3), 200, np.uint8)))
    assert np.abs(videos[0][:, :1].astype(int) - first).max() <= 1
    with pytest.raises(ValueError, match="wan holds an autoencoder of 16 channels, and .*run makes latents of 48"):
        sample.main([*asked, "--autoencoder", str(there / "wan")])


def test_half_as_large(there, tmp_path):
    convert.main(["--pipeline", str(there / "wan"), "--out", str(tmp_path), "--half"])
    whole, half = (load_table(folder / "weights.safetensors") for folder in (there / "ours", tmp_path))
    assert {array.dtype for array in half.values()} == {np.dtype(np.float16)}
    for name, array in whole.items():
        np.testing.assert_allclose(half[name], array, rtol=1e-3, atol=1e-6, err_msg=name)


def test_captions_are_encoded_once_and_lie_beside_the_latents(there, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    asked, call = [], TextEncoder.__call__

    def counted(self, captions):
        asked.extend(captions)
        yield from call(self, captions)

    monkeypatch.setattr(TextEncoder, "__call__", counted)
    monkeypatch.setattr(latents, "run", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        dataset(there)
    monkeypatch.undo()
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    monkeypatch.setattr(TextEncoder, "__call__", counted)
    dataset(there)
    assert asked == ["the fox", "a red circle"], "shorter ones first"
    config = dataclasses.replace(Run.read(there / "ours").config, data=str(there / "set"), frames=5, size="16x16")
    halves = open_sources(config)
    clips = [half[i] for half in halves for i in range(len(half))]
    assert sorted(clip["caption"] for clip in clips) == ["", "", "a red circle", "a red circle", "the fox", "the fox"]
    features = dict(zip(asked, TextEncoder(there / "wan", mesh.build(), Dtype.AUTO.jax, 512)(asked))) | {"": np.zeros((0, 24))}
    for clip in clips:
        assert clip["text"].dtype == np.float16
        np.testing.assert_allclose(clip["text"], features[clip["caption"]], atol=4e-3)
    few = dataclasses.replace(config, model=dataclasses.replace(config.model, text=dataclasses.replace(config.model.text, width=16)))
    small_text_encoder.write(tmp_path, layer_norm_epsilon=1e-5)
    with pytest.raises(ValueError, match="was made by another model than --text-encoder now names"):
        open_sources(dataclasses.replace(config, text_encoder=str(tmp_path)))
    with pytest.raises(ValueError, match="holds .None, 24., and --text-encoder wants 16 a token"):
        open_sources(few)


def test_another_encoder_or_precision_encodes_captions_anew(there, tmp_path):
    other, folder = small_text_encoder.write(tmp_path / "other", layer_norm_epsilon=1e-5), epath.Path(tmp_path)
    made = Captions(str(there / "wan"), folder, Dtype.FLOAT32)
    made.load(["a"])
    made.encode()
    for directory, dtype, waiting in ((there / "wan", Dtype.AUTO, []), (there / "wan", Dtype.BFLOAT16, ["a"]), (other, Dtype.FLOAT32, ["a"])):
        again = Captions(str(directory), folder, dtype)
        again.load(["a"])
        assert again.waiting == waiting


def test_captions_that_are_too_long_are_said(there, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("videodit_jax.umt5.captions.WORDS", 3)
    captions = Captions(str(there / "wan"), epath.Path(tmp_path), Dtype.FLOAT32)
    captions.load(["a red circle", "a red", "", "a red"])
    assert captions.waiting == ["a red", "a red circle"], "those of about one length are encoded side by side"
    captions.encode()
    assert [len(captions.features(caption)["text"]) for caption in ("a red circle", "a red", "")] == [3, 3, 0]
    assert "2 of 2 captions fill the 3 tokens that are read; what is longer was cut" in caplog.text


def test_training_goes_on_from_wan_and_samples(there, tmp_path, monkeypatch):
    small.use(1, monkeypatch)
    if not (there / "set").exists():
        dataset(there)
    monkeypatch.chdir(there)
    run = ["--init", "ours", "--text-encoder", "wan", "--data", str(there / "set"), "--out", str(tmp_path / "run"), *SIZE]
    train.main([*run, "--steps", "2", "--batch", "2", "--eval-examples", "2", "--sampling.steps", "2", "--dtype", "float32"])
    made, videos = Run.read(tmp_path / "run").config, []
    refuse_other_run(made, dataclasses.replace(made, text_encoder=str(tmp_path)))  # it may have moved
    assert made.text_encoder == str(there / "wan") and (tmp_path / "run" / "samples" / "step_000002.png").exists()
    monkeypatch.setattr(sample, "write_samples", lambda stem, made, *rest: videos.append(made) or [])
    asked = ["--n", "1", "--run", str(there / "ours"), "--steps", "2", "--text-guidance", "50", *SIZE]
    sample.main([*asked, "--prompt", "a red circle"])
    sample.main([*asked, "--prompt", "a red circle", "--negative-prompt", "the fox"])
    sample.main([*asked, "--prompt", "", "--frames", "9", "--size", "32x16"])
    assert [video.shape for video in videos] == [(1, 5, 16, 16, 3), (1, 5, 16, 16, 3), (1, 9, 32, 16, 3)]
    assert np.abs(videos[0].astype(int) - videos[1]).max() > 1


def test_bad_input_is_one_sentence(there, tmp_path):
    def fails(main, *args):
        with pytest.raises(ValueError) as error:
            main([str(arg) for arg in args])
        return str(error.value)

    def pipeline(**changes):
        return small_wan.write(tmp_path / f"wan{len(list(tmp_path.iterdir()))}", **changes)

    def converting(directory):
        said = fails(convert.main, "--pipeline", directory, "--out", tmp_path / "ours")
        assert not (tmp_path / "ours").exists()
        return said

    assert "holds no transformer" in converting(there / "videos")
    for name in ("transformer", "text_encoder", "vae"):
        inside = there / "wan" / name
        assert f"{inside} holds the config.json of something else, which would be written over" in fails(convert.main, "--pipeline", there / "wan", "--out", inside)
        assert not (inside / "weights.safetensors").exists()
    (tmp_path / "file").touch()
    assert "cannot be written: " in fails(convert.main, "--pipeline", there / "wan", "--out", tmp_path / "file" / "ours")
    assert "describes a WanTransformer3DModel with 33 channels in and 16 out" in converting(pipeline(in_channels=33))
    assert "reads features of an image in another way" in converting(pipeline(image_dim=1280))
    assert "16 and 16 or 48 and 48 or 36 and 16" in converting(pipeline(in_channels=48))
    two = pipeline()
    (two / "transformer_2").mkdir()
    assert "model_index.json gives a boundary_ratio of None, and of two transformers one between 0 and 1 is wanted" in converting(two)
    assert "gives a boundary_ratio of 1.5, and" in converting(pipeline(boundary=1.5))
    lost = pipeline(boundary=0.875)
    shutil.rmtree(lost / "transformer_2")
    assert "transformer_2 holds no transformer: there is no config.json in it" in converting(lost)
    assert "is not the config.json of a WanTransformer3DModel" in converting(pipeline(patch_size=None))
    wide = pipeline(text_dim=16)
    assert "the text encoder gives 24 features a token, and the transformer reads 16" in converting(wide)
    broken = pipeline()
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    table = load_table(path)
    save_file(path, table | {"proj_out.weight": np.zeros((3, 72), np.float32)})
    assert "proj_out.weight is, inputs first, (3, 72), and the model wants (72, 64)" in converting(broken)
    save_file(path, {name: array for name, array in table.items() if name != "blocks.1.attn2.to_v.bias"} | {"lora": np.zeros(1)})
    assert "missing blocks.1.attn2.to_v.bias, left over lora" in converting(broken)

    small_text_encoder.write(tmp_path / "other", small_text_encoder.encoder(width=32), d_model=32)
    ours = ["--run", there / "ours", "--prompt", "a", *SIZE, "--out", tmp_path / "x.mp4"]
    assert "gives 32 features a token, and" in fails(sample.main, *ours, "--text-encoder", tmp_path / "other")
    nowhere = ["--out", tmp_path / "new" / "x.mp4", "--text-encoder", tmp_path / "none"]
    assert "give --text-encoder, a directory of the encoder whose features" in fails(sample.main, *ours, *nowhere)
    assert not (tmp_path / "new").exists()
    assert "reads captions itself" in fails(sample.main, "--text-encoder", there / "wan")
    assert "a video of 18 frames, 16×16 has no latents" in fails(sample.main, *ours, "--frames", "18")
    with pytest.raises(ValueError, match="--text-encoder x goes with --autoencoder"):
        dataclasses.replace(preset("tiny"), text_encoder="x")
    with pytest.raises(ValueError, match="--model.text.reads bytes: captions' bytes are read without --text-encoder, features with it"):
        dataclasses.replace(preset("1.3b", autoencoder="wan2.1"), text_encoder="umt5-xxl")
