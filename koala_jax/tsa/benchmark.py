"""`python -m koala_jax.tsa.benchmark`: our suitability networks against the plain PyTorch writing of the same, in one run.

Timed is the one program that `koala_jax.score` calls for a batch of clips, whose bytes lie on the device: normalise, network, a score a
clip, in the precision and on the devices that it has there: one GPU, or all cores of a CPU, each with a batch of its own. Reading clips,
and their way to the device, are not in it. The peer gets the same clips and weights; it is eager PyTorch on a CPU and `torch.compile` on a
GPU, without gradients, its attention `scaled_dot_product_attention`.
"""
import dataclasses
import os
import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Float, UInt8
from rich.table import Table

from core_jax import cli, mesh
from core_jax.chips import PEAK_BF16
from core_jax.cores import cores
from core_jax.numbers import COUNT, POSITIVE, refuse
from core_jax.race import matmuls, race, race_calls, torch_device, unfair
from core_jax.weights import named, renamed
from koala_jax.tsa.fragments import IMAGE
from koala_jax.tsa.model import SuitabilityConfig, VideoScorerConfig
from koala_jax.tsa.names import to_official
from koala_jax.tsa.networks import Network
from koala_jax.tsa.predict import MOST_CORES, Predictor
from koala_jax.tsa.scorer import ScorerConfig
from koala_jax.tsa.windows import Size, adaptive_window

SPREAD = 0.06
"""standard deviation of the weights"""

PRODUCT = 2048
"""size of the matrix product that tells whether other work has some of the cores"""


@dataclasses.dataclass(frozen=True)
class Args:
    """Time a suitability network against the same network in PyTorch."""

    network: Network = Network.RELEASED
    """network that is timed, with random weights"""
    batches: tuple[int, ...] = (1,)
    """clips that a device scores at a time; on a CPU each core is one"""
    frames: int | None = None
    """frames of a clip; by default the network's own, 32 at full size"""
    size: int | None = None
    """rows and columns of a clip; by default the network's own, 224 at full size"""
    seconds: float = 1.0
    """seconds of each of five turns: as many batches as fill it, dispatched one after another"""
    compiled: bool | None = None
    """run PyTorch through torch.compile; by default on a GPU only"""
    autocast: bool = True
    """on a GPU, PyTorch's weights are float32 and autocast computes in bfloat16; without, its whole network is bfloat16"""
    json: str | None = None
    """also write the figures here"""

    def __post_init__(self):
        refuse(self, {COUNT: "batches", POSITIVE: "seconds"})
        adaptive_window(self.video)

    @property
    def model(self) -> VideoScorerConfig | SuitabilityConfig:
        return self.network.config(SuitabilityConfig.labels).network

    @property
    def video(self) -> Size:
        """(T, H, W) of a clip."""
        own = self.network.config(SuitabilityConfig.labels).fragments
        size = own.size if self.size is None else self.size
        return own.frames if self.frames is None else self.frames, size, size


Batch = tuple[UInt8[np.ndarray, "B T H W 3"], UInt8[np.ndarray, "B h w 3"], Float[np.ndarray, "B M"] | None]


def batch_of(args: Args, clips: int) -> Batch:
    """Random clips of any contrast, pictures and, where the network takes some, sub-metrics."""
    rng = np.random.default_rng(0)
    top = rng.integers(64, 257, (clips, 1, 1, 1, 1))
    labels = rng.standard_normal((clips, args.model.labels), np.float32) if isinstance(args.model, SuitabilityConfig) else None
    return rng.integers(0, top, (clips, *args.video, 3), np.uint8), rng.integers(0, top[:, 0], (clips, IMAGE, IMAGE, 3), np.uint8), labels


def random_weights(config: VideoScorerConfig | SuitabilityConfig) -> nnx.Module:
    """A network with random weights all through: one that training starts from has branches that do nothing, on which any two writings agree."""
    abstract, rng = ScorerConfig(config).abstract(), np.random.default_rng(1)
    table = {name: SPREAD * rng.standard_normal(leaf.shape, np.float32) + name.endswith(".scale") for name, leaf in named(abstract).items()}
    return renamed(abstract, table)


def flops(args: Args) -> int:
    """Of the matrix products and convolutions that one clip needs, as torch counts them in its writing."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from koala_jax.tsa.torch_twin import TorchPredictor, twin

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        TorchPredictor(twin(args.model, args.video))(*(x if x is None else torch.empty(x.shape) for x in batch_of(args, 1)))
    return counter.get_total_flops()


def contestants(args: Args, on: jax.sharding.Mesh, device, compiled: bool) -> tuple[Predictor, Callable]:
    """Both, with the same weights: ours as `koala_jax.score` has it, and PyTorch's, which takes the same batches as tensors."""
    import torch

    from koala_jax.tsa.torch_twin import TorchPredictor, twin

    model = jax.device_put(random_weights(args.model), NamedSharding(on, PartitionSpec()))
    ours = Predictor(model, on)
    network = twin(args.model, args.video).eval()
    network.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in to_official(jax.device_get(named(model))).items()})
    low = ours.dtype == jnp.bfloat16
    peer = TorchPredictor(network.to(torch.bfloat16) if low and not args.autocast else network).to(device)
    peer = torch.compile(peer, dynamic=False) if compiled else peer

    @torch.inference_mode()
    def theirs(batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=low and args.autocast):
            return peer(*batch)

    return ours, theirs


