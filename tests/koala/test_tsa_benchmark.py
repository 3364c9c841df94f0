"""`python -m koala_jax.tsa.benchmark`: both sides score the same clips alike, and the figures are of what was timed."""
import json
import statistics

import jax
import numpy as np
import pytest
import torch

from core_jax import mesh
from koala_jax.tsa import benchmark
from koala_jax.tsa.networks import Network


def test_figures_are_of_what_was_timed(tmp_path, capsys, monkeypatch):
    build = mesh.build
    monkeypatch.setattr(mesh, "build", lambda devices: build(devices=devices[:2]))
    monkeypatch.setattr(benchmark, "PRODUCT", 64)
    flags = f"--network small-dynamic --batches 1 2 --frames 8 --size 32 --seconds 1e-6 --json {tmp_path / 'found.json'}"
    benchmark.main(flags.split())
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["network"], found["video"], found["dtype"], found["torch"]) == ("small-dynamic", [8, 32, 32], "float32", "torch, eager")
    assert [row["batch"] for row in found["batches"]] == [2, 4], "one and two for each of the devices"
    for row in found["batches"]:
        assert row["apart"] < 1e-5 and len(row["ours_s"]) == len(row["torch_s"]) == 5 and row["ratios"] == sorted(row["ratios"])
        assert row["ratio"] == pytest.approx(statistics.median(row["torch_s"]) / statistics.median(row["ours_s"]))
    told = capsys.readouterr().out
    assert f"4 at a time: ours is {row['ratio']:.2f} times as fast" in told and f"{1e3 * statistics.median(row['ours_s']) / 4:,.2f}" in told


def test_both_score_alike_and_from_clip_picture_and_labels(monkeypatch):
    """A branch that makes no difference would not be compared."""
    monkeypatch.setattr(benchmark, "SPREAD", 0.2)  # the network is narrow
    args, on = benchmark.Args(network=Network.SMALL, frames=8, size=32), mesh.build(devices=jax.devices()[:1])
    ours, theirs = benchmark.contestants(args, on, torch.device("cpu"), compiled=False)
    batch = benchmark.batch_of(args, 2)
    for changing in range(3):
        some = [x if i == changing else x[:1].repeat(2, 0) for i, x in enumerate(batch)]
        with jax.set_mesh(on):
            mine, their = np.asarray(ours.scores(*jax.device_put(some, ours.sharding))), theirs([torch.from_numpy(x) for x in some]).numpy()
        np.testing.assert_allclose(mine, their, rtol=1e-4)
        assert abs(mine[0] - mine[1]) > 1e-3 * np.abs(mine).max()


def test_a_clip_takes_the_flops_that_video_swin_t_is_published_with():
    """88 billion multiplications and additions (arXiv 2106.13230, table 1)."""
    assert benchmark.flops(benchmark.Args()) == pytest.approx(2 * 88e9, rel=0.01)


@pytest.mark.parametrize("flags, words", [("--batches 1 0", "--batches 1 0: at least 1"), ("--size 300", "32 to 255 rows"), ("--seconds 0", "a positive number")])
def test_bad_flags(flags, words, fails):
    assert words in " ".join(fails(benchmark.main, flags.split()).replace("│", "").split())
