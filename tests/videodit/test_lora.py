"""LoRA: what learns beside weights that stay, resumed, on many devices, and merged."""
import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import loop, mesh
from core_jax.checkpoint import Checkpoints
from core_jax.lora import combine
from core_jax.tensors import save_file
from core_jax.weights import digest, named
from tests.videodit import small
from videodit_jax import export, lora, sample, train
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import Dtype, LoRAConfig
from videodit_jax.data import open_sources
from videodit_jax.evaluate.loss import Evaluation
from videodit_jax.run import WEIGHTS, Run, initial, load_model, make_model, parts

STEPS = 20
CONFIG = dataclasses.replace(small.CONFIG, size="16x16", model=dataclasses.replace(small.MODEL, scores=("clarity",)))
MAPS = {f"blocks.{name}.w" for name in "self_attention.qkv self_attention.out cross_attention.q cross_attention.kv cross_attention.out mlp.up mlp.down".split()}
"""what has a product beside it by default"""


@pytest.fixture(scope="module", autouse=True)
def steps():
    """Runs of the same settings share one."""
    with pytest.MonkeyPatch.context() as patch:
        small.share_steps(patch)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Exported weights, none of which is zero."""
    out = tmp_path_factory.mktemp("base")
    Run(CONFIG, ScoreStatistics({"clarity": ()}), "data").write(out)
    save_file(out / WEIGHTS, jax.jit(lambda: small.shaken(make_model(CONFIG), 0.05))())
    return out


def tuned(base, out, *flags, devices=1, until=STEPS):
    """A run beside these weights on so many devices, stopped after step `until` as if by SIGTERM."""
    with pytest.MonkeyPatch.context() as patch:
        small.use(devices, patch)
        patch.setattr(loop.StopSignal, "reached", lambda self, step: step >= until)
        own = ["--lora.rank", "2", "--lora.alpha", "4", "--steps", str(STEPS), "--optimizer.learning-rate", "0.01", "--out", str(out)]
        return train.train(train.parse(["--init", str(base), *own, *flags]))


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory):
    """A whole run on one device: its folder and the digest of its state."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    return out, digest(tuned(base, out))


def test_the_loss_falls_and_of_the_weights_only_the_maps_with_products_change(base, straight):
    out, on = straight[0], mesh.build()
    before, after = load_model(base, Run.read(base), on), load_model(out, Run.read(out), on)
    old, new = named(before), named(after)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert {name for name in old if digest(old[name]) != digest(new[name])} == MAPS
    run = Run.read(out)
    evaluation = Evaluation(run.config, open_sources(run.config)[1], run.statistics, on)
    assert evaluation(after).mean() < 0.9 * evaluation(before).mean()
    np.testing.assert_allclose(evaluation(after).mean(), [row["loss"] for row in small.log(out) if "loss at t=0.5" in row], rtol=1e-4)


def test_merged_weights_are_rounded_once_to_the_dtype_of_a_computation(straight):
    run, on = Run.read(straight[0]), mesh.build()
    whole, thin = (named(load_model(straight[0], run, on, dtype)) for dtype in (jnp.float32, jnp.bfloat16))
    for name, x in whole.items():
        np.testing.assert_array_equal(thin[name], x.astype(jnp.bfloat16 if name.startswith("blocks.") and name[-2:] in (".w", ".b") else x.dtype))


def test_checkpoints_hold_what_learns_alone(straight):
    checkpoints = Checkpoints(straight[0] / "checkpoints")
    held = {name.removeprefix("ema.") for name in checkpoints._saved() if name.startswith("ema.")}
    checkpoints.close()
    assert held == {name.replace(".w", f".{factor}.w") for name in MAPS for factor in "ab"}


def test_stopped_and_resumed_is_bit_for_bit_the_same(base, straight, tmp_path):
    tuned(base, tmp_path / "run", until=7)
    moved = shutil.copytree(base, tmp_path / "elsewhere")
    state = tuned(moved, tmp_path / "run")
    assert small.losses(tmp_path / "run") == small.losses(straight[0]) and digest(state) == straight[1]


def test_eight_devices_give_the_losses_of_one(base, straight, tmp_path):
    mesh_of = ["--mesh.data", "1", "--mesh.fsdp", "4", "--mesh.tensor", "2"]
    tuned(base, tmp_path / "run", *mesh_of, devices=8, until=6)
    np.testing.assert_allclose(small.losses(tmp_path / "run"), small.losses(straight[0])[:6], rtol=1e-5)


