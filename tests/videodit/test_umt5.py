"""The text encoder: equal to transformers', independent of how captions are batched, and read from a directory."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from core_jax import mesh
from core_jax.tensors import load_table, save_file
from core_jax.weights import count, named
from tests.videodit import small_text_encoder as small
from videodit_jax.umt5.encoder import TextEncoder
from videodit_jax.umt5.load import digest, load, load_tokenizer
from videodit_jax.umt5.model import Umt5, Umt5Config, buckets

CAPTIONS = ["", "a red circle", "the big  fox\njumps &amp;amp; lies down", "a"]
WORDS = 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return small.write(tmp_path_factory.mktemp("umt5"))


def test_it_is_the_encoder_of_transformers(directory):
    torch = pytest.importorskip("torch", reason="torch is in the `reproduce` extra")
    from transformers import UMT5EncoderModel

    theirs = UMT5EncoderModel.from_pretrained(directory / "text_encoder").eval()
    model, rng = load(directory, mesh.build(devices=jax.devices()[:1]), jnp.float32), np.random.default_rng(0)
    tokens, lengths = rng.integers(0, 40, (3, 32)), np.array([32, 9, 1])
    ours = jax.jit(Umt5.__call__)(model, tokens, lengths)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(tokens), torch.from_numpy((np.arange(32) < lengths[:, None]).astype(int))).last_hidden_state.numpy()
    for one, other, n in zip(ours, wanted, lengths):
        np.testing.assert_allclose(one[:n], other[:n], atol=2e-5 * np.abs(wanted).max())


def test_the_published_one_has_its_parameters():
    assert count(jax.eval_shape(lambda: Umt5(Umt5Config(), rngs=nnx.Rngs(0)))) == 5_680_910_336


def test_buckets_hold_one_distance_each_and_then_more_and_more():
    first = buckets(400, 32, 128)[0]  # keys behind the query
    assert first[:8].tolist() == [0, *range(17, 24)] and (np.diff(first[1:]) >= 0).all() and first[-1] == first[128] == 31
    widths = np.bincount(first[1:128] - 16)[8:15]
    assert (np.diff(widths) >= 0).all() and widths[-1] > 5 * widths[0]
    np.testing.assert_array_equal(buckets(400, 32, 128)[:, 0][1:], first[1:] - 16)


def test_a_caption_has_its_features_whoever_is_beside_it(directory):
    alone = TextEncoder(directory, mesh.build(devices=jax.devices()[:1]), jnp.float32, WORDS)
    many = TextEncoder(directory, mesh.build(mesh.MeshConfig(data=1, fsdp=-1)), jnp.float32, WORDS)
    together = list(many(CAPTIONS))
    assert [len(one) for one in together] == [1, 4, WORDS, 2] and together[0].dtype == np.float16
    for caption, one in zip(CAPTIONS, together):
        (single,) = alone([caption])
        np.testing.assert_allclose(one, single, atol=4e-3)
    assert len(list(alone("a red".split() * alone.batch))) == 2 * alone.batch


def test_a_caption_is_read_as_wan_reads_it(directory):
    encoder = TextEncoder(directory, mesh.build(devices=jax.devices()[:1]), jnp.float32, WORDS)
    assert encoder.tokens(CAPTIONS[2]) == encoder.tokens(" the big fox jumps & lies down ")
    whole = encoder.tokens("a red circle a red circle a red circle a red circle a red circle a red circle a red circle")
    assert len(whole) == 22 and whole[-1] == 1
    cut = np.array([[*whole[:19], 1] + [0] * 12], np.int32)
    with jax.set_mesh(encoder.mesh):
        wanted = jax.jit(Umt5.__call__)(encoder.model, cut, np.array([20]))
    (features,) = encoder(["a red circle " * 7])
    np.testing.assert_allclose(features, wanted[0, :20], atol=4e-3)


def test_bad_directories_are_one_sentence(directory, tmp_path):
    def fails(change, function=lambda path: TextEncoder(path, mesh.build(), jnp.float32, WORDS)):
        copy = tmp_path / str(len(list(tmp_path.iterdir())))
        small.write(copy)
        change(copy)
        with pytest.raises(ValueError) as error:
            function(copy)
        return str(error.value)

    def weights(change):
        def changed(copy):
            path = copy / "text_encoder" / "model.safetensors"
            table = load_table(path)
            change(table)
            save_file(path, table)

        return changed

    assert "holds no text encoder" in fails(lambda copy: (copy / "text_encoder" / "config.json").unlink())
    assert "is not the config.json of a UMT5EncoderModel" in fails(lambda copy: (copy / "text_encoder" / "config.json").write_text("{}"))
    assert "describes a t5 with gated-gelu" in fails(lambda copy: small.write(copy, model_type="t5"))
    assert "describes a umt5 with relu" in fails(lambda copy: small.write(copy, feed_forward_proj="relu"))
    assert "missing shared.weight, left over nothing" in fails(weights(lambda table: table.pop("shared.weight")))
    assert "missing nothing, left over other" in fails(weights(lambda table: table.update(other=np.zeros(1))))
    odd = "encoder.block.1.layer.0.SelfAttention.q.weight"
    assert "q.weight is, inputs first, (24, 16), and the model wants (24, 3, 8)" in fails(weights(lambda table: table.update({odd: np.zeros((16, 24), np.float32)})))
    assert "cannot be read as safetensors" in fails(lambda copy: (copy / "text_encoder" / "model.safetensors").write_text("no"))
    for function in (load_tokenizer, digest):
        assert "tokenizer.json is missing" in fails(lambda copy: (copy / "tokenizer" / "tokenizer.json").unlink(), function)
    assert "is no tokenizer that can be read" in fails(lambda copy: (copy / "tokenizer" / "tokenizer.json").write_text("{}"))
    few = fails(lambda copy: small.write(copy, small.encoder(vocabulary=30), vocab_size=30))
    assert "numbers its tokens up to 33, and the text encoder knows 30" in few

    def endless(copy):
        tokenizer = small.tokenizer()
        tokenizer.post_processor = None
        tokenizer.save(str(copy / "tokenizer" / "tokenizer.json"))

    assert "makes [] of an empty text, and UMT5's tokenizer makes ['</s>']" in fails(endless, load_tokenizer)


def test_a_digest_tells_directories_apart(directory, tmp_path):
    assert digest(directory) == digest(small.write(tmp_path / "same"))
    assert digest(directory) != digest(small.write(tmp_path / "other", layer_norm_epsilon=1e-5))
    path = tmp_path / "same" / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    assert digest(directory) != digest(tmp_path / "same")


def test_a_digest_tells_weights_apart_that_start_alike(tmp_path):
    small.write(tmp_path, small.encoder(mlp=20_000), d_ff=20_000)  # 12 MB
    path, first = tmp_path / "text_encoder" / "model.safetensors", digest(tmp_path)
    held = path.read_bytes()
    path.write_bytes(held[:-1_000_000] + np.frombuffer(held[-1_000_000:], np.uint8)[::-1].tobytes())
    assert digest(tmp_path) != first


def test_files_under_an_index_are_one_directory(directory, tmp_path):
    copy = small.write(tmp_path) / "text_encoder"
    table = load_table(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(table))}
    for file in set(where.values()):
        save_file(copy / file, {name: array for name, array in table.items() if where[name] == file})
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    on = mesh.build(devices=jax.devices()[:1])
    for (name, one), other in zip(named(load(tmp_path, on, jnp.float32)).items(), named(load(directory, on, jnp.float32)).values()):
        np.testing.assert_array_equal(one, other, err_msg=name)
