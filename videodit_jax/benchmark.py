"""`python -m videodit_jax.benchmark`: our training step against the plain PyTorch writing of the same model, in one run.

Both sides do the same work (tests/reproduce holds that): draw noise, times and dropped conditions, forward, backward, clip, AdamW,
running average; same shapes, precision and device, same number of threads, in turns. The peer is eager PyTorch on a CPU and
`torch.compile` on a GPU; its attention is `scaled_dot_product_attention`, its AdamW fused.
"""
import dataclasses
import os
import statistics

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from core_jax import cli, mesh
from core_jax.chips import PEAK_BF16
from core_jax.cores import cores
from core_jax.numbers import at_least, refuse
from core_jax.race import ROUNDS, Side, matmuls, race, torch_device, unfair
from core_jax.remat import Remat
from core_jax.settings import replaced, to_json
from core_jax.state import compile_step, create, make_step
from core_jax.weights import named
from videodit_jax.config import Dtype, Method, TrainConfig
from videodit_jax.model import forward_flops
from videodit_jax.objective import loss_fn
from videodit_jax.presets import preset
from videodit_jax.run import make_model


@dataclasses.dataclass(frozen=True)
class Args:
    """Time our training step against that of the same model in PyTorch."""

    preset: str = "tiny"
    """preset whose model and clips are timed, with AdamW"""
    batch: int | None = None
    """clips a step; by default the preset's own"""
    frames: int | None = None
    """frames of a clip; by default the preset's own"""
    size: str | None = None
    """height x width of a clip; by default the preset's own"""
    remat: Remat | None = None
    """what our backward pass recomputes (PyTorch's keeps all); by default the preset's own"""
    unroll: int | None = None
    """layers in one turn of our scan; by default the preset's own"""
    steps: int = 20
    """timed steps of each side, in five rounds"""
    dtype: Dtype = Dtype.AUTO
    """dtype of the computation; auto: bfloat16 on TPU and GPU, float32 on a CPU"""
    compiled: bool | None = None
    """run PyTorch through torch.compile; by default on a GPU only"""
    json: str | None = None
    """also write the figures here"""


def batch_of(config: TrainConfig) -> dict:
    """Random clips, captions of every length and scores."""
    rng = np.random.default_rng(config.seed)
    B, words = config.batch, config.model.text.words
    text = {
        "bytes": rng.integers(0, 256, (B, words, 12)).astype(np.int32),
        "length": rng.integers(1, words + 1, B).astype(np.int32),
    }
    video = rng.integers(0, 256, (B, *config.video, config.model.channels)).astype(np.uint8)
    return {"video": video, "text": text, "scores": rng.random((B, len(config.model.scores)), np.float32)}


def sides(config: TrainConfig, compiled: bool, on: jax.sharding.Mesh, device) -> dict[str, Side]:
    """Both training steps, from the same weights on the same batch."""
    import torch

    from videodit_jax.torch_step import TorchStep, draw
    from videodit_jax.torch_twin import TorchDiT, twin_weights

    tx, batch = config.optimizer.build(config.steps), batch_of(config)
    state = create(lambda: make_model(config), tx, on)
    twin = TorchDiT(config.model, config.video)
    twin.load_state_dict(twin_weights(twin, named(jax.device_get(state.model))))
    peer = TorchStep(config, twin.to(device), compiled=compiled)
    tensors = [torch.from_numpy(x).to(device) for x in (batch["video"], batch["text"]["bytes"], batch["text"]["length"], batch["scores"])]
    step = compile_step(make_step(loss_fn(config), tx, seed=config.seed, ema_decay=config.optimizer.ema), state)
    batch = jax.device_put(batch)

    def ours():
        nonlocal state
        state, metrics = step(state, batch)
        return metrics["loss"].item

    name = "torch.compile" if compiled else "torch, eager"
    return {"ours": ours, name: lambda: peer(draw(config, *tensors)).item}


