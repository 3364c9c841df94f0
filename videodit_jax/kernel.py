"""`python -m videodit_jax.kernel`: how well the TPU compiler schedules our attention kernel, and jax's two, on a machine without one.

Nothing is measured: the figures are read from the compiled programs. Counts are for each *pair*, 1024×1024 scores of a head that the call
asks for. A *bundle* is one instruction word of the TensorCore and takes a cycle if nothing stalls; padding to tiles, and the start and the end of
each row of tiles, are counted (videodit_jax/schedule.py says how). The *floor* is the cycles that the matrix units (MXU) need for the products, two
forward and five backward. Bundles below the floor mean that the matrix units limit the kernel and its program waits for them. *Peers* are jax's
own two kernels, flash and splash.
"""
import dataclasses
import hashlib
import importlib.metadata
import inspect
import itertools
import math
from pathlib import Path

from rich.table import Table

from core_jax import attention, cli
from core_jax.attention.tiles import Tile
from core_jax.files import refuse_unwritable, write_bytes
from core_jax.kept import kept
from core_jax.words import markdown
from videodit_jax import peers, schedule
from videodit_jax.peers import Call, Kernel, compile_call
from videodit_jax.schedule import TENSOR_CORES, Counts, Program, TensorCore, compile_and_read

SEARCH = Tile(1024, 1024), Tile(512, 2048), Tile(512, 1024)
"""The tiles that a peer chooses from, the best of them for each pass."""
LENGTHS = 75_600, 4_096, 32_768
HEAD_DIMS = 128, 64, 256
SHAPES = list(itertools.product(LENGTHS, HEAD_DIMS, TENSOR_CORES))
"""Of docs/kernel.md."""
PAIR = 1024 * 1024
BACKWARD = "bwd", "dkv", "dq", "backward"
"""One of these is in the name of every backward kernel."""
OURS = [Path(attention.__file__).with_name(f"{name}.py") for name in ("kernel", "pallas_forward", "pallas_backward", "geometry", "tiles", "mask", "softmax")]
"""The sources of our own kernel."""


@dataclasses.dataclass(frozen=True)
class Args:
    """Compile attention kernels for a TPU and report how well they are scheduled."""

    chip: str = "v5p"
    """v5e, v5p, v6e or tpu7x"""
    seq: int = 75_600
    """tokens; 81 frames of 720×1280 are 75,600 in the 14b preset"""
    head_dim: int = 128
    """head dim D"""
    table: str | None = None
    """write a Markdown table of all chips, lengths and head dims of docs/kernel.md to this file; takes hours, and finished rows are kept"""
    json: str | None = None
    """also write the figures here"""


def floors(chip: TensorCore, dim: int, scored: float = 1) -> dict[str, float]:
    """Cycles that the matrix units need for the products of a pair: s and pv; s, dp, dv, dk and dq. The forward pass may leave out scores
    past the last key; `scored` is its share of those of whole tiles."""
    scores, sums = chip.floor(1024, 1024, dim), chip.floor(1024, dim, 1024)
    return {"forward": scored * scores + sums, "backward": 2 * scores + 3 * sums}


def figures(call: Call) -> dict[str, dict]:
    """Both passes of one kernel, kept for the next time while its sources stay as they are (those of the peers are jax's own).

    Raises:
      ValueError: the compiler refuses the tile.
    """
    files, counts = (OURS, (Grid, _our_forward, _our_backward)) if call.kernel is Kernel.OURS else ((), (Grid, _peer))
    code = [Path(file).read_text() for file in (peers.__file__, schedule.__file__, *files)] + [inspect.getsource(f) for f in (_figures, *counts)]

    def make() -> dict:
        try:
            return _figures(call)
        except ValueError as error:
            return {"refused": str(error)}

    found = kept("kernels", f"{call}\n{hashlib.sha256(''.join(code).encode()).hexdigest()}", make)
    if "refused" in found:
        raise ValueError(found["refused"])
    return found


