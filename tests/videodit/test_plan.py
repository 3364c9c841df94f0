"""`python -m videodit_jax.plan`: shipped presets compiled for slices, a misfit, a search, and bad input."""
import dataclasses
import json

import jax
import numpy as np
import pytest

from core_jax.attention import Context
from core_jax.mesh import MeshConfig
from core_jax.pod import compiled
from core_jax.pod.estimate import Estimate
from core_jax.pod.plan import Plan
from core_jax.pod.topology import parse
from core_jax.remat import Remat
from core_jax.weights import named
from tests.videodit import small
from videodit_jax import plan, search, train
from videodit_jax.config import Dtype
from videodit_jax.presets import PRESETS, SLICES, preset
from videodit_jax.run import abstract_state, is_map
from videodit_jax.search import Of

pytest.importorskip("libtpu", reason="libtpu holds the TPU compiler")

NARROW = ["--preset", "0.017b", *"--model.width 256 --model.mlp 512 --model.text.width 64 --model.text.words 32".split()]
"""compiled in half the time; the four layers, the heads and the tokens are the preset's"""


def test_a_shipped_preset_on_a_slice(tmp_path, capsys):
    plan.main(["--preset", "tiny", "--topology", "v5e-4", "--json", str(tmp_path / "plan.json"), "--out", "my own run"])
    said = capsys.readouterr().out
    assert "within 25 % of steps of 14B that others measured" in " ".join(said.split()) and "leaves out: " in said
    assert "python -m videodit_jax.train --preset tiny --out 'my own run' --mesh.data 4 --mesh.fsdp 1 --mesh.context 1" in said, "to be copied"
    table = json.loads((tmp_path / "plan.json").read_text())
    assert table["fits"] and table["devices"] == 4 and table["mesh"] == {"data": 4, "fsdp": 1, "context": 1, "tensor": 1}
    memory = table["hbm_bytes"]
    parts = [size for name, size in memory.items() if name not in ("total", "limit")]
    assert sum(parts) == memory["total"] < memory["limit"] and min(parts) >= 0
    assert f"fits, with {(memory['limit'] - memory['total']) / 2**30:.2f} GiB to spare" in said
    shapes = jax.tree.leaves(abstract_state(preset("tiny")))
    assert table["checkpoint_bytes"] == sum(leaf.size * leaf.dtype.itemsize for leaf in shapes)
    assert f"a checkpoint takes up to {table['checkpoint_bytes'] / 1e9:.3g} GB; --out holds up to 3" in said
    a_second = f"{32 / table['estimated_step_seconds']:,.3g}"
    assert table["clips_a_host"] == 32 and f"a host of 4 chips reads 32 clips a step, {a_second} a second by the estimate" in said
    assert table["run_hours"] == 1100 * table["estimated_step_seconds"] / 3600 and "estimated step: " in said
    assert f"all 1,100 steps: {table['run_hours']:.3g} hours, {4 * table['run_hours']:.4g} chip-hours by the estimate" in " ".join(said.split())
    moments = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_state(preset("tiny")).opt_state))
    assert memory["ema"] == memory["parameters"] and moments <= memory["optimizer"] < 1.01 * moments
    assert memory["parameters"] < moments < 1.5 * memory["parameters"], "Muon keeps one moment, Adam two"
    assert {"all-reduce"} <= {one["kind"] for one in table["collectives"]} and all(one["axes"] == ["data"] for one in table["collectives"])
    assert set(table["floor_seconds"]) == {"matmul", "hbm", "interconnect"} and table["binds"] in table["floor_seconds"]
    assert table["floor_seconds"]["matmul"] < table["estimated_step_seconds"]
    peak = 4 * 197e12
    assert table["estimated_mfu"] == pytest.approx(table["model_flops"]["total"] / table["estimated_step_seconds"] / peak)
    assert (table["estimate"]["version"], table["estimate"]["validated"]) == (3, True)


@pytest.mark.usefixtures("hasty")
def test_a_preset_with_parameters_tokens_and_heads_all_cut():
    """The batch over data alone is what the plan above compiles."""
    config = dataclasses.replace(train.parse(NARROW), frames=12, batch=4, mesh=MeshConfig(data=1, fsdp=2, context=2, tensor=2))
    found = plan.plan(config, parse("v5e-8"))
    assert found.misfit is None and found.mesh == {"data": 1, "fsdp": 2, "context": 2, "tensor": 2}
    parameters = sum(np.prod(x.shape) for x in jax.tree.leaves(plan.step.abstract_state(config).model))
    assert 4 * parameters / 4 <= found.hbm["parameters"] < 0.4 * 4 * parameters, "few are not cut over tensor"
    row = 2 * 768 // 2 * 256 * 2  # two clips, half of the tokens each, width, bf16
    kept = found.hbm["activations"] / (4 * row)
    assert 1 + 1 / 2 <= kept < 1 + 2 / 2, "the input and, of half of the heads, self-attention's output, but not that over captions, of four layers"
    sent = {axes: sum(one.total_bytes for one, _ in found.collectives if one.axes == (axes,)) for axes in ("fsdp", "context", "tensor")}
    keys = 4 * 2 * 2 * 768 * 256 // 2 * 2  # four layers, keys and values of two whole clips, half of the heads
    assert sent["context"] >= keys and min(sent.values()) > 0
    assert plan.on_tpu(config).dtype is Dtype.BFLOAT16 and found.estimate.attention > 0, "the step runs on our kernel"


