"""`python -m owl_jax.plan`: a stage's step and the loop's programs compiled for a slice, a misfit, and bad input."""
import dataclasses
import json

import jax
import numpy as np
import pytest

from core_jax import mesh
from core_jax.lmm.fresh import fresh_tokenizer
from core_jax.lmm.load import abstract
from core_jax.lmm.tokenizer import Tokenizer
from core_jax.pod.plan import local_bytes
from core_jax.pod.topology import parse
from core_jax.weights import count, named
from owl_jax import plan, run, shapes, train
from owl_jax.config import Caption
from owl_jax.films import open_films
from owl_jax.sequence import Pieces
from owl_jax.stages import Stage, TrainConfig, Tuning
from owl_jax.world import World
from tests.owl import small
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import Dtype
from videodit_jax.model import abstract_model
from videodit_jax.run import Run, is_map

pytest.importorskip("libtpu", reason="libtpu holds the TPU compiler")


LMM = dataclasses.replace(small.LMM, decoder=dataclasses.replace(small.LMM.decoder, layers=1))
OWL = dataclasses.replace(small.OWL, layers=0)
"""each layer costs the compiler seconds"""


def tiny(stage: Stage) -> TrainConfig:
    clips = 6 if stage is Stage.WORLD else 1
    return TrainConfig(stage, owl=OWL, tuning=Tuning.LORA, batch=4, clips=clips, filmed=clips)


@pytest.fixture(autouse=True)
def sizes(monkeypatch):
    monkeypatch.setattr(plan, "PRESETS", {"stories": tiny})
    monkeypatch.setattr(plan, "PARTS", {"stories": (LMM, "tiny")})
    monkeypatch.setattr(plan, "film_preset", lambda name: small.FILM)


def call(of: str, *flags: str) -> None:
    plan.main(["--of", of, "--preset", "stories", "--topology", "v5e-4", *flags])


def test_a_stage_with_a_frozen_language_model(tmp_path, capsys):
    call("align", "--json", str(tmp_path / "plan.json"))
    said = " ".join(capsys.readouterr().out.split())
    assert "within 25 % of steps of 14B that others measured" in " ".join(said.split()) and "owl_jax.train --stage align" in said and "--mesh.fsdp 4" in said
    table = json.loads((tmp_path / "plan.json").read_text())
    memory = table["hbm_bytes"]
    parts = {name: size for name, size in memory.items() if name not in ("total", "limit")}
    assert table["fits"] and sum(parts.values()) == memory["total"] < memory["limit"] and min(parts.values()) >= 0
    assert table["mesh"] == {"data": 1, "fsdp": 4, "context": 1, "tensor": 1}
    assert memory["ema"] == memory["parameters"] and 2 * memory["parameters"] <= memory["optimizer"] < 2.01 * memory["parameters"]
    numbers = count(abstract(LMM))
    assert 2 * numbers / 4 <= memory["frozen language model"] < 2 * numbers / 2, "bf16, shared out"
    assert memory["frozen film model"] > memory["parameters"], "all of it, in fp32"
    assert 0 < table["estimated_step_seconds"] and table["estimate"]["validated"] is True


def test_a_stage_that_films_learns_all_of_the_film_model_but_its_text_encoder():
    config, film, lmm = plan.settings(plan.parse(["--of", "world", "--preset", "stories"]))
    on = mesh.build(mesh.MeshConfig(data=1, fsdp=-1), parse("v5e-4").devices())
    with jax.set_mesh(on):
        held = shapes.training(config, film, lmm, on).held
    frozen, learned = named(held["frozen film model"]), named(held["parameters"])
    assert frozen and all(name.startswith("text.") for name in frozen)
    assert {name for name in learned if name.startswith("film.")} == {f"film.{name}" for name in named(abstract_model(film.model))} - {
        f"film.{name}" for name in frozen
    }
    assert all(x.dtype == np.float32 for x in learned.values()) and {x.dtype.name for x in named(held["frozen language model"]).values()} == {"bfloat16"}