def _figures(call: Call) -> dict[str, dict]:
    chip = TENSOR_CORES[call.chip]
    programs, (tiles, around) = compile_and_read(compile_call, call, chip=chip)
    found = {}
    for name, tile, chunk in (("forward", tiles.forward, tiles.key_chunk), ("backward", tiles.backward, tiles.query_chunk)):
        mine = [p for key, group in programs.items() if any(x in key for x in BACKWARD) == (name == "backward") for p in group]
        rows, columns = -(-call.seq // tile.q), -(-call.seq // tile.k)
        tiles_a_pair = rows * columns / (call.seq**2 / PAIR)
        ours = call.kernel is Kernel.OURS
        count = (_our_forward if name == "forward" else _our_backward) if ours else _peer
        grid = Grid(rows, columns, call.seq % tile.q > 0, call.seq % tile.k > 0, chunk, chip.cores)
        executed = sum((count(program, grid) for program in mine), Counts()) * tiles_a_pair
        bundles, multiplying = executed.bundles, executed.matmuls * chip.cycles / chip.units
        least = floors(chip, call.dim, call.seq / (columns * tile.k))[name] * tile.q * tile.k / PAIR * tiles_a_pair
        if ours and multiplying < 0.99 * least:
            raise ValueError(f"{name}: {multiplying:.0f} cycles of products were found in the program, and {least:.0f} are needed: its loops were misread")
        products = 2 if name == "forward" else 5
        found[name] = {
            "bundles": bundles,
            "around": around[name] / (call.seq**2 / PAIR),
            "mxu_busy": min(multiplying / bundles, 1),
            "peak_share": products * 2 * PAIR * call.dim / chip.flops / max(bundles, multiplying),
            "spills": executed.spills,
            "vmem_bytes": max(program.vmem_bytes for program in mine),
            "tiles": [tile.q, tile.k],
        }
    return found


@dataclasses.dataclass(frozen=True)
class Grid:
    """Rows of query tiles and columns of key tiles, whether the last of each are ragged, how many our kernel takes in a step, and the cores of
    a device."""

    rows: int
    columns: int
    ragged_rows: bool
    ragged_columns: bool
    chunk: int
    cores: int


def _peer(program: Program, grid: Grid) -> Counts:
    """What a tile executes. Their programs have no region with products that some tiles skip."""
    return program.step((min(grid.rows, grid.columns),))


def _our_forward(program: Program, grid: Grid) -> Counts:
    """Rows come in runs, one a core. A run's first tile only makes scores; it has one row more, whose first step only weighs the last values
    and whose others do nothing."""
    rows, columns = grid.rows, grid.columns
    runs = math.gcd(rows, grid.cores)
    steps = (rows + runs) * -(-columns // grid.chunk)
    masked = (rows if columns > 1 else rows - runs) if grid.ragged_columns else 0
    interior = rows * columns - runs - masked
    times = (runs, interior, masked, runs) if grid.ragged_columns else (runs, interior, runs)
    return program.step((columns,), tuple(n / steps for n in times)) * (steps / (rows * columns))


def _our_backward(program: Program, grid: Grid) -> Counts:
    """What belongs to keys begins and ends once a column of tiles, what belongs to queries once a row. Where that is every step, the compiler
    knows it, and also where no row has an interior tile."""
    rows, columns, chunks = grid.rows, grid.columns, -(-grid.rows // grid.chunk)
    steps = columns * chunks
    interior = (rows - grid.ragged_rows) * (columns - grid.ragged_columns)
    times = [interior] * (rows > grid.ragged_rows) + [rows * columns - interior] * (grid.ragged_rows or grid.ragged_columns)
    keys, queries = [chunks] * (chunks > 1), [columns] * (columns > 1)
    return program.step((*keys, *queries, *queries, *keys, 1), tuple(n / steps for n in times)) * (steps / (rows * columns))


def whole(figure: dict) -> float:
    """What a pair takes, padding and copies counted."""
    return figure["bundles"] + figure["around"]


def compare(chip: str, seq: int, dim: int, progress=lambda words: None) -> dict[str, dict]:
    """The figures of all kernels at one shape, as they go to --json: `forward` and `backward`.

    Raises:
      ValueError: an unknown chip, or a length or head dim that is not positive.
    """
    if chip not in TENSOR_CORES:
        raise ValueError(f"unknown chip {chip!r}; known are {', '.join(TENSOR_CORES)}")
    if seq < 1 or dim < 1:
        raise ValueError(f"--seq {seq} and --head-dim {dim} must be at least 1")
    progress(f"{chip}, {seq:,} tokens, head dim {dim}: ours")
    kernels: dict[Kernel, list[dict]] = {Kernel.OURS: [figures(Call(chip, seq, dim, Kernel.OURS))]}
    for kernel in (Kernel.FLASH, Kernel.SPLASH):
        kernels[kernel] = []
        for tile in SEARCH:
            progress(f"{chip}, {seq:,} tokens, head dim {dim}: {kernel.value}, tile {tile.q}×{tile.k}")
            try:
                kernels[kernel].append(figures(Call(chip, seq, dim, kernel, tile)))
            except ValueError as error:
                progress(str(error))
    result = {}
    for name, floor in floors(TENSOR_CORES[chip], dim).items():
        best = {kernel: min((f[name] for f in found), key=whole, default=None) for kernel, found in kernels.items()}
        peers = [whole(best[kernel]) for kernel in (Kernel.FLASH, Kernel.SPLASH) if best[kernel]]
        result[name] = {kernel.value: figure for kernel, figure in best.items()} | {
            "floor": floor,
            "ratio_to_best_peer": whole(best[Kernel.OURS]) / min(peers) if peers else None,
            "ratio_to_floor": best[Kernel.OURS]["bundles"] / floor,
        }
    return {"chip": chip, "seq": seq, "head_dim": dim} | result


COLUMNS = {
    "bundles": "bundles a pair; at the floor, cycles",
    "around": "cycles a pair of the operations outside the kernel, which pad, transpose or sum up partial results, by the compiler's estimate",
    "MXU": "share of the time that the matrix units are busy",
    "peak": "share of the chip's peak FLOP/s that the kernel can reach at most",
    "spills": "registers spilled and filled a pair",
    "MiB": "vector memory that the kernel takes",
    "tile": "queries × keys of a tile",
    "/peer": "bundles and around, over the same of the better peer",
    "/floor": "bundles over the floor",
}
HEADS = "pass", "kernel", *COLUMNS


def rows(result: dict) -> list[tuple[str, ...]]:
    """A line for each pass and kernel, as HEADS."""
    lines = []
    for name in ("forward", "backward"):
        found = result[name]
        for kernel in Kernel:
            if (f := found[kernel.value]) is None:
                lines.append((name, kernel.value, "refused", *[""] * (len(HEADS) - 3)))
                continue
            peer = found["ratio_to_best_peer"] if kernel is Kernel.OURS else None
            lines.append((
                name, kernel.value, f"{f['bundles']:,.0f}", f"{f['around']:,.0f}", f"{f['mxu_busy']:.0%}", f"{f['peak_share']:.0%}",
                f"{f['spills']:,.0f}", f"{f['vmem_bytes'] / 2**20:.0f}", "×".join(map(str, f["tiles"])), f"{peer:.2f}" if peer else "",
                f"{f['bundles'] / found['floor']:.2f}",
            ))  # fmt: skip
        lines.append((name, "floor", f"{found['floor']:,.0f}", *[""] * (len(HEADS) - 3)))
    return lines


def page(results: list[dict]) -> str:
    """The page of all shapes."""
    lines = ["# Attention kernels as the TPU compiler schedules them", "", *__doc__.splitlines()[2:], ""]
    lines += [markdown(("column", "what"), *COLUMNS.items())]
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu"))
    made = "" if len(results) == len(SHAPES) else f", {len(results)} of {len(SHAPES)} shapes so far: the same command goes on"
    lines += [f"Made by `python -m videodit_jax.kernel --table docs/kernel.md`{made}; bf16, {libraries}. Peers take the best tile of "
              + ", ".join(f"{tile.q}×{tile.k}" for tile in SEARCH) + ".", ""]  # fmt: skip
    of_all = ((result["chip"], f"{result['seq']:,}", str(result["head_dim"]), *row) for result in results for row in rows(result))
    return "\n".join([*lines, markdown(("chip", "tokens", "D", *HEADS), *of_all)])


def main(argv: list[str]) -> None:
    args = cli.parse(Args, argv, "videodit_jax.kernel")
    console = cli.console()
    if args.table:
        refuse_unwritable("--table", args.table)
    shapes = SHAPES if args.table else [(args.seq, args.head_dim, args.chip)]
    results = []
    with console.status("") as status:
        tell = status.update if console.is_terminal else console.print  # in a log a line for each of many compilations
        for seq, dim, chip in shapes:
            results.append(compare(chip, seq, dim, tell))
            if args.table:
                write_bytes(args.table, page(results).encode())
    for result in results:
        table = Table(*HEADS, box=None, padding=(0, 1, 0, 0), title=f"{result['chip']}, {result['seq']:,} tokens, head dim {result['head_dim']}, bf16")
        for row in rows(result):
            table.add_row(*row)
        console.print(table)
    console.print("; ".join(f"{name}: {what}" for name, what in COLUMNS.items()), style="dim")
    if args.table:
        console.print(f"wrote {args.table}")
    console.save(args.json, results if args.table else results[0])
    console.print("what a whole step needs on a slice: python -m videodit_jax.plan --help")


if __name__ == "__main__":
    cli.run(main)
