"""The parts of the vision-language model that need no other writing of it: cache, files, tokenizer, mesh."""
import dataclasses
import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file, save_file

from core_jax import mesh
from core_jax.layers import Linear
from core_jax.lmm import rows
from core_jax.lmm.ask import ask
from core_jax.lmm.cache import new_cache
from core_jax.lmm.config import LMMConfig, read_config
from core_jax.lmm.generate import answers, chosen, generate
from core_jax.lmm.load import abstract, load
from core_jax.lmm.model import LMM
from core_jax.lmm.packing import video
from core_jax.lmm.save import save
from core_jax.lmm.sequence import Sequence, lay_out, stack
from core_jax.lmm.tokenizer import Tokenizer, load_tokenizer
from core_jax.remat import Remat
from core_jax.rngs import Rngs
from core_jax.sharding import shardings
from core_jax.weights import count, named
from tests.core.lmm_models import CONFIG, DECODER, IMAGE, TOWER, VIDEO, llava_onevision, words


@pytest.fixture(scope="module")
def model() -> LMM:
    waves = lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    return jax.jit(lambda: jax.tree.map(waves, LMM(CONFIG, rngs=Rngs(0))))()


def test_a_sequence_taken_in_pieces_is_the_sequence_taken_at_once(model):
    """Pieces of several sizes, with holes in one example: what is read out is what recomputation without holes gives."""
    tokens = np.random.default_rng(0).integers(8, 100, (2, 17))
    pieces = [(5, 3), (1, 1), (5, 5), (1, 0), (5, 2)]  # (slots, tokens of the second example among them)
    extend = jax.jit(type(model.decoder).extend)
    cache, whole, holed = new_cache(DECODER, 2, 32), [], []
    at, short = 0, []
    for slots, real in pieces:
        valid = np.stack([np.arange(slots) < slots, np.arange(slots) < real])
        x, cache = extend(model.decoder, model.decoder.embed(jnp.asarray(tokens[:, at : at + slots])), valid, cache)
        whole.append(x[0])
        holed.append(x[1, :real])
        short += range(at, at + real)
        at += slots
    assert cache.lengths.tolist() == [17, 11] and int(cache.used) == 17
    tokens[1] = np.pad(tokens[1, short], (0, 6))  # behind the last, where none sees it
    want = jax.jit(type(model.decoder).__call__)(model.decoder, model.decoder.embed(jnp.asarray(tokens)))
    np.testing.assert_allclose(np.concatenate(whole), want[0], atol=1e-5)
    np.testing.assert_allclose(np.concatenate(holed), want[1, :11], atol=1e-5)


def test_layers_taken_apart_are_the_stack(model):
    apart, tokens = model.ready(), np.random.default_rng(0).integers(8, 100, (2, 9))
    assert len(apart.decoder.layers) == DECODER.layers and apart.decoder.ready() is apart.decoder

    @jax.jit
    def read(decoder):
        x = decoder.embed(jnp.asarray(tokens))
        valid = jnp.arange(6)[None] < jnp.array([[6], [4]])
        filled, cache = decoder.prefill(x[:, :6], valid, 12)
        return decoder(x), filled, decoder.extend(x[:, 6:], jnp.ones((2, 3), bool), cache)

    stacked = read(model.decoder)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), read(apart.decoder), stacked)
    np.testing.assert_allclose(stacked[1][:, 0], stacked[0][[0, 1], [5, 3]], atol=1e-5, err_msg="the last token's features")
    prompt = Sequence(np.array([9, 8, 30, 11], np.int32))
    np.testing.assert_array_equal(generate(apart, [prompt], most=8)[0], generate(model, [prompt], most=8)[0])


@pytest.mark.parametrize("cores", [1, 2, 6])
def test_a_linear_map_in_pieces_is_the_whole(cores, monkeypatch):
    monkeypatch.setattr(rows, "cores", lambda: cores)
    whole = Linear((3, 5), (4, 2), "K D E n", rngs=Rngs(0))
    whole.b = nnx.Param(jnp.arange(8.0).reshape(4, 2))
    pieces = rows.by_rows({"map": whole})["map"]
    assert len(pieces.w) == math.gcd(cores, 8)
    for lead in ((1, 1), (2, 3)):
        x = jax.random.normal(jax.random.key(1), (*lead, 3, 5))
        np.testing.assert_allclose(pieces(x), whole(x), atol=1e-5)