@pytest.mark.usefixtures("hasty")
def test_lora_holds_the_weights_once_in_bf16_and_little_beside_them(tmp_path, capsys):
    small = [*NARROW, *"--model.layers 2 --frames 8 --size 128x128".split()]
    plan.main([*small, *"--lora.rank 4 --batch 4 --topology v5e-4 --mesh.data 1 --mesh.fsdp 4".split(), "--json", str(tmp_path / "plan.json")])
    said, table, whole = capsys.readouterr().out, json.loads((tmp_path / "plan.json").read_text()), train.parse(small)
    assert "LoRA of rank 4, remat attention" in said and "videodit_jax.train" in said and "--lora.rank 4" in said and "--init DIR" in said
    memory, sizes = table["hbm_bytes"], {name: x.size for name, x in named(abstract_state(whole).model).items()}
    blocks = sum(size for name, size in sizes.items() if name.startswith("blocks."))
    ends = sum(sizes.values()) - blocks
    assert (2 * blocks + 4 * ends) / 4 < memory["parameters"] < 1.1 * (2 * blocks + 4 * ends) / 4
    assert memory["optimizer"] + memory["ema"] < 0.1 * memory["parameters"] and table["checkpoint_bytes"] < 0.1 * 16 * sum(sizes.values())
    one = plan.forward_flops(whole.model, whole.video)
    assert table["model_flops"]["total"] == 4 * (2 * one.forward + one.attention), "weights that stay have no gradient"


@pytest.mark.usefixtures("hasty")
def test_sampling_on_a_slice(tmp_path, capsys, monkeypatch):
    made = plan.plan_work
    monkeypatch.setattr(plan, "plan_work", lambda work, *where: made(dataclasses.replace(work, apart=("what is done apart",)), *where))
    flags = "--topology v5p-8 --of sample --batch 4 --sampling.steps 5 --mesh.fsdp 2 --mesh.data 2 --sampling.solver heun"
    small = [*NARROW, *"--frames 8 --size 128x128".split()]
    plan.main([*small, *flags.split(), "--json", str(tmp_path / "plan.json")])
    said = " ".join(capsys.readouterr().out.split())
    assert "estimated batch: " in said and "model FLOPs a batch: " in said, "all of its steps, not one"
    assert "27 evaluations" in said and "videodit_jax.sample --run RUN --n 4 --mesh.data 2 --mesh.fsdp 2" in said
    table = json.loads((tmp_path / "plan.json").read_text())
    assert table["estimate"]["left_out"][-1] == "what is done apart" and "; what is done apart" in said
    config = train.parse(small)
    forward = plan.forward_flops(config.model, config.video).forward
    assert table["of"] == "sample" and table["model_flops"]["total"] == 4 * 27 * forward, "heun evaluates 9 times, guidance 3 terms"
    model = named(abstract_state(config).model)
    held = sum(x.size * (2 if is_map(name) else 4) for name, x in model.items())  # bf16 where it is multiplied so anyway
    assert held / 2 <= table["hbm_bytes"]["parameters"] < 1.1 * held / 2 and "optimizer" not in table["hbm_bytes"]
    gathered = [one["times"] * one["count"] for one in table["collectives"] if one["kind"] == "all-gather" and one["axes"] == ["fsdp"]]
    assert max(gathered) >= 4 * 8, "a layer's parameters, four layers, in all steps of the loop"


@pytest.mark.parametrize("autoencoder, told", [("", False), ("--autoencoder=wan2.1", True)])
def test_sampling_of_latents_tells_what_it_does_not_count(autoencoder, told, monkeypatch):
    monkeypatch.setattr(plan, "plan_work", lambda work, which, on: work)
    flags = ["--preset=1.3b", "--frames=17", "--size=64x64", "--batch=4", "--mesh.data=4", "--model.layers=2"]
    frames = [] if autoencoder else ["--frames=16"]
    work = plan.plan(train.parse([*flags, *filter(None, [autoencoder]), *frames]), parse("v5e-4"), Of.SAMPLE)
    assert any("decoding the latents" in what for what in work.apart) is told