def timed(args: Args, ours: Predictor, theirs: Callable, device, clips: int) -> dict:
    """The figures of so many clips, over all devices."""
    import torch

    batch = batch_of(args, clips)
    tensors = [x if x is None else torch.from_numpy(x).to(device) for x in batch]
    batch = jax.device_put(batch, ours.sharding)
    mine, their = np.asarray(ours.scores(*batch)), theirs(tensors).float().cpu().numpy()
    a, b = race_calls(lambda: ours.scores(*batch), lambda: theirs(tensors), args.seconds, device)
    return {
        "batch": clips, "ours_s": a.wall, "torch_s": b.wall, "ours_cpu_s": a.cpu, "torch_cpu_s": b.cpu,
        "ratio": b.seconds / a.seconds, "ratios": sorted(y / x for x, y in zip(a.wall, b.wall)),
        "apart": float(np.abs(mine - their).max() / np.abs(their).max()),
    }  # fmt: skip


def measure(args: Args, tell: Callable[[dict], None]) -> dict:
    """All figures, as they go to --json; `tell` hears of each batch.

    Raises:
      ValueError: no torch, or one that cannot use jax's device.
    """
    mesh.use_cores(MOST_CORES)
    mesh.start(args)
    device = torch_device()
    on = mesh.build(devices=jax.devices()[: None if device.type == "cpu" else 1])
    compiled = device.type == "cuda" if args.compiled is None else args.compiled
    kind, found = jax.devices()[0].device_kind, []
    with jax.set_mesh(on):
        ours, theirs = contestants(args, on, device, compiled)
        product = race(matmuls(ours.dtype, PRODUCT, device), 3)[0] if device.type == "cpu" else None
        for each in args.batches:
            found.append(timed(args, ours, theirs, device, each * on.size))
            tell(found[-1])
    low = ours.dtype == jnp.bfloat16
    name = ("torch.compile" if compiled else "torch, eager") + (", autocast" if low and args.autocast else "")
    return {
        "network": args.network.value, "video": list(args.video), "dtype": ours.dtype.name, "device": kind, "threads": cores(),
        "cores_had": product and product.cores, "torch": name, "clip_flops": flops(args),
        "peak_bf16_flops": PEAK_BF16.get(kind) if low else None, "batches": found,
    }  # fmt: skip


def table(found: dict) -> Table:
    """The figures, two rows a batch."""
    peak, cpu = found["peak_bf16_flops"], found["device"] == "cpu"
    per, unit = (1e9, "GFLOP/s") if cpu else (1e12, "TFLOP/s")
    title = f"{found['network']}, clips of {'×'.join(map(str, found['video']))}, {found['dtype']}, {found['device']}"
    shown = Table("batch", "", box=None, padding=(0, 2, 0, 0), title=title + (f", {found['threads']} threads" if cpu else ""))
    for column in ("ms a clip", "CPU ms", "clips/s", unit, *([f"of {peak / per:.0f}"] if peak else [])):
        shown.add_column(column, justify="right")
    for row in found["batches"]:
        for name, side in (("ours", "ours"), (found["torch"], "torch")):
            seconds, cpu = (statistics.median(row[side + kind]) / row["batch"] for kind in ("_s", "_cpu_s"))
            speed = found["clip_flops"] / seconds
            figures = f"{seconds * 1e3:,.2f}", f"{cpu * 1e3:,.2f}", f"{1 / seconds:,.2f}", f"{speed / per:.3g}", *([f"{speed / peak:.0%}"] if peak else [])
            shown.add_row(str(row["batch"]), name, *figures)
    return shown


def told(row: dict) -> str:
    """What came out of one size of batch."""
    low, *_, high = row["ratios"]
    fast = f"ours is {row['ratio']:.2f} times as fast (medians; rounds from {low:.2f} to {high:.2f})"
    return f"{row['batch']} at a time: {fast}; largest difference of a score {row['apart']:.1e} of the largest"


def main(argv: list[str]) -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with torch here
    args, console = cli.parse(Args, argv, "koala_jax.tsa.benchmark"), cli.console()
    found = measure(args, lambda row: console.print(told(row)))
    console.print(table(found))
    if warning := unfair(found["cores_had"], found["threads"]):
        console.print(warning)
    console.save(args.json, found)


if __name__ == "__main__":
    cli.run(main)
