"""`python -m scaling_jax.collect`: runs of `train`, finished, unfinished and diverged, as a table that `fit` reads."""
import csv
import dataclasses
import json

import pytest

from core_jax.report import HELD_OUT, LOG
from scaling_jax import collect, jobs, table
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.config import Method, Schedule
from videodit_jax.run import Run


def make(folder, size: int = 2, *, family: str = "tiny", mlp: int = 4, held_out: str = "", log: str = "", data: str = "shapes", **changes) -> None:
    """A folder of `train` with MLPs `mlp` times as wide as the model, and `changes` of its optimizer."""
    config = jobs.config_of(family, size, T=64000, batch=640, lr=1e-3, data=data)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, mlp=mlp * config.model.width))
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **changes))
    Run(config, ScoreStatistics({}), "x").write(folder)
    (folder / LOG).write_text(log)
    if held_out:
        (folder / HELD_OUT).write_text(held_out.replace("END", str(config.steps)))


def test_runs_become_a_table(tmp_path, capsys, fails):
    done = '{"step": 50, "loss": 0.5}\n{"step": END, "loss": 0.25}\n'
    make(tmp_path / "[runs]" / "a", held_out=done)
    make(tmp_path / "[runs]" / "b", 3, held_out=done + '{"step": EN')  # torn by a crash of a later start
    make(tmp_path / "[runs]" / "waits", 3, held_out='{"step": 50, "loss": 0.5}\n')
    make(tmp_path / "[runs]" / "new", log=json.dumps({"step": 20, "loss": None, "skipped_in_row": 10.0}) + "\n")  # as many as may be in a row
    make(tmp_path / "[runs]" / "diverged", 3, log=json.dumps({"step": 20, "loss": None, "skipped_in_row": 11.0}) + "\n")
    out = tmp_path / "[runs]" / "runs.csv"
    collect.main([str(tmp_path / "[runs]"), "--out", str(out)])
    rows = list(csv.DictReader(out.open(newline="")))
    assert [(row["layers"], row["loss"], row["diverged"]) for row in rows] == [("2", "0.25", "0"), ("3", "0.25", "0"), ("3", "", "1")]
    assert float(rows[0]["T"]) == pytest.approx(64000, rel=0.01) and float(rows[0]["batch"]) == 640
    said = " ".join(capsys.readouterr().out.split())
    assert "2 not at their end, left out: " in said and "[runs]/new" in said and "3 rows, 1 of them diverged; next: python -m scaling_jax.fit" in said
    assert said.endswith("--flops cross-dit --clip-tokens 16 --aspect 16 --skip-diverged") and "warning" not in said
    assert "of 1 run none is at its end" in fails(collect.main, [str(tmp_path / "[runs]" / "new")])
    assert "no folder of runs is given" in fails(collect.main, [])
    assert "is no run and no folder of runs" in fails(collect.main, [str(tmp_path)])
    assert "--out a.parquet must end in .csv" in fails(collect.main, [str(tmp_path / "[runs]"), "--out", "a.parquet"])
    (tmp_path / "owl" / "align").mkdir(parents=True)
    (tmp_path / "owl" / "align" / "config.json").write_text('{"config": {"stage": "align"}, "data": ""}')
    assert "align/config.json is not the config of a run of videodit_jax.train: TrainConfig has no field" in fails(collect.main, [str(tmp_path / "owl")])
    make(tmp_path / "cosine", held_out=done, schedule=Schedule.COSINE)
    assert "cosine has a cosine learning rate; runs at --optimizer.schedule constant are wanted" in fails(collect.main, [str(tmp_path / "cosine"), "--out", str(out)])
    assert len(list(csv.DictReader(out.open(newline="")))) == 3, "what was there stays"


def test_a_loss_that_is_no_number_is_no_loss_and_other_clips_are_warned_of(tmp_path, capsys):
    make(tmp_path / "[runs]" / "a", held_out='{"step": END, "loss": 0.25}\n')
    make(tmp_path / "[runs]" / "b", held_out='{"step": END, "loss": null}\n', data="stories", method=Method.MUON)
    collect.main([str(tmp_path / "[runs]"), "--out", str(tmp_path / "runs.csv")])
    rows = list(csv.DictReader((tmp_path / "runs.csv").open(newline="")))
    assert [(row["loss"], row["diverged"]) for row in rows] == [("0.25", "0"), ("", "1")]
    said = " ".join(capsys.readouterr().out.split())
    assert "the runs differ in data (shapes, stories)" in said and "the runs differ in optimizer.method (adamw, muon)" in said


def test_counts_that_fit_would_take_for_millions_are_told_to_it_as_counts(tmp_path, capsys, monkeypatch):
    make(tmp_path / "a", held_out='{"step": END, "loss": 0.25}\n')
    monkeypatch.setitem(table.LEAST, "T", 1e5)
    collect.main([str(tmp_path / "a"), "--out", str(tmp_path / "runs.csv")])
    assert capsys.readouterr().out.rstrip().endswith("--aspect 16 --unit-N 1 --unit-T 1")


def test_mlps_of_another_width_are_counted_as_they_are_and_told_of(tmp_path, capsys):
    make(tmp_path / "runs" / "a", held_out='{"step": END, "loss": 0.25}\n')
    make(tmp_path / "runs" / "wide", mlp=6, held_out='{"step": END, "loss": 0.25}\n')
    collect.main([str(tmp_path / "runs"), "--out", str(tmp_path / "runs.csv")])
    one, wide = csv.DictReader((tmp_path / "runs.csv").open(newline=""))
    L, E = int(wide["layers"]), int(wide["width"])
    more = (float(wide["C"]) / float(wide["T"]), float(one["C"]) / float(one["T"]))
    assert more[0] - more[1] == pytest.approx(6 * 2 * L * E * 2 * E), "6 FLOPs for each of the weights that there are more"
    assert "of tiny the MLPs are not four times as wide as the model" in " ".join(capsys.readouterr().out.split())


def test_a_family_by_width_is_counted_whole_and_told_to_fit(tmp_path, capsys, fails):
    for size in (2, 3):
        make(tmp_path / "[runs]" / str(size), size, family="narrow", held_out='{"step": END, "loss": 0.25}\n')
    words = [str(tmp_path / "[runs]"), "--out", str(tmp_path / "runs.csv")]
    assert "narrow is one by width: give --flops whole" in fails(collect.main, words) and not (tmp_path / "runs.csv").exists()
    collect.main([*words, "--flops", "whole"])
    assert " ".join(capsys.readouterr().out.split()).endswith("--flops whole --preset narrow")
