"""One clip, trained on alone for two hundred steps, is sampled back: model, flow, optimizer and sampler agree on what a video is."""
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from core_jax import mesh, state
from core_jax.video import read_clip
from videodit_jax.conditioning import ScoreStatistics
from videodit_jax.data.shapes import Shapes
from videodit_jax.flow import FlowConfig, Guidance, Target
from videodit_jax.config import OptimizerConfig, SamplingConfig, Schedule, TrainConfig
from videodit_jax.model import ModelConfig
from videodit_jax.objective import loss_fn
from videodit_jax.run import make_model
from videodit_jax.sampler import Sampler

CONFIG = TrainConfig(
    frames=8,
    size="24x24",
    batch=16,
    steps=220,
    model=ModelConfig(width=64, layers=2, heads=2, mlp=256, patch=(4, 6, 6), absolute=True, frequencies=64, unroll=1),
    flow=FlowConfig(target=Target.X0),
    optimizer=OptimizerConfig(learning_rate=5e-3, schedule=Schedule.WSD, decay=0.5, warmup=20, b2=0.99, ema=0.98),
    sampling=SamplingConfig(steps=8, guidance=Guidance()),
)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean()))


def sampled_back(video: np.ndarray) -> np.ndarray:
    """What a model trained on this clip alone samples."""
    on = mesh.build(devices=jax.devices()[:1])
    statistics = ScoreStatistics({name: () for name in CONFIG.model.scores})
    tx = CONFIG.optimizer.build(CONFIG.steps)
    tokens = jax.tree.map(lambda x: np.stack([x] * CONFIG.batch), CONFIG.model.text.tokenize("the clip"))
    batch = {"video": np.stack([video] * CONFIG.batch), "text": tokens, "scores": np.full((CONFIG.batch, 3), np.nan, np.float32)}
    with jax.set_mesh(on):
        now = state.create(lambda: make_model(CONFIG), tx, on)
        step = state.make_step(loss_fn(CONFIG), tx, seed=0, ema_decay=CONFIG.optimizer.ema)
        step = jax.jit(step, donate_argnums=0, compiler_options={"xla_backend_optimization_level": 2})  # of so many steps the time is in running
        for _ in range(CONFIG.steps):
            now, _ = step(now, batch)
        return Sampler(CONFIG, statistics, on, batch=1)(now.ema, ["the clip"], [{}], [0])[0]


def test_a_drawn_clip_comes_back():
    video = Shapes(8, 24, 24)[0]["video"]
    assert psnr(sampled_back(video), video) >= 25
    assert psnr(np.full_like(video, video.mean()), video) < 25, "a flat clip would pass too"


@pytest.mark.skipif("VIDEOGEN_TEST_DATA" not in os.environ, reason="VIDEOGEN_TEST_DATA names no folder of real videos")
def test_a_real_clip_comes_back():
    path = Path(os.environ["VIDEOGEN_TEST_DATA"]) / "videos" / "carphone.mp4"
    video = read_clip(str(path), np.arange(8) / 10, (24, 24))
    assert psnr(sampled_back(video), video) >= 25
    assert psnr(np.full_like(video, video.mean()), video) < 25