def with_layers(number: int) -> LMMConfig:
    return dataclasses.replace(CONFIG, decoder=dataclasses.replace(DECODER, layers=number), tower=dataclasses.replace(TOWER, layers=number))


def test_a_step_is_as_large_a_program_with_many_layers_as_with_few():
    frames = np.zeros((2, 20, 20, 3), np.uint8)
    inputs = stack(CONFIG, [lay_out(CONFIG, [9, VIDEO, 10], [video(frames, TOWER)])])
    step = jax.jit(jax.grad(lambda model: model(inputs).mean()))
    few, many = (step.lower(abstract(with_layers(n))).as_text().count("dot_general") for n in (2, 9))
    assert few == many > 20


def squares(model, inputs, remat):
    return (model(inputs, remat=remat) ** 2).mean()


gradient = jax.jit(jax.grad(squares), static_argnums=2)


@pytest.mark.parametrize("remat", [Remat.FULL, Remat.ATTENTION, Remat.PRODUCTS])
def test_what_is_computed_again_changes_no_gradient(model, remat):
    clip = video(np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8), TOWER)
    inputs = stack(CONFIG, [lay_out(CONFIG, [9, VIDEO, 10], [clip])])
    found, wanted = (gradient(model, inputs, how) for how in (remat, Remat.NONE))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), found, wanted)
    kept = lambda remat: count(jax.eval_shape(lambda model: jax.vjp(lambda model: squares(model, inputs, remat), model)[1], model))
    assert kept(remat) < kept(Remat.NONE) / 2


def test_generation_from_the_cache_is_recomputation_and_stops(model):
    prompt = Sequence(np.array([9, 8, 30, 11], np.int32))
    answer = generate(model, [prompt], most=24)[0]
    tokens = prompt.tokens.tolist()
    logits = jax.jit(lambda model, inputs: model(inputs))
    for token in answer:
        assert logits(model, stack(CONFIG, [Sequence(np.array(tokens, np.int32))]))[0, len(tokens) - 1].argmax() == token
        tokens.append(int(token))
    stop = int(answer[5])
    stopping = jax.tree.map(lambda x: x, model)
    stopping.config = dataclasses.replace(CONFIG, stop=(stop,))
    np.testing.assert_array_equal(generate(stopping, [prompt], most=24)[0], answer[: answer.tolist().index(stop)])


def test_the_likeliest_token_is_the_first_of_equals():
    logits = jnp.array([[0.0, 2.0, 1.0, 2.0], [-jnp.inf, -jnp.inf, -jnp.inf, -5.0], [3.0, 3.0, 3.0, 3.0]])
    np.testing.assert_array_equal(chosen(CONFIG, logits, 0.0, None, 0), logits.argmax(-1))


def test_a_drawn_answer_depends_on_its_key_and_place_alone(model):
    prompts = [Sequence(np.arange(9, 9 + n, dtype=np.int32)) for n in (3, 6, 4)]
    draw = lambda prompts, seed: generate(model, prompts, most=12, temperature=1.0, key=jax.random.key(seed))
    np.testing.assert_array_equal(draw(prompts[:2], 0)[1], draw(prompts, 0)[1])
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(draw(prompts, 0), draw(prompts, 1)))


def test_one_program_serves_all_lengths_of_a_bucket(model):
    generate(model, [Sequence(np.arange(9, 14, dtype=np.int32))], most=10)
    before = answers.on(mesh.chip())._cache_size()
    for n in (3, 20, 32):
        generate(model, [Sequence(np.arange(9, 9 + n, dtype=np.int32))], most=10)
    assert answers.on(mesh.chip())._cache_size() == before