def test_the_loop_holds_its_parts_and_the_largest_program(tmp_path, capsys):
    call("generate", "--mesh.data", "2", "--mesh.fsdp", "1", "--mesh.context", "2", "--mesh.tensor", "1", "--batch", "2", "--json", str(tmp_path / "plan.json"))
    said = " ".join(capsys.readouterr().out.split())
    table = json.loads((tmp_path / "plan.json").read_text())
    assert set(table["programs"]) == {"forget", "imagine", "shoot", "observe", "tell"} and all(f"compiled {name}" in said for name in table["programs"])
    memory, programs = table["hbm_bytes"], table["programs"].values()
    assert table["fits"] and memory["total"] == sum(size for name, size in memory.items() if name not in ("total", "limit"))
    needed = [one["hbm_bytes"]["total"] - one["hbm_bytes"]["batch and padding"] for one in programs]
    assert memory["at work"] == max(needed) > min(needed) > 0
    assert table["estimated_clip_seconds"] == pytest.approx(sum(one["estimated_step_seconds"] for one in programs))
    config, film, lmm = plan.settings(plan.parse(["--of", "generate", "--preset", "stories"]))
    owl = shapes.model(config, film, lmm, mesh.build(mesh.MeshConfig(), jax.devices()[:1]), only_films=True)
    slots = World(owl, shapes.pieces(config, lmm), film).slots
    decoder, valid = lmm.decoder, 2 * slots * 4
    keys = 2 * decoder.layers * decoder.kv_heads * slots * decoder.head_dim * 2
    assert memory["cache"] == keys + valid + 4, "each place of the axis data has one film's keys and values in bf16"
    assert memory["language model"] == local_bytes(owl.lmm), "no axis cuts it"
    assert memory["film model"] == local_bytes(owl.film) == sum(x.size * (2 if is_map(name) else 4) for name, x in named(owl.film).items())


@pytest.mark.parametrize("caption", Caption)
@pytest.mark.parametrize("stage", Stage)
def test_the_batch_is_the_loaders(stage, caption):
    config = dataclasses.replace(tiny(stage), owl=dataclasses.replace(OWL, caption=caption))
    film = dataclasses.replace(small.FILM, data="stories")
    on = mesh.build()
    config = dataclasses.replace(config, batch=on.size, clips=6)
    planned = shapes.batch(config, film, LMM, on)
    pieces = Pieces(LMM, Tokenizer(fresh_tokenizer(list(run.words()), 300), LMM), config.owl)
    encode = train.encoder(config, pieces, Run(film, ScoreStatistics(dict.fromkeys(film.model.scores, ())), ""))
    loaded = train.batch_of(encode(open_films(config, film)[0][0]))
    assert jax.tree.map(lambda x: (x.shape[1:], x.dtype), planned) == jax.tree.map(lambda x: (np.shape(x), np.asarray(x).dtype), loaded)


def test_what_does_not_fit_says_by_how_much(tmp_path, capsys, monkeypatch):
    """As the compiler says it (tests/core/test_pod_program.py) of a step."""
    misfit = lambda work, which, on: plan.Plan(which, dict(on.shape), work.model_flops, 1.0, plan.Misfit(2**35, which.chip.hbm))
    monkeypatch.setattr(plan, "plan_work", misfit)
    with pytest.raises(SystemExit, match="^3$"):
        call("align", "--json", str(tmp_path / "plan.json"))
    said = " ".join(capsys.readouterr().out.split())
    table = json.loads((tmp_path / "plan.json").read_text())
    assert not table["fits"] and table["needed_bytes"] > table["limit_bytes"] and "estimated_step_seconds" not in table
    assert "GiB more than the 15.75 GiB there are" in said and "next: a larger slice" in said


def test_a_loop_whose_parts_alone_do_not_fit():
    one = plan.Plan(parse("v5e-4"), {}, {}, 0.0, hbm={"total": 5, "batch and padding": 2})
    found = plan.LoopPlan({"shoot": one}, {"language model": one.which.chip.hbm})
    assert found.misfit.needed - found.misfit.available == 3


def test_settings_are_those_of_the_stage_changed_by_flags():
    config, film, _ = plan.settings(plan.parse("--of world --preset stories --batch 8 --clips 9 --filmed 2 --frames 8 --size 24x24".split()))
    assert (config.stage, config.batch, config.clips, config.filmed) == (Stage.WORLD, 8, 9, 2)
    assert film.video == (8, 24, 24) and film.model.given and film.dtype is Dtype.BFLOAT16
    meshes = [plan.parse(["--of", of, "--preset", "stories"]).mesh for of in ("generate", "film")]
    assert meshes == [plan.GENERATION, mesh.MeshConfig(data=1, fsdp=-1)]


@pytest.mark.parametrize("args, said", [
    ("--of film --preset stories --topology v9-8", "no TPU slice named 'v9-8'"),
    ("--of film --preset stories --topology v5e-8", "--batch 4 is not divided by the 8 devices of the mesh's axes data and fsdp"),
    ("--of film --preset stories --topology v5e-4 --mesh.fsdp 3", "does not fit 4 devices: its product is 3"),
    ("--of generate --preset stories --topology v5e-4", "mesh axes ('tensor',) of 4 devices do not divide"),
    ("--of film --preset storys", "no preset named 'storys'; there are stories"),
    ("--of film --preset stories --size big", "--size 'big': height x width is wanted"),
    ("--of films", "--of"),
])  # fmt: skip
def test_bad_input_is_one_sentence(args, said, fails):
    assert said in " ".join(fails(plan.main, args.split()).replace("│", " ").split())