def timed_config(args: Args) -> TrainConfig:
    """The preset's run with AdamW, which the peer has too, on one device."""
    config = preset(args.preset)
    model = replaced(config.model, remat=args.remat, unroll=args.unroll)
    adamw = dataclasses.replace(config.optimizer, method=Method.ADAMW)
    given = dict(batch=args.batch, frames=args.frames, size=args.size)
    return replaced(config, dtype=args.dtype, mesh=mesh.MeshConfig(), optimizer=adamw, model=model, **given)


def measure(args: Args) -> dict:
    """All figures, as they go to --json.

    Raises:
      ValueError: as `torch_device`.
    """
    mesh.start(args)
    device = torch_device()
    config, threads, backend = timed_config(args), cores(), jax.default_backend()
    compiled = backend == "gpu" if args.compiled is None else args.compiled
    flops, tokens = config.batch * forward_flops(config.model, config.video).train, config.batch * np.prod(config.model.grid(config.video))
    size = 8192 if backend == "gpu" else 2048
    on = mesh.build(config.mesh, jax.devices()[:1])
    with jax.set_mesh(on):
        products = race(matmuls(args.dtype.jax, size, device), 3)
        ours, theirs = race(sides(config, compiled, on, device), max(args.steps // ROUNDS, 1))
    peak = PEAK_BF16.get(jax.devices()[0].device_kind) if config.dtype.resolve() is Dtype.BFLOAT16 else None
    return {
        "preset": args.preset, "batch": config.batch, "video": list(config.video), "dtype": config.dtype.resolve().value, "remat": config.model.remat.value,
        "unroll": config.model.unroll,
        "device": jax.devices()[0].device_kind, "threads": threads, "tokens": int(tokens), "model_flops": flops,
        "matmul_flops": {timing.name: 2 * size**3 / timing.seconds for timing in products},
        "peak_bf16_flops": peak,
        "cores_had": None if backend == "gpu" else products[0].cores,
        "steps": [dataclasses.asdict(timing) for timing in (ours, theirs)],
        "ratios": sorted(their / our for our, their in zip(ours.wall, theirs.wall)),
        "ratio": theirs.seconds / ours.seconds,
        "model": to_json(config.model),
    }


def show(result: dict, console: Console) -> None:
    """The figures as a table, and the ratio."""
    unit, per = ("GFLOP/s", 1e9) if result["device"] == "cpu" else ("TFLOP/s", 1e12)
    best = max(result["matmul_flops"].values())
    title = f"{result['preset']}: {result['batch']} clips, {result['tokens']} tokens a step, {result['dtype']}, {result['device']}"
    table = Table("training step", title=title + (f", {result['threads']} threads" if result["device"] == "cpu" else ""))
    peak = result["peak_bf16_flops"]
    share = f"of {(peak or best) / per:.0f} ({'bf16 peak' if peak else 'matmul'})"
    for column in ("ms", "CPU ms", "tokens/s", f"model {unit}", share):
        table.add_column(column, justify="right")
    for row in result["steps"]:
        seconds = statistics.median(row["wall"])
        speed = result["model_flops"] / seconds
        cpu = statistics.median(row["cpu"])
        figures = f"{seconds * 1e3:.1f}", f"{cpu * 1e3:.1f}", f"{result['tokens'] / seconds:,.0f}", f"{speed / per:.3g}"
        table.add_row(row["name"], *figures, f"{speed / (peak or best):.0%}")
    console.print(table)
    products = ", ".join(f"{name} {speed / per:.3g} {unit}" for name, speed in result["matmul_flops"].items())
    console.print(f"a large square matrix product: {products}")
    if warning := unfair(result["cores_had"], result["threads"]):
        console.print(warning)
    low, *_, high = result["ratios"]
    console.print(f"ours is {result['ratio']:.2f} times as fast (medians; rounds from {low:.2f} to {high:.2f})")


def main(argv: list[str]) -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with torch here
    args = cli.parse(Args, argv, "videodit_jax.benchmark")
    refuse(args, {at_least(ROUNDS): "steps"})  # one a round
    result, console = measure(args), cli.console()
    show(result, console)
    console.save(args.json, result)


if __name__ == "__main__":
    cli.run(main)