@pytest.mark.usefixtures("hasty")
def test_a_misfit_says_by_how_much_and_a_search_finds_what_fits(tmp_path, capsys, monkeypatch):
    flags = "--preset 0.017b --topology v5e-4 --batch 4096 --model.remat none".split()
    with pytest.raises(SystemExit, match="^3$"):  # a script can tell
        plan.main([*flags, "--json", str(tmp_path / "plan.json")])
    said = " ".join(capsys.readouterr().out.split())
    table = json.loads((tmp_path / "plan.json").read_text())
    assert not table["fits"] and table["needed_bytes"] > table["limit_bytes"] and "estimated_step_seconds" not in table
    assert "GiB more than the 15.75 GiB there are" in said and "--search" in said
    tried = []

    def compiles(config, which, of):
        """Every second one fits, each faster than the one before."""
        tried.append(config)
        misfit = None if len(tried) % 2 == 0 else compiled.Misfit(2**35, 2**34)
        times = None if misfit else Estimate({"matmul": 1.0}, 9.0 - len(tried), 0.0, {}, 0.0, {}, ())
        flops = {"total": 1e15, "attention": 1e14, "executed": 1e15}
        return Plan(which, dataclasses.asdict(config.mesh), flops, 1.0, misfit, {"total": 2**33, "limit": 2**34}, (), times)

    monkeypatch.setattr(plan, "plan", compiles)
    plan.main([*flags, "--search", "--json", str(tmp_path / "plan.json")])
    said = " ".join(capsys.readouterr().out.split())
    table, best = json.loads((tmp_path / "plan.json").read_text()), tried[5]
    assert [one["fits"] for one in table["tried"]] == [False, True] * 3 and "6 programs compiled" in said and "does not fit" in said
    assert table["fits"] and table["estimated_step_seconds"] == 3.0 and table["mesh"] == dataclasses.asdict(best.mesh)
    assert (table["remat"], table["microbatches"]) == (best.model.remat.value, best.optimizer.accumulate)
    next_one = f"train --preset 0.017b --batch 4096 --mesh.data {best.mesh.data} --mesh.fsdp {best.mesh.fsdp}"
    assert next_one in said and f"--model.remat {best.model.remat.value} --optimizer.accumulate {best.optimizer.accumulate}" in said


def test_a_search_that_nobody_asked_for_is_not_advised_after_it(capsys, monkeypatch):
    monkeypatch.setattr(plan, "plan", lambda config, which, of: Plan(which, dataclasses.asdict(config.mesh), {}, 1.0, compiled.Misfit(2**35, 2**34)))
    with pytest.raises(SystemExit, match="^3$"):
        plan.main("--preset 0.017b --topology v5e-8 --batch 4".split())  # the preset's mesh cuts clips in eight
    said = " ".join(capsys.readouterr().out.split())
    assert "programs compiled" in said and "next: a larger slice" in said and "--search" not in said


def test_the_search_compiles_in_the_order_of_its_guess_and_takes_the_fastest():
    config, which = plan.on_tpu(preset("0.017b")), parse("v5e-8")
    known = search.candidates(config, which, Of.TRAIN)
    assert {one.config.model.remat for one in known} == set(search.SEARCHED) and {one.config.mesh.tensor for one in known} == {1, 2, 4}
    for one in known:
        rows = one.config.mesh.data * one.config.mesh.fsdp * one.config.optimizer.accumulate
        assert np.prod(one.config.mesh.shape(8)) == 8 and 128 % rows == 0
    best = min(known, key=lambda one: one.seconds).config.model.remat
    assert best is Remat.ATTENTION, "by the compiler's cycles (v5e-16) 0.022 s, and 0.030 where all is kept"
    real = iter([3.0, 2.0, None, 4.0, 2.5, 5.0, 1.0])
    seen = []

    def fake(changed, which):
        seen.append(changed)
        seconds = next(real)
        misfit = compiled.Misfit(2, 1) if seconds is None else None
        made = None if misfit else dataclasses.make_dataclass("Made", ["step"])(seconds)
        return Plan(which, {}, {}, 0.0, misfit, estimate=made)

    tried = search.search(config, which, Of.TRAIN, fake, lambda _: None)
    assert len(tried) == search.TRIES and search.best(tried).found.estimate.step == 2.0 and search.best(tried).config is seen[1]
    own, *others = seen
    assert own == dataclasses.replace(config, mesh=MeshConfig(data=1, fsdp=8)) and own not in others, "what the preset has, once"
    guesses = [next(one.seconds for one in known if one.config == changed) for changed in others]
    assert guesses == sorted(guesses)
    layout = dataclasses.replace(config, mesh=MeshConfig(data=8))
    real = iter([1.0] * 6)
    assert search.search(layout, which, Of.TRAIN, fake, lambda _: None)[0].config == layout, "no candidate, yet asked for"
    sampled = search.candidates(config, which, Of.SAMPLE)
    assert {one.config.mesh for one in sampled} <= {one.config.mesh for one in known}
    assert {(one.config.model.remat, one.config.optimizer.accumulate) for one in sampled} == {(config.model.remat, 1)}


