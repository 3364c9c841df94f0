"""Captioning compiled for a TPU slice."""
import json

import pytest

from core_jax.lmm.config import SEVEN_BILLION, LMMConfig
from core_jax.lmm.load import abstract
from core_jax.pod.compiled import Misfit
from core_jax.pod.plan import Plan
from core_jax.weights import count
from koala_jax import plan
from koala_jax.plan import PlanConfig

pytest.importorskip("libtpu", reason="libtpu holds the TPU compiler")

SIZES = (
    "--decoder.layers 1 --decoder.vocabulary 4096 --decoder.width 512 --decoder.heads 4 --decoder.mlp 1024 --tower.layers 1 --tower.tile 144 "
    "--tower.patch 16 --tower.width 512 --tower.heads 4 --tower.mlp 512 --frames 1 --prompt 256 --batch 2 --most 8"
).split()


def test_tower_prefill_and_decoding_compile_for_a_slice_and_their_weights_are_shared_out(tmp_path, capsys):
    plan.main([*SIZES, "--json", str(tmp_path / "plan.json")])
    said = " ".join(capsys.readouterr().out.split())
    assert "within 25 % of steps of 14B that others measured" in said and "estimated batch: " in said
    assert "--frames 1 --model.half --model.most 8 --model.batch 2 --model.mesh.data 2 --model.mesh.fsdp 1" in said
    table = json.loads((tmp_path / "plan.json").read_text())
    assert table["fits"] and table["mesh"] == {"data": 2, "fsdp": 1, "context": 1, "tensor": 4}
    config = plan.cli.parse(PlanConfig, SIZES, "koala_jax.plan")
    numbers, memory = count(abstract(LMMConfig(config.decoder, config.tower, SEVEN_BILLION.packing))), table["hbm_bytes"]
    assert numbers * 2 / 4 <= memory["weights"] < numbers * 2 / 2
    assert memory["weights"] < memory["total"] < memory["limit"]
    assert 7 in {one["times"] for one in table["collectives"]}, "the loop of decoding turns for each token but the first"
    bandwidth = 819e9
    assert table["floor_seconds"]["hbm"] * bandwidth >= 8 * memory["weights"], "the weights are read for each token of the answer"


def test_what_does_not_fit_has_a_status_of_its_own(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "plan", lambda config, which: Plan(which, {"data": 8}, {}, 0.0, Misfit(2**40, 2**30)))
    with pytest.raises(SystemExit, match="^3$"):
        plan.main(["--json", str(tmp_path / "plan.json")])
    assert not json.loads((tmp_path / "plan.json").read_text())["fits"] and "next: a larger slice" in capsys.readouterr().out


@pytest.mark.parametrize("args, said", [
    ("--batch 0", "--batch 0: at least 1 is needed"),
    ("--frames 3 --prompt 75", "--prompt 75: 3 frames are 75 tokens, and more are needed"),
    ("--topology v9-8", "no TPU slice named 'v9-8'"),
    ("--batch 3", "--batch 3 is not divided by the 2 devices of the mesh's axes data and fsdp"),
    ("--mesh.tensor 8", "mesh axes ('tensor',) of 8 devices do not divide"),
    ("--mesh.tensor 3", "does not fit 8 devices: the fixed axes take 3"),
])  # fmt: skip
def test_bad_input_is_one_sentence(args, said, fails):
    assert said in " ".join(fails(plan.main, [*SIZES, *args.split()]).split())


def test_the_sizes_of_seven_billion():
    assert count(abstract(SEVEN_BILLION)) == pytest.approx(8.03e9, rel=0.005)
