"""`python -m videodit_jax.benchmark_attention`: `core_jax.attention` on this GPU or CPU against torch's, forward and backward, in one run.

The same random numbers on both sides, in turns; torch's is `scaled_dot_product_attention`, which picks its kernel by itself. On a TPU
there is no torch to race: `python -m videodit_jax.kernel` compares our kernel there with jax's own.
"""
import dataclasses
import os
import statistics
from collections.abc import Callable

import jax
import numpy as np
from rich.table import Table

from core_jax import cli, mesh
from core_jax.attention import attention
from core_jax.chips import PEAK_BF16
from core_jax.numbers import COUNT, POSITIVE, refuse
from core_jax.race import Timing, race_calls, torch_device
from videodit_jax.config import Dtype


@dataclasses.dataclass(frozen=True)
class Args:
    """Time attention against PyTorch's."""

    seqs: tuple[int, ...] = (1024, 8192, 32_768)
    """sequence lengths, in tokens"""
    head_dims: tuple[int, ...] = (64, 128, 256)
    """head dims D"""
    tokens: int = 32_768
    """tokens of all clips together; short clips are batched to this number"""
    heads: int = 16
    """K, number of heads"""
    words: int = 512
    """keys of the cross-attention; a clip sees any number of them"""
    dtype: Dtype = Dtype.AUTO
    """dtype of the computation; auto: bfloat16 on a GPU, float32 on a CPU"""
    seconds: float = 0.1
    """seconds of each of five turns: as many calls as fill it, dispatched one after another"""
    json: str | None = None
    """also write the figures here"""

    def __post_init__(self):
        refuse(self, {COUNT: "seqs head_dims tokens heads words", POSITIVE: "seconds"})


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of call; q is (B, S, K, D)."""

    name: str
    q: tuple[int, int, int, int]
    keys: int
    causal: bool = False
    ragged: bool = False
    """a clip sees the first of its keys only"""

    @property
    def flops(self) -> float:
        """Of the two products that the forward pass needs; half of them where each query sees the keys before it."""
        B, S, K, D = self.q
        seen = float(self.lengths.sum()) if self.ragged else B * self.keys * (0.5 if self.causal else 1)
        return 4 * seen * S * K * D

    @property
    def lengths(self) -> np.ndarray:
        return np.random.default_rng(0).integers(1, self.keys + 1, self.q[0])


def cases(args: Args) -> list[Case]:
    made = []
    for D in args.head_dims:
        shapes = [(max(args.tokens // S, 1), S, args.heads, D) for S in args.seqs]
        made += [Case("self", q, q[1]) for q in shapes]
    B, S, K, D = shape = max(args.tokens // args.seqs[0], 1), args.seqs[0], args.heads, args.head_dims[0]
    return made + [Case("causal", shape, S, causal=True), Case("to text", shape, args.words, ragged=True)]


def timed(case: Case, dtype: Dtype, backward: bool, seconds: float) -> tuple[Timing, Timing, float]:
    """Ours, torch's, and how far they lie apart (largest difference over largest value)."""
    import torch
    import torch.nn.functional as F

    B, S, K, D = case.q
    device, lengths = torch_device(), case.lengths.astype(np.int32) if case.ragged else None
    kinds = zip(jax.random.split(jax.random.key(0), 4), (S, case.keys, case.keys, S))
    ours = [jax.random.normal(key, (B, n, K, D), dtype.jax) for key, n in kinds]
    *theirs, pull = (torch.from_dlpack(x).clone().transpose(1, 2) for x in ours)
    theirs = [x.requires_grad_(backward) for x in theirs]
    seen = None if lengths is None else (torch.arange(case.keys)[None] < torch.from_numpy(lengths)[:, None]).to(device)[:, None, None].expand(-1, 1, S, -1)

    def forward(q, k, v):
        return attention(q, k, v, kv_lengths=lengths, causal=case.causal)

    def gradients(q, k, v, weight):
        return jax.vjp(forward, q, k, v)[1](weight)

    step = jax.jit(gradients if backward else lambda q, k, v, weight: (forward(q, k, v),))

    def torch_step():
        out = F.scaled_dot_product_attention(*theirs, attn_mask=seen, is_causal=case.causal)
        return torch.autograd.grad(out, theirs, pull) if backward else (out,)

    timings = race_calls(lambda: step(*ours), torch_step, seconds, device)
    pairs = [(np.asarray(a, np.float32), b.detach().float().transpose(1, 2).cpu().numpy()) for a, b in zip(step(*ours), torch_step())]
    return *timings, max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def measure(args: Args, show: Callable[[dict], None]) -> dict:
    """All figures, as they go to --json; `show` is told of each case.

    Raises:
      ValueError: as `torch_device`.
    """
    torch_device()
    mesh.start(args)
    device, low, found = jax.devices()[0].device_kind, args.dtype.resolve() is Dtype.BFLOAT16, []
    for case in cases(args):
        for backward in (False, True):
            ours, theirs, apart = timed(case, args.dtype, backward, args.seconds)
            flops = case.flops * (3.5 if backward else 1)  # two products forward, five backward
            row = {
                "case": case.name, "q": list(case.q), "keys": case.keys, "pass": "both" if backward else "forward",
                "ours_s": ours.wall, "torch_s": theirs.wall, "flops": flops, "ratio": theirs.seconds / ours.seconds, "apart": apart,
            }  # fmt: skip
            found.append(row)
            show(row)
    return {"device": device, "dtype": args.dtype.resolve().value, "peak": PEAK_BF16.get(device) if low else None, "cases": found}


def table(found: dict) -> Table:
    """The figures, a row a case and pass."""
    share = found["peak"] is not None
    shown = Table("case", "q", "keys", "pass", box=None, padding=(0, 1, 0, 0), title=f"attention, {found['dtype']}, {found['device']}")
    for column in ("ours ms", "torch ms", "ratio", "TFLOP/s", *(["of peak"] if share else []), "apart"):
        shown.add_column(column, justify="right")
    for row in found["cases"]:
        ours, theirs = statistics.median(row["ours_s"]), statistics.median(row["torch_s"])
        speed = row["flops"] / ours
        figures = [f"{ours * 1e3:.3f}", f"{theirs * 1e3:.3f}", f"{row['ratio']:.2f}", f"{speed / 1e12:.3g}"]
        figures += [f"{speed / found['peak']:.0%}"] if share else []
        shown.add_row(row["case"], "×".join(map(str, row["q"])), str(row["keys"]), row["pass"], *figures, f"{row['apart']:.1e}")
    return shown


def main(argv: list[str]) -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with torch here
    args, console = cli.parse(Args, argv, "videodit_jax.benchmark_attention"), cli.console()
    found = measure(args, lambda row: console.print(f"{row['case']} {row['q']} {row['pass']}: {row['ratio']:.2f}"))
    console.print(table(found))
    console.save(args.json, found)


if __name__ == "__main__":
    cli.run(main)