def test_maps_that_stay_lie_in_what_they_are_computed_in(base):
    config = dataclasses.replace(CONFIG, init=str(base), lora=LoRAConfig(2), dtype=Dtype.BFLOAT16)
    model = initial(config, mesh.build(devices=jax.devices()[:1]))
    learned, rest = parts(config, model)
    kinds = {name: x.dtype for name, x in named(rest).items()}
    assert {name.replace(".base", "") for name, kind in kinds.items() if kind == jnp.bfloat16} >= MAPS
    assert {kinds[name] for name in ("blocks.table", "blocks.cross_norm.scale", "modulation.w", "time_up.w")} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in jax.tree.leaves(learned)} == {jnp.dtype(jnp.float32)}
    x = jax.random.normal(jax.random.key(0), (2, *config.clip, 3), jnp.bfloat16)
    tokens = jax.tree.map(lambda x: np.stack([x, x]), config.model.text.tokenize("a red circle"))
    forward = jax.jit(lambda model: model(x, jnp.array([0.2, 0.8]), tokens, jnp.full((2, 1), jnp.nan)))
    np.testing.assert_allclose(forward(combine(learned, rest)), forward(model), atol=5e-3)  # a CPU leaves casts out


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--lora.rank", "-1"], "--lora.rank -1: a number from 0 on is wanted"),
        (["--lora.rank", "2", "--lora.alpha", "nan"], "--lora.alpha nan: a positive number is wanted"),
        (["--lora.rank", "2", "--lora.alpha", "0"], "--lora.alpha 0: a positive number is wanted"),
        (["--lora.alpha", "8"], "--lora.alpha 8.0 goes with --lora.rank"),
        (["--lora.where", "mlp.up"], "--lora.where mlp.up goes with --lora.rank"),
        (["--lora.rank", "2", "--lora.where", "["], "--lora.where '[' is no regular expression: unterminated character set at position 0"),
        (["--lora.rank", "2", "--lora.where", "modulation"], "--lora.where 'modulation': no linear map's name matches; there are cross_attention.kv, cross_attention.out, "),
        (["--lora.rank", "2", "--lora.where", "(?i)FINAL"], "--lora.where '(?i)FINAL': no linear map's name matches"),
    ],
)
def test_what_cannot_be_is_one_sentence(base, flags, says, tmp_path, fails):
    said = " ".join(fails(train.main, ["--init", str(base), *flags, "--out", str(tmp_path / "run")]).replace("│", " ").split())  # may come in a box
    assert says in said and not (tmp_path / "run").exists()


def test_frames_that_the_weights_do_not_read_are_refused(base, tmp_path, fails):
    said = fails(train.main, ["--init", str(base), "--lora.rank", "2", "--model.given", "--out", str(tmp_path / "run")])
    assert said.startswith(f"--model.given: the weights of --init {base} read no given frames") and not (tmp_path / "run").exists()


def test_without_weights_to_stand_beside_it_is_refused(tmp_path, fails):
    said = fails(train.main, ["--preset", "tiny", *small.FLAGS, "--lora.rank", "2", "--out", str(tmp_path / "run")])
    assert said == "--lora.rank 2 goes with --init: the weights beside which it learns" and not (tmp_path / "run").exists()


def test_other_weights_under_the_name_of_those_are_refused(base, straight, tmp_path, fails):
    run, other = shutil.copytree(straight[0], tmp_path / "run"), shutil.copytree(base, tmp_path / "other")
    with pytest.raises(ValueError, match=f"run was trained beside other weights than --init {other} now has"):
        save_file(other / WEIGHTS, jax.jit(lambda: small.shaken(make_model(CONFIG), 0.051))())
        tuned(other, run, "--steps", str(STEPS + 1))
    config = Run.read(run)
    dataclasses.replace(config, config=dataclasses.replace(config.config, init=str(other))).write(run)
    with pytest.raises(ValueError, match=f"run was trained beside other weights than {other} now has"):
        load_model(run, Run.read(run), mesh.build())
    shutil.rmtree(other)
    with pytest.raises(ValueError, match=f"run holds what LoRA learned alone, and {other}, the weights beside which it did, is not there"):
        load_model(run, Run.read(run), mesh.build())


