"""Files of LoRA: in the names of diffusers, of Wan and of musubi-tuner they change Wan's weights as the product written out does; ours are read back."""
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.lora import combine, merge_lora
from core_jax.tensors import load_table, metadata, save_file
from core_jax.weights import named
from tests.videodit import small, small_wan
from videodit_jax import convert, lora
from videodit_jax.config import LoRAConfig
from videodit_jax.presets import preset
from videodit_jax.run import parts

NONE = np.zeros(small_wan.CONFIG.text.width, np.float32)
BLOCK = {f"{whose}_attn.{own}": f"attn{i}.{their}" for i, whose in ((1, "self"), (2, "cross")) for own, their in zip("qkvo", ("to_q", "to_k", "to_v", "to_out.0"))}
BLOCK |= {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}
MODULES = {f"blocks.{i}.{own}": f"blocks.{i}.{their}" for i in range(small_wan.CONFIG.layers) for own, their in BLOCK.items()}
ENDS = {
    "patch_embedding": "patch_embedding", "head.head": "proj_out", "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1", "time_embedding.2": "condition_embedder.time_embedder.linear_2",
}  # fmt: skip
"""Wan's names of its maps, and diffusers'"""


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """The folder of a small Wan's transformer, and its tensors."""
    folder = small_wan.write(tmp_path_factory.mktemp("wan")) / "transformer"
    return folder, load_table(folder / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def ours(wan):
    return convert.load(wan[0], small_wan.CONFIG, NONE)


def changed(wan, tmp_path, changes):
    """Our arrays of the Wan whose tensors have these added."""
    save_file(tmp_path / "diffusion_pytorch_model.safetensors", wan[1] | {name: wan[1][name] + x.reshape(wan[1][name].shape) for name, x in changes.items()})
    return named(convert.load(tmp_path, small_wan.CONFIG, NONE))


def factors(wan, modules, rank=3):
    """Random (A, B) of each module, by diffusers' names."""
    rng = np.random.default_rng(1)
    shapes = {module: wan[1][f"{module}.weight"].shape for module in modules}
    return {m: (rng.standard_normal((rank, *shape[1:]), np.float32), rng.standard_normal((shape[0], rank), np.float32)) for m, shape in shapes.items()}


def same(arrays, wanted):
    for name, array in wanted.items():
        np.testing.assert_allclose(arrays[name], array, atol=2e-6 * float(np.abs(array).max()), err_msg=name)


def wans(wan):
    """Wan's own names, without an alpha; a bias and a norm have differences of all of them, as few-step LoRAs do."""
    pairs = factors(wan, MODULES.values()) | factors(wan, ENDS.values(), rank=2)
    table = {f"diffusion_model.{own}.lora_{x}.weight": pairs[their][x == "B"] for own, their in (MODULES | ENDS).items() for x in "AB"}
    whole = {"diffusion_model.blocks.1.cross_attn.k.diff_b": "blocks.1.attn2.to_k.bias", "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm2.weight",
             "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight", "diffusion_model.blocks.1.modulation.diff": "blocks.1.scale_shift_table"}  # fmt: skip
    added = {name: np.cos(np.arange(wan[1][name].size, dtype=np.float32)) for name in whole.values()}
    return table | {key: added[name] for key, name in whole.items()}, {f"{m}.weight": b @ a.reshape(len(a), -1) for m, (a, b) in pairs.items()} | added, None


def musubis(wan):
    """Each map with its own alpha."""
    pairs, names = factors(wan, MODULES.values()), {own: "lora_unet_" + own.replace(".", "_") for own in MODULES}
    table = {f"{names[own]}.lora_{x}.weight": pairs[their][x == "up"] for own, their in MODULES.items() for x in ("down", "up")}
    table |= {f"{name}.alpha": np.float32(i + 1) for i, name in enumerate(names.values())}
    return table, {f"{their}.weight": (i + 1) / 3 * pairs[their][1] @ pairs[their][0] for i, their in enumerate(MODULES.values())}, None


def diffusers(wan):
    """One alpha that the file states, and queries and the MLP of one layer alone."""
    some = [name for name in MODULES.values() if name.endswith("to_q") or name.startswith("blocks.1.ffn")]
    pairs = factors(wan, some)
    table = {f"transformer.{name}.lora_{x}.weight": pairs[name][x == "B"].astype(np.float16) for name in some for x in "AB"}
    half = {name: [x.astype(np.float16).astype(np.float32) for x in pair] for name, pair in pairs.items()}
    stated = {"lora_adapter_metadata": json.dumps({"transformer.r": 3, "transformer.lora_alpha": 6})}
    return table, {f"{name}.weight": 2 * b @ a for name, (a, b) in half.items()}, stated


@pytest.mark.parametrize("kind", [wans, musubis, diffusers])
def test_what_a_file_adds_is_the_product_written_out(kind, wan, ours, tmp_path):
    table, added, stated = kind(wan)
    save_file(tmp_path / "lora.safetensors", table, metadata=stated)
    files = [lora.read(tmp_path / "lora.safetensors", scale, ours) for scale in (0.5, 0.2)]
    merged = lora.merge(ours, small_wan.CONFIG, files)
    assert jax.tree.structure(merged) == jax.tree.structure(ours)
    same(named(merged), changed(wan, tmp_path, {name: 0.7 * x for name, x in added.items()}))
    for name, array in named(ours).items():
        if name.startswith(("scores", "text.")):
            np.testing.assert_array_equal(named(merged)[name], array)


def test_what_is_added_to_wans_mask_of_a_picture_is_added_to_ours(tmp_path):
    folder = small_wan.write(tmp_path, small_wan.I2V) / "transformer"
    wan = folder, load_table(folder / "diffusion_pytorch_model.safetensors")
    ours, pairs = convert.load(folder, small_wan.I2V, NONE), factors(wan, ["patch_embedding"])
    (a, b) = pairs["patch_embedding"]
    save_file(tmp_path / "lora.safetensors", {"patch_embedding.lora_A.weight": a, "patch_embedding.lora_B.weight": b})
    merged = named(lora.merge(ours, small_wan.I2V, [lora.read(tmp_path / "lora.safetensors", 1.0, ours)]))
    save_file(folder / "diffusion_pytorch_model.safetensors", wan[1] | {"patch_embedding.weight": wan[1]["patch_embedding.weight"] + np.tensordot(b, a, 1)})
    same(merged, named(convert.load(folder, small_wan.I2V, NONE)))
    assert np.abs(merged["patches.w"] - named(ours)["patches.w"]).max() > 1


def test_bfloat16_is_read(wan, ours, tmp_path):
    table = {key: x.astype(jnp.bfloat16) for key, x in wans(wan)[0].items() if ".lora_" in key}
    save_file(tmp_path / "lora.safetensors", table)
    assert lora.read(tmp_path / "lora.safetensors", 1.0, ours)["proj_out.weight"]().dtype == np.float32


@pytest.mark.parametrize("where, maps", [(".*", 10), ("cross_attention.kv|mlp.up", 3)])
def test_what_was_learned_is_written_and_read_back(where, maps, wan, ours, tmp_path):
    settings = LoRAConfig(3, 6.0, where)
    config = dataclasses.replace(preset("1.3b", autoencoder="wan2.1", text_encoder="umt5-xxl"), model=small_wan.CONFIG, lora=settings)
    learned, rest = parts(config, ours)
    learned = small.shaken(learned)
    lora.write(tmp_path / lora.FILE, config, learned, np.float32)
    held, stated = load_table(tmp_path / lora.FILE), json.loads(metadata(tmp_path / lora.FILE)["lora_adapter_metadata"])
    assert len(held) == 2 * maps * small_wan.CONFIG.layers and set(held) <= {f"transformer.{m}.lora_{x}.weight" for m in MODULES.values() for x in "AB"}
    assert stated["transformer.r"] == stated["transformer.lora_alpha"] == 3 and len(stated["transformer.target_modules"]) == len(held) // 2
    merged = lora.merge(ours, small_wan.CONFIG, [lora.read(tmp_path / lora.FILE, 1.0, ours)])
    same(named(merged), named(merge_lora(combine(learned, rest))))


def start(file, ours, settings):
    """What LoRA learns, and the rest, as it starts from the file."""
    config = dataclasses.replace(
        preset("1.3b", autoencoder="wan2.1", text_encoder="umt5-xxl"), model=small_wan.CONFIG, lora=dataclasses.replace(settings, start=str(file))
    )
    learned, rest = parts(config, jax.device_put(ours))
    return lora.started(config)(learned), rest


@pytest.mark.parametrize("settings", [LoRAConfig(3), LoRAConfig(5, 8.0)], ids=["the file's rank", "a larger one and another alpha"])
@pytest.mark.parametrize("kind", [musubis, diffusers])
def test_lora_starts_as_the_product_that_a_file_has_and_all_of_it_learns(kind, settings, wan, ours, tmp_path):
    table, added, stated = kind(wan)
    save_file(tmp_path / "lora.safetensors", table, metadata=stated)
    learned, rest = start(tmp_path / "lora.safetensors", ours, settings)
    same(named(merge_lora(combine(learned, rest))), changed(wan, tmp_path, added))
    factors = {name: np.asarray(x) for name, x in named(learned).items()}
    assert all(x.any() for name, x in factors.items() if name.endswith(".a.w")), "a product of two zeros would never learn"


def test_a_file_that_lora_cannot_start_from_says_why(wan, ours, tmp_path):
    def said(table, settings):
        save_file(tmp_path / "x.safetensors", table)
        with pytest.raises(ValueError, match="^--lora.start .*/x.safetensors") as error:
            start(tmp_path / "x.safetensors", ours, settings)
        return str(error.value).split("x.safetensors")[1]

    assert said(musubis(wan)[0], LoRAConfig(2)) == " has rank 3: --lora.rank 2 cannot hold it"
    other = said(musubis(wan)[0], LoRAConfig(3, where="mlp.up"))
    assert other.startswith(" changes what LoRA does not learn here, lora_unet_blocks_0_") and other.endswith(": merge it, or see --lora.where")
    assert "changes what LoRA does not learn here, diffusion_model." in said(wans(wan)[0], LoRAConfig(3))
    assert "does not fit the model" in said({"blocks.9.attn1.to_q.lora_A.weight": np.zeros((2, 72), np.float32)}, LoRAConfig(3))
    with pytest.raises(ValueError, match="--lora.start x goes with --lora.rank"):
        LoRAConfig(start="x")


def test_a_file_that_does_not_fit_says_which_and_why(wan, ours, tmp_path):
    name = "diffusion_model.blocks.0.self_attn.q"
    a, b = np.zeros((2, 72), np.float32), np.zeros((72, 2), np.float32)
    good = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}

    def said(table, stated=None):
        save_file(tmp_path / "x.safetensors", table, metadata=stated)
        with pytest.raises(ValueError, match="^--lora .*/x.safetensors") as error:
            lora.read(tmp_path / "x.safetensors", 1.0, ours)
        return str(error.value).split("x.safetensors")[1]

    image = {f"diffusion_model.blocks.{i}.cross_attn.k_img.lora_A.weight": a for i in range(2)}
    assert said(good | image) == " does not fit the model: diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight and 1 more are of none of its weights"
    assert said({f"{name}.dora_scale": a}) == f" does not fit the model: {name}.dora_scale is of none of its weights"
    assert said({"blocks.9.attn1.to_q.lora_A.weight": a}).endswith("blocks.9.attn1.to_q.lora_A.weight is of none of its weights")
    assert said({}) == " does not fit the model: nothing in it is of any of its weights"
    assert said({f"{name}.lora_A.weight": a}) == f": {name}.lora_A.weight needs a partner, a down (A) or an up (B) of the same map, and nothing else"
    shapes = f": {name}.lora_A.weight and {name}.lora_B.weight are (2, 64) and (72, 2), and the model's blocks.0.attn1.to_q.weight is (72, 72)"
    assert said(good | {f"{name}.lora_A.weight": a[:, :64]}) == shapes
    assert "are (2, 72) and (72, 3)" in said(good | {f"{name}.lora_B.weight": np.zeros((72, 3), np.float32)})
    assert said({f"{name}.diff_b": a}) == f": {name}.diff_b has 144 numbers, and the model's blocks.0.attn1.to_q.bias 72"
    rank = {"lora_adapter_metadata": json.dumps({"transformer.use_rslora": True})}
    assert said(good, rank) == " states use_rslora, and one alpha for all of its plain products is wanted"
    for other, says in (("x.pt", "a file of the kind \\*.safetensors is wanted"), ("no.safetensors", "there is no file or folder"), ("not.safetensors", "cannot be read as")):
        (tmp_path / "not.safetensors").write_bytes(b"PK\3\4 something pickled")
        with pytest.raises(ValueError, match=says):
            lora.read(tmp_path / other, 1.0, ours)