def test_what_is_longer_than_the_context_is_refused_with_numbers(model):
    with pytest.raises(ValueError, match="prompt of 100 tokens and an answer of 40 make 140, and the model's context is 128"):
        generate(model, [Sequence(np.full(100, 9, np.int32))], most=40)
    with pytest.raises(ValueError, match="129 tokens does not fit in 128"):
        stack(CONFIG, [Sequence(np.full(129, 9, np.int32))])


@pytest.mark.parametrize("sizes", [mesh.MeshConfig(data=2, fsdp=2, tensor=2), mesh.MeshConfig(data=2, context=2, tensor=2)], ids=str)
def test_a_model_on_a_mesh_answers_as_on_one_device(model, sizes):
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (4, 2, 20, 20, 3), np.uint8)
    prompts = [lay_out(CONFIG, [9, VIDEO, 10 + i], [video(f, TOWER)]) for i, f in enumerate(frames)]
    want = generate(model, prompts, most=8)
    on = mesh.build(sizes)
    with jax.set_mesh(on):
        spread = jax.device_put(model, shardings(model, on))
        got = generate(spread, prompts, most=8)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return llava_onevision(tmp_path_factory.mktemp("model"), larger=True).path


@pytest.fixture
def copied(directory, tmp_path):
    return shutil.copytree(directory, tmp_path / "copy")


def change(path, **settings):
    config = json.loads((path / "config.json").read_text())
    for name, value in settings.items():
        (config["text_config"] if name in config["text_config"] else config)[name] = value
    (path / "config.json").write_text(json.dumps(config))


def test_tensors_that_are_missing_or_left_over_are_named(copied):
    change(copied, num_hidden_layers=4)
    with pytest.raises(ValueError, match=r"missing layers\.3\.\S+.* and 7 more, left over nothing"):
        load(copied)
    change(copied, num_hidden_layers=2)
    with pytest.raises(ValueError, match=r"missing nothing, left over layers\.2\."):
        load(copied)


def test_a_tensor_of_another_shape_is_named(copied):
    change(copied, num_hidden_layers=3, intermediate_size=60)
    with pytest.raises(ValueError, match=r"mlp\.\w+_proj\.weight is, inputs first, \(64, 48\), and the model wants \(60, 48\)"):
        load(copied)
    change(copied, intermediate_size=64)
    for path in copied.glob("*.safetensors"):
        save_file({name: array.T.copy() if name.endswith("1.mlp.up_proj.weight") else array for name, array in load_file(path).items()}, path)
    with pytest.raises(ValueError, match=r"1\.mlp\.up_proj\.weight is, inputs first, \(64, 48\), and the model wants \(48, 64\)"):
        load(copied)


def test_a_directory_in_a_store_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="gs://bucket/model lies in an object store, and weights are read from a disk"):
        load("gs://bucket/model")


