"""The autoencoder of videos: equal to its definition written plainly, causal, and read from a directory in diffusers' format."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from core_jax import mesh
from core_jax.tensors import load_table, save_file
from core_jax.weights import named
from tests.videodit import small_autoencoder as small
from videodit_jax.autoencoder import model
from videodit_jax.autoencoder.codec import Codec
from videodit_jax.autoencoder.load import load, weights_file
from videodit_jax.objective import to_float, to_uint8


@pytest.fixture(scope="module", params=[small.CONFIG, small.WAN22], ids=["2.1", "2.2"])
def coded(request):
    """The autoencoder, a video, its latents, and their video."""
    autoencoder, video = small.autoencoder(request.param), small.video(request.param, 2)
    latents = jax.jit(model.Autoencoder.encode)(autoencoder, video)
    return autoencoder, video, np.asarray(latents), np.asarray(jax.jit(model.Autoencoder.decode)(autoencoder, latents))


def test_sizes_are_those_of_the_docstring(coded):
    autoencoder, video, latents, again = coded
    known = autoencoder.config.latents
    assert latents.shape[1:] == (*known.grid(video.shape[1:4]), known.channels) == (3, 2, 3, known.channels) and video.shape == again.shape
    assert np.abs(again).max() <= 1 and latents.std() > 0.1


def test_no_latent_sees_later_frames_and_none_is_left_out(coded):
    autoencoder, video, latents, again = coded
    encode, decode = jax.jit(model.Autoencoder.encode), jax.jit(model.Autoencoder.decode)
    for frame, first in ((0, 0), (1, 1), (4, 1), (5, 2), (8, 2)):
        changed = np.array(encode(autoencoder, video + 0.5 * (np.arange(9) == frame)[:, None, None, None].astype(np.float32)))
        differs = np.abs(changed - latents).max((0, 2, 3, 4)) > 1e-4
        assert differs[first] and not differs[:first].any()
    for latent, first in ((0, 0), (1, 1), (2, 5)):
        changed = np.array(decode(autoencoder, latents + (np.arange(3) == latent)[:, None, None, None].astype(np.float32)))
        differs = np.abs(changed - again).max((0, 2, 3, 4)) > 1e-4
        assert differs[first] and not differs[:first].any()


def test_a_convolution_is_the_same_in_two_dims_and_in_three(coded, monkeypatch):
    autoencoder, video, latents, again = coded
    monkeypatch.setattr(model, "platform", lambda: "tpu")
    np.testing.assert_allclose(jax.jit(lambda m, x: m.encode(x))(autoencoder, video), latents, atol=2e-5 * np.abs(latents).max())
    np.testing.assert_allclose(jax.jit(lambda m, z: m.decode(z))(autoencoder, latents), again, atol=1e-4)


def test_it_is_diffusers_autoencoder_of_wan(coded):
    pytest.importorskip("torch", reason="torch is in the `reproduce` extra")
    from tests.reproduce.wan import compare_autoencoder

    assert compare_autoencoder(coded[0].config, 2).outputs < 1e-5  # with the sizes of `coded`, so that nothing more is compiled


@pytest.mark.parametrize("config, parameters", [(model.AutoencoderConfig(), 126_892_531), (model.WAN22, 704_688_668)], ids=["2.1", "2.2"])
def test_the_published_ones_have_their_parameters(config, parameters):
    shapes = jax.eval_shape(lambda: model.Autoencoder(config, rngs=nnx.Rngs(0)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters


def test_a_codec_gives_on_many_devices_what_one_gives(tmp_path, coded):
    autoencoder, video, latents, again = coded
    directory = small.write(tmp_path, autoencoder)
    pixels = np.asarray(to_uint8(jnp.asarray(video[[0, 1, 0]])))
    codec = Codec(directory, mesh.build(devices=jax.devices()[:2]), jnp.float32)
    assert codec.batch == 2
    made = codec.encode(pixels)
    wanted = jax.jit(model.Autoencoder.encode)(autoencoder, to_float(jnp.asarray(pixels[:2])))
    assert made.dtype == np.float16
    np.testing.assert_allclose(made, np.asarray(wanted)[[0, 1, 0]], rtol=2e-3, atol=2e-3)
    back = codec.decode(latents[[0, 1, 0]].astype(np.float16))
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - np.asarray(to_uint8(jnp.asarray(again)))[[0, 1, 0]]).max() <= 1


def test_what_is_no_autoencoder_is_one_sentence(tmp_path):
    good = small.write(tmp_path / "good")
    read = {name: np.asarray(x) for name, x in named(load(good)).items()}
    np.testing.assert_array_equal(read["encoder.start.w"], named(small.autoencoder())["encoder.start.w"])
    with pytest.raises(ValueError, match="there is no file or folder"):
        load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no autoencoder: there is no config.json in it"):
        load(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"_class_name": "AutoencoderKLWan"}')
    with pytest.raises(ValueError, match="is not the config.json of an AutoencoderKLWan"):
        load(tmp_path / "empty")
    for change in ({"is_residual": True}, {"patch_size": 2}, {"in_channels": 12}, {"z_dim": 8}, {"temperal_downsample": [True, True, True]}):
        with pytest.raises(ValueError, match="describes a AutoencoderKLWan that is neither Wan 2.1's, .* nor Wan 2.2's, 48 channels"):
            load(small.write(tmp_path / "changed", **change))
    with pytest.raises(ValueError, match="describes a AutoencoderKL that is neither Wan 2.1's"):
        load(small.write(tmp_path / "other", _class_name="AutoencoderKL"))
    table = load_table(weights_file(good))
    save_file(weights_file(good), {name: x for name, x in table.items() if name != "decoder.conv_in.bias"} | {"more": np.zeros(1)})
    with pytest.raises(ValueError, match="missing decoder.conv_in.bias, left over more"):
        load(good)
    later = small.write(tmp_path / "wan2.2", small.autoencoder(small.WAN22))
    gone = ["decoder.up_blocks.0.upsampler.time_conv.weight", "decoder.up_blocks.2.resnets.0.conv_shortcut.bias", "encoder.down_blocks.1.downsampler.resample.1.weight"]
    save_file(weights_file(later), {name: x for name, x in load_table(weights_file(later)).items() if name not in gone})
    with pytest.raises(ValueError, match=f"missing {', '.join(gone)}, left over nothing"):
        load(later)
    save_file(weights_file(good), table | {"quant_conv.weight": np.zeros((32, 31, 1, 1, 1), np.float32)})
    with pytest.raises(ValueError, match=r"quant_conv.weight is, inputs first, \(1, 1, 1, 31, 32\), and the model wants \(1, 1, 1, 32, 32\)"):
        load(good)
    weights_file(good).write_bytes(b"none")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load(good)
    assert json.loads((good / "config.json").read_text())["z_dim"] == 16
