"""How well the TPU compiler scheduled a kernel, read from its final program; no TPU is needed.

libtpu can write the final VLIW program of every kernel, one bundle a cycle when nothing stalls. What one step of a kernel's grid
executes is put together from the program's own branches:

- a loop inside the step counts as often as its exit test says. One that ends only as it runs counts as often as the caller says if it
  multiplies matrices, and once if not: it copies a part of a tile within vector memory;
- a region that a branch may jump over (`pl.when`) and that multiplies matrices counts as often as the caller says, once if he says
  nothing; one that starts or awaits copies counts once, though most steps need less; any other starts or ends an accumulator
  and counts 1/sweep, once every `sweep` steps;
- the rest of the loop over the grid counts once. What stands before and behind that loop runs once a call and does not count.

Waits for copies (DMA) are not in it: the count is a lower bound of the cycles.
"""
import dataclasses
import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax

_LINE = re.compile(r"^ *(?:0x[0-9a-f]+|0) +(?:[A-Z]{2})? *: *[> ]*\{", re.MULTILINE)
_BRANCH = re.compile(r"sbr\.rel (?:.*?) target = \$region(\d+)")
_START = re.compile(r"Start(?:/End empty)? region (\d+)")
_END = re.compile(r"End region (\d+)")
_EXIT = re.compile(r"= scmp\.ge\.s32\.totalorder (%s\d+)\S*, (\d+) /\* loop exit test")
_VMEM = re.compile(r"space=vmem, size = (0x[0-9a-f]+)")