def test_the_search_passes_over_what_the_model_cannot_be_cut_by(monkeypatch):
    """All tokens of some heads on each device: 8 devices do not divide 4 heads."""
    monkeypatch.setattr(search, "SEARCHED", (Remat.NONE,))
    base = plan.on_tpu(preset("0.017b"))
    config, which = dataclasses.replace(base, batch=2, model=dataclasses.replace(base.model, context=Context.ALL_TO_ALL)), parse("v5e-8")
    known = [one.config.mesh for one in search.candidates(config, which, Of.TRAIN)]
    fake = lambda changed, which: Plan(which, {}, {}, 0.0, None if search.divides(changed, which) else pytest.fail("plan refuses it"))
    tried = {one.mesh for one, _ in search.search(config, which, Of.TRAIN, fake, lambda _: None, tries=len(known))}
    assert 1 < len(tried) < len(set(known))
    alone = dataclasses.replace(config, batch=1)
    with pytest.raises(ValueError, match="no mesh over the 8 devices"):
        search.search(alone, which, Of.TRAIN, fake, lambda _: None)


def test_no_compiler_is_not_taken_for_a_mesh_that_does_not_divide(monkeypatch):
    def missing(which):
        raise ValueError("libtpu is missing")

    monkeypatch.setattr("core_jax.pod.topology._devices", missing)
    with pytest.raises(ValueError, match="libtpu is missing"):
        search.divides(plan.on_tpu(preset("tiny")), parse("v5e-4"))


def test_sampling_is_searched_for_whatever_training_computes_again():
    model = dataclasses.replace(preset("0.017b").model, remat=Remat.PRODUCTS)
    assert search.candidates(dataclasses.replace(preset("0.017b"), model=model), parse("v5e-8"), Of.SAMPLE)


def test_flags_are_those_of_train():
    asked = plan.parse(["--preset", "0.057b", "--topology", "v5p-8", "--mesh.fsdp", "2", "--mesh.data", "2", "--batch", "4", *small.FLAGS])
    assert asked.train == train.parse(["--preset", "0.057b", "--mesh.fsdp", "2", "--mesh.data", "2", "--batch", "4", *small.FLAGS])
    assert (asked.topology, asked.search, asked.json) == ("v5p-8", False, None)
    assert plan.parse(["--preset", "14b"]).topology == "v5p-128" and set(SLICES) == set(PRESETS)


@pytest.mark.parametrize("autoencoder", ["wan2.1", "wan2.2"])
def test_every_preset_of_latents_has_a_mesh_for_its_own_slice(autoencoder):
    for name, which in SLICES.items():
        assert search.divides(plan.on_tpu(preset(name, None, autoencoder)), parse(which)), name


def test_the_next_command_is_trains():
    config = preset("0.057b")
    found = Plan(parse("v5e-8"), {"data": 1, "fsdp": 8, "context": 1, "tensor": 1}, {}, 0.0)
    args = "--preset 0.057b --topology v5e-8 --search --no-search --mesh.fsdp=2 --frames 32 --json /tmp/x --model.patch 4 16 16 --model.remat none"
    kept = plan.of_train(args.split())
    assert " ".join(kept) == "--preset 0.057b --frames 32 --model.patch 4 16 16"
    assert train.parse(kept + search.flags(config, found)) == dataclasses.replace(config, frames=32, mesh=MeshConfig(data=1, fsdp=8))


@pytest.mark.parametrize(
    "args, said",
    [
        ("--topology v9-8", "no TPU slice named 'v9-8'; there are v4-2"),
        ("--preset tinny --topology v5e-8", "no preset named 'tinny'"),
        ("--preset 14b --topology v5p-128 --mesh.context 1 --mesh.tensor 16", "dim K has size 40, which mesh axes ('tensor',) of 16 devices do not divide"),
        ("--preset 14b --topology v5p-128 --frames 84 --mesh.context 32", "dim S has size 75600, which mesh axes ('context',) of 32 devices do not divide"),
        ("--preset 14b --topology v5p-512 --mesh.fsdp 64", "dim B has size 16, which mesh axes ('data', 'fsdp') of 64 devices do not divide"),
        ("--preset 14b --topology v5p-128 --mesh.fsdp 16 --mesh.context 1", "does not fit 64 devices"),
        ("--preset tiny --topology v5e-256 --batch 3 --search", "no mesh over the 256 devices of v5e:16x16 divides a batch of 3 clips"),
        ("--topology", "topology"),
    ],
)
def test_bad_input_is_one_sentence(args, said, fails):
    assert said in " ".join(fails(plan.main, args.split()).replace("│", " ").split())