def test_a_run_that_starts_from_a_tuned_one_trains_all_of_it_unless_told(straight, tmp_path):
    config = train.parse(["--init", str(straight[0])])
    assert config.lora == LoRAConfig() and config.model == CONFIG.model
    assert train.parse(["--init", config.init, "--out", str(straight[0])]).lora == LoRAConfig(2, 4.0), "its own goes on as it is"
    before = named(load_model(straight[0], Run.read(straight[0]), mesh.build()))
    after = named(initial(config, mesh.build()))
    assert {name for name in before if digest(before[name]) != digest(after[name])} == set()


@pytest.fixture(scope="module")
def exported(straight, tmp_path_factory):
    """Folders of what the run learned, whole and half as large, and of its merged weights."""
    out = tmp_path_factory.mktemp("exported")
    for name, flags in (("alone", []), ("half", ["--half"]), ("merged", ["--merged"])):
        export.main(["--run", str(straight[0]), "--out", str(out / name), *flags])
    return out


def sampled(monkeypatch, *words):
    videos = []
    monkeypatch.setattr(sample, "write_samples", lambda stem, made, *rest: videos.append(made) or [])
    monkeypatch.setattr(sample.plain, "replace", lambda *_: [])
    sample.main([*map(str, words), "--prompt", "a red circle", "--n", "2", "--steps", "2"])
    return videos[0].astype(int)


def test_the_run_its_file_and_its_merged_weights_sample_the_same(base, straight, exported, monkeypatch):
    ours, file = sampled(monkeypatch, "--run", straight[0]), exported / "alone" / lora.FILE
    plain = sampled(monkeypatch, "--run", base)
    assert np.abs(ours - plain).max() > 10
    halves = exported / "half" / lora.FILE
    for words in (["--run", exported / "merged"], ["--run", base, "--lora", file], ["--run", base, "--lora", file, halves, "--lora-scale", "0.25", "0.75"]):
        assert np.abs(sampled(monkeypatch, *words) - ours).max() <= 1, words
    np.testing.assert_array_equal(sampled(monkeypatch, "--run", base, "--lora", file, "--lora-scale", "0"), plain)
    assert halves.stat().st_size < 0.8 * file.stat().st_size and Run.read(exported / "merged").config.lora == LoRAConfig()


def test_a_run_goes_on_from_what_another_one_learned(base, straight, exported, tmp_path):
    """A run of its own: another rank, and a fresh optimizer."""
    file, on = exported / "alone" / lora.FILE, mesh.build()
    out = tmp_path / "more"
    tuned(base, out, "--lora.rank", "3", "--lora.start", str(file), "--optimizer.learning-rate", "0", until=1)
    assert Run.read(out).config.lora == LoRAConfig(3, 4.0, start=str(file))
    before, after = (named(load_model(folder, Run.read(folder), on)) for folder in (straight[0], out))
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, atol=1e-6, err_msg=name)
    moved = file.rename(file.parent / "moved.safetensors")
    tuned(base, out, "--lora.rank", "3", "--lora.start", str(file), "--optimizer.learning-rate", "0", until=2)  # is in its checkpoint
    moved.rename(file)


def test_what_cannot_be_exported_or_merged_is_one_sentence(base, straight, exported, tmp_path, fails):
    file, out = str(exported / "alone" / lora.FILE), str(tmp_path / "x.mp4")
    for words, says in (
        (["--lora", file, "--lora-scale", "1", "2"], "--lora-scale 1 2: a number for each of the 1 file of --lora is wanted"),
        (["--lora-scale", "1"], "--lora-scale 1: a number for each of the 0 files of --lora is wanted"),
        (["--lora", file, "--lora-scale", "nan"], "--lora-scale nan: a number for each of the 1 file of --lora is wanted"),
        (["--lora", str(base / WEIGHTS)], "does not fit the model: "),
        (["--lora", str(tmp_path / "no.safetensors")], "there is no file or folder"),
    ):
        assert says in fails(sample.main, ["--run", str(base), *words, "--out", out]) and not list(tmp_path.iterdir())
    said = fails(export.main, ["--run", str(base), "--out", str(tmp_path / "out"), "--merged"])
    assert said == f"--merged goes with a run that was trained with --lora.rank, and {base} was not" and not list(tmp_path.iterdir())