@dataclasses.dataclass(frozen=True)
class TensorCore:
    """The matrix units of one TensorCore, as programs show them.

    One `vmatmul` multiplies 16 rows of bf16 with a `side`×`side` tile of weights and keeps its unit busy for `cycles`. The products a
    cycle that follow, units · 16 · side² / cycles, are half the FLOPs a cycle that the datasheets' peaks are at the chips' clocks:
    65,536 on v5e and v5p (a TensorCore), 262,144 on v6e and tpu7x (a TensorCore).
    """

    topology: str
    """a small slice, for `topologies.get_topology_desc`"""
    units: int
    side: int
    cycles: int
    delay: int
    """bundles behind a branch that run whether it is taken or not"""
    cores: int = 1
    """that make one device"""

    @property
    def flops(self) -> float:
        """FLOPs a cycle at peak, bf16."""
        return 2 * self.units * 16 * self.side**2 / self.cycles

    def floor(self, m: int, n: int, contracted: int) -> float:
        """Cycles that all units need for a product [m contracted] × [contracted n] in bf16. The contracted dim fills whole units (128 take
        as long as 256 where a side is 256); of m and n one is streamed and only the other fills units, whichever fits better."""
        rows = min(streamed * -(-held // self.side) for streamed, held in ((m, n), (n, m)))
        return rows / 16 * -(-contracted // self.side) * self.cycles / self.units


TENSOR_CORES = {
    "v5e": TensorCore("v5e:2x2", units=4, side=128, cycles=16, delay=4),
    "v5p": TensorCore("v5p:2x2x1", units=4, side=128, cycles=16, delay=4, cores=2),
    "v6e": TensorCore("v6e:2x2", units=2, side=256, cycles=8, delay=4),
    "tpu7x": TensorCore("tpu7x:2x2x1", units=2, side=256, cycles=8, delay=6),
}


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a stretch of program executes."""

    bundles: float = 0
    matmuls: float = 0
    """`vmatmul` instructions of 16 rows; two of those that v5e and v5p transpose on the way (`lmr`) make one"""
    spills: float = 0
    """vector registers stored to memory, or loaded back, because there were too few of them"""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.bundles + other.bundles, self.matmuls + other.matmuls, self.spills + other.spills)

    def __mul__(self, times: float) -> "Counts":
        return Counts(self.bundles * times, self.matmuls * times, self.spills * times)


@dataclasses.dataclass
class Region:
    """Bundles from start up to stop: a loop, or what a branch may jump over. Its trips are None where only the caller knows them."""

    start: int
    stop: int
    trips: int | None
    loop: bool = False
    own: Counts = Counts()
    """of the bundles that lie in no region inside this one"""
    copying: bool = False
    inner: list["Region"] = dataclasses.field(default_factory=list)

    def multiplies(self) -> bool:
        return self.own.matmuls > 0 or any(region.multiplies() for region in self.inner)

    def copies(self) -> bool:
        return self.copying or any(region.copies() for region in self.inner)

    def executed(self, sweeps: list[int], runs: list[float]) -> Counts:
        """One pass. In program order, each region of unknown trips with matrix products of its own takes the first of `runs`, and each that
        starts or ends an accumulator the first of `sweeps`, of which the last one stays for all that follow."""
        total = self.own
        for region in self.inner:
            if region.trips is not None:
                times = region.trips
            elif region.own.matmuls:
                if region.loop and not runs:
                    raise ValueError(f"a loop of {region.stop - region.start} bundles in the compiler's dump has no constant number of trips")
                times = runs.pop(0) if runs else 1
            elif region.copies() or region.multiplies():
                times = 1
            else:
                times = 1 / (sweeps.pop(0) if len(sweeps) > 1 else sweeps[0])
            total += region.executed(sweeps, runs) * times
        return total


@dataclasses.dataclass(frozen=True)
class Program:
    """One kernel's final program."""

    whole: Region
    vmem_bytes: int
    """all vector memory that it allocates: windows, scratch, spilled registers"""

    def step(self, sweeps: tuple[int, ...] = (1,), runs: tuple[float, ...] = ()) -> Counts:
        """What one step of the grid executes on average (see the module); without a loop over the grid, one call.

        Raises:
          ValueError: a loop multiplies, and neither its exit test nor `runs` says how often.
        """
        loops = [region for region in self.whole.inner if region.trips is not None and region.multiplies()]
        return (loops[0] if loops else self.whole).executed(list(sweeps), list(runs))


def parse(bundles: str, utilization: str, delay: int) -> Region:
    """The program of a `*-final_bundles.txt` and its `*-final_hlo-static-per-bundle-utilization.txt`.

    Raises:
      ValueError: the two do not have equally many bundles, or a branch leads nowhere.
    """
    starts = [match.start() for match in _LINE.finditer(bundles)]
    lines = [bundles[start:stop] for start, stop in zip(starts, [*starts[1:], len(bundles)])]
    spills = _spills(utilization)
    if not lines or len(lines) != len(spills):
        raise ValueError(f"the compiler's dump has {len(lines)} bundles, but the slots of {len(spills)}")
    at = {int(region): i for i, line in enumerate(lines) for region in _START.findall(line)}
    at_the_end = {int(region) + 1 for region in _END.findall("".join(lines[-2:]))}  # what follows them has no bundles
    whole = Region(0, len(lines), None)
    regions = []
    for i, line in enumerate(lines):
        for target in map(int, _BRANCH.findall(line)):
            if target not in at and target in at_the_end:
                continue  # out of the kernel: the other core of a chip does this part
            if target not in at:
                raise ValueError(f"bundle {i} branches to region {target}, which the dump does not have")
            if at[target] > i:
                regions.append(Region(min(i + 1 + delay, at[target]), at[target], None))
            else:
                stop = min(i + 1 + delay, len(lines))
                regions.append(Region(at[target], stop, _trips(lines[at[target] : stop]), loop=True))
    owner = [whole] * len(lines)
    for region in sorted(regions, key=lambda region: (region.start, -region.stop)):
        parent = owner[min(region.start, len(lines) - 1)]
        region.stop = min(region.stop, parent.stop)
        parent.inner.append(region)
        owner[region.start : region.stop] = [region] * (region.stop - region.start)
    for region, line, spilled in zip(owner, lines, spills):
        region.own += Counts(1, line.count("= vmatmul.") - line.count("= vmatmul.lmr.") / 2, spilled)
        region.copying |= "= dma." in line
    return whole


def _spills(utilization: str) -> list[int]:
    """Registers spilled and filled in each bundle."""
    _, names, _, _, *rows = utilization.splitlines()
    columns = [i for i, name in enumerate(names.split(",")) if name.strip() in ("VLOAD:FILL", "VSTORE:SPILL")]
    return [sum(int(row.split()[i]) for i in columns) for row in rows if row.strip()]


def _trips(lines: list[str]) -> int | None:
    """Trips of a loop: its exit test, the last one in it, compares a counter from 0 with a constant, after adding a constant. Where it
    does not, 1 if nothing is multiplied and None if something is."""
    text = "\n".join(lines)
    test = (_EXIT.findall(text) or [None])[-1]
    step = test and re.search(rf"{test[0]}\S* = sadd\.s32 (\d+),", text)
    if not step:
        return None if "= vmatmul" in text else 1
    return -(-int(test[1]) // int(step[1]))


def compile_and_read(compile: Callable, *args, chip: TensorCore) -> tuple[dict[str, list[Program]], object]:
    """Runs compile(*args) in a fresh process that dumps what the TPU compiler makes; the Pallas kernels by their names, and its result.

    `compile` must be importable (not from `__main__`) and compile for `chip` (`topologies.get_topology_desc`). libtpu reads its flags
    once, when it is loaded, hence the process. The persistent cache, which would leave nothing to dump, is off in it.

    Raises:
      ValueError: the compiler refuses the program, with its reason.
    """
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="schedule_") as folder, ProcessPoolExecutor(1, spawn, _dump_to, (folder,)) as fresh:
        result, refusal = fresh.submit(_guarded, compile, args).result()
        if refusal:
            raise ValueError(f"the TPU compiler refuses {args}: {refusal}")
        return _read(Path(folder), chip), result


def _dump_to(folder: str) -> None:
    """In the fresh process: what is set before libtpu is loaded. What libtpu says about missing hardware goes nowhere."""
    flags = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} --xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "LIBTPU_INIT_ARGS": flags}
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _guarded(compile: Callable, args: tuple) -> tuple[object, str]:
    """The result or the first words of the error: the compiler's own errors do not travel between processes."""
    try:
        return compile(*args), ""
    except Exception as error:
        return None, (str(error).strip() or type(error).__name__).splitlines()[-1][:500]


def _read(folder: Path, chip: TensorCore) -> dict[str, list[Program]]:
    programs: dict[str, list[Program]] = {}
    for utilization in sorted(folder.glob("*-final_hlo-static-per-bundle-utilization.txt")):
        call, name = re.match(r"(\d+-(.+?)(?:\.\d+)?)-\d+-final", utilization.name).groups()
        (bundles,) = (path for path in folder.glob(f"{call}*-final_bundles.txt") if "schedule-analysis" not in path.name)
        text = bundles.read_text()
        if not re.search(rf"entry bundle: %{re.escape(name)}\S* = custom-call", text):
            continue
        allocated = next(folder.glob(f"{call}*-post-delay-converter.txt")).read_text()
        vmem = sum(int(size, 16) for size in _VMEM.findall(allocated))
        whole = parse(text, utilization.read_text(), chip.delay)
        programs.setdefault(name, []).append(Program(whole, vmem))
    return programs
