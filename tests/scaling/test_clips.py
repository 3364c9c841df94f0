"""Clips that a sweep draws once and holds are those that each run's loader would read."""
import dataclasses

import jax
import numpy as np
import pytest

from scaling_jax import clips
from tests.videodit import small
from videodit_jax.data import open_sources
from videodit_jax.data.loader import loader
from videodit_jax.data.shapes import Shapes


@pytest.mark.parametrize("few", [1000, 10], ids=["one process", "several"])
def test_clips_that_are_held_are_those_that_the_loader_reads(few, monkeypatch):
    monkeypatch.setattr(clips, "FEW", few)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")  # what draws takes no accelerator: there is none here, and asking for it would fail
    config = dataclasses.replace(small.CONFIG, seed=3)
    held = clips.hold(config, (2, 3), 40)
    source, _ = open_sources(config)
    batches = loader(source, clips.encoder_of(config, source), seed=3, batch=8, start=16)
    for _, mine, its in zip(range(3), held[3].batches(8, 16), batches):
        jax.tree.map(np.testing.assert_array_equal, mine, its)
    assert not np.array_equal(held[2].clips["video"], held[3].clips["video"])


def test_memory_is_what_a_container_may_have(tmp_path, monkeypatch):
    files = tmp_path / "memory.max", tmp_path / "limit_in_bytes"
    monkeypatch.setattr(clips, "LIMITS", files)
    machine = clips.memory()
    for text, limit in (("max\n", machine), (f"{2**70}\n", machine), ("4096000\n", 4096000)):
        for file in files:
            file.write_text(text)
            assert clips.memory() == limit
            file.unlink()


def test_clips_that_a_stream_repeats_are_held_once(monkeypatch):
    monkeypatch.setattr(Shapes, "__len__", lambda self: 24)
    held = clips.hold(small.CONFIG, (0,), 60)[0]
    source, _ = open_sources(small.CONFIG)
    assert len(held.clips["video"]) == 24 and len(held.order) == 60
    batches = loader(source, clips.encoder_of(small.CONFIG, source), seed=0, batch=20)
    for _, mine, its in zip(range(3), held.batches(20, 0), batches):
        jax.tree.map(np.testing.assert_array_equal, mine, its)