def test_pixels_are_normalised_as_the_directory_says_whichever_version_wrote_it(copied):
    assert read_config(copied).tower.mean != (0.5, 0.5, 0.5)
    (copied / "preprocessor_config.json").write_text('{"image_mean": [0.4, 0.4, 0.4]}')
    (copied / "processor_config.json").write_text('{"processor_class": "LlavaOnevisionProcessor"}')
    assert read_config(copied).tower.mean == (0.4, 0.4, 0.4)
    (copied / "processor_config.json").write_text('{"image_processor": {"image_mean": [0.5, 0.5, 0.5]}}')
    assert read_config(copied).tower.mean == (0.5, 0.5, 0.5)
    for text, message in (("{", "processor_config.json is no JSON"), ("[]", "holds list, and a JSON object is wanted")):
        (copied / "processor_config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_config(copied)


@pytest.mark.parametrize("settings, message", [
    ({"model_type": "gpt2"}, "'gpt2'; what can be read is llava_onevision or chameleon"),
    ({"hidden_act": "relu"}, "hidden_act to 'relu'"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type to 'yarn'"),
    ({"vision_feature_layer": -2}, "vision_feature_layer to -2"),
    ({"vision_aspect_ratio": "pad"}, "vision_aspect_ratio to 'pad'"),
])  # fmt: skip
def test_a_model_of_another_kind_is_refused(copied, settings, message):
    config = json.loads((copied / "config.json").read_text())
    for name, value in settings.items():
        (config["text_config"] if name in ("hidden_act", "rope_parameters") else config)[name] = value
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load(copied)


def test_a_directory_without_a_model_is_refused(tmp_path, copied):
    with pytest.raises(ValueError, match="there is no file or folder"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no config.json"):
        load(tmp_path)
    next(copied.glob("*-00002-*")).write_bytes(b"not weights")
    with pytest.raises(ValueError, match="00002.*cannot be read"):
        load(copied)
    (copied / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="no index of safetensors files"):
        load(copied)


def test_weights_keep_the_dtype_of_their_file_unless_told(copied):
    for path in copied.glob("*.safetensors"):
        save_file({name: array.astype(jnp.bfloat16) for name, array in load_file(path).items()}, path)
    assert {x.dtype for x in named(load(copied)).values()} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in named(load(copied, dtype=jnp.float32)).values()} == {jnp.dtype(jnp.float32)}


def test_weights_load_onto_a_mesh_in_shares(directory):
    on = mesh.build(mesh.MeshConfig(data=1, fsdp=4, tensor=2))
    spread = load(directory, on)
    weight = spread.decoder.layers.mlp.gate.w[...]
    assert weight.addressable_shards[0].data.size == weight.size // 8
    jax.tree.map(np.testing.assert_array_equal, spread, load(directory))


def test_transformers_reads_what_is_saved(model, tmp_path):
    save(tmp_path, model, Tokenizer(words(), CONFIG))
    again = load(tmp_path)
    assert again.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, again, model)
    theirs = transformers.LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path).eval()
    clip = video(np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), np.uint8), TOWER)
    sequence = lay_out(CONFIG, [9, VIDEO, 10], [clip])
    pixels = torch.tensor(clip.tiles).permute(0, 3, 1, 2)[None]
    with torch.no_grad():
        want = theirs(input_ids=torch.tensor(sequence.tokens)[None].long(), pixel_values_videos=pixels).logits[0].numpy()
    got = jax.jit(lambda model, inputs: model(inputs))(model, stack(CONFIG, [sequence]))
    np.testing.assert_allclose(got[0, : len(sequence)], want, atol=1e-4)
    assert load_tokenizer(tmp_path, CONFIG).encode("w9 <video> w10") == [9, VIDEO, 10]


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="up to 139, and the model's vocabulary has 120"):
        Tokenizer(words(140), CONFIG)
    with pytest.raises(ValueError, match="no token 118"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")), CONFIG)
    with pytest.raises(ValueError, match="tokenizer.json is missing"):
        load_tokenizer(tmp_path, CONFIG)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="no tokenizer that can be read"):
        load_tokenizer(tmp_path, CONFIG)


def test_a_prompt_is_never_cut_and_ends_as_the_models_turns_do(tmp_path):
    inner = words()
    inner.enable_truncation(2)
    inner.enable_padding(length=9)
    (tmp_path / "tokenizer.json").write_text(inner.to_str())
    assert load_tokenizer(tmp_path, CONFIG).question("w9 w10 w11", "<image>") == [IMAGE, 9, 10, 11]
    inner = words()
    inner.add_special_tokens(["<reserved08706>"])
    larger = dataclasses.replace(CONFIG, decoder=dataclasses.replace(DECODER, vocabulary=121))
    assert Tokenizer(inner, larger).question("w9", "<image>") == [IMAGE, 9, 120], "Chameleon answers after this"


def test_one_frame_is_an_image_and_several_are_a_video(model):
    tokenizer = Tokenizer(words(), CONFIG)
    frames = np.zeros((3, 30, 40, 3), np.uint8)
    assert IMAGE in ask(model, tokenizer, frames[:1], "w9 w10").tokens
    asked = ask(model, tokenizer, frames, "w9 w10")
    assert asked.tokens[-2:].tolist() == [9, 10] and (asked.tokens == VIDEO).sum() == 3 * 9 + 1
    assert tokenizer.decode([9, 7, 10]) == "w9 w10"
