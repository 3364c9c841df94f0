"""Compiling a step for devices that need not be there: the program, or by how much it does not fit."""
import dataclasses
import importlib.metadata
import math
import re
import tempfile

import jax
from etils import epath

from core_jax.chips import GIB
from core_jax.kept import kept
from core_jax.pod import hlo


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program that fits. Bytes are those of one device."""

    text: str
    arguments: int
    outputs: int
    allocated: int
    """arguments, outputs that do not take the place of an argument, and the heap of all else, as the compiler lays them out in HBM"""
    code: int

    @property
    def bytes(self) -> int:
        return self.allocated + self.code


@dataclasses.dataclass(frozen=True)
class Misfit:
    """A program that does not fit, in bytes of one device as the compiler says them."""

    needed: int
    available: int

    @classmethod
    def read(cls, message: str) -> "Misfit | None":
        """From the compiler's words; None where they are about something else."""
        match = re.search(r"\(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)", message)
        match = match or re.search(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", message)
        if not match:
            return None
        needed, available = (int(float(match[i]) * 1024 ** " KMGT".index(match[i + 1] or " ")) for i in (1, 3))
        return cls(needed, available)

    def __str__(self) -> str:
        over = self.needed - self.available
        return f"needs {self.needed / GIB:.2f} GiB a device, {over / GIB:.2f} GiB more than the {self.available / GIB:.2f} GiB there are"


def compile(lowered: jax.stages.Lowered, name: str) -> Compiled | Misfit:
    """Compiles what `jax.jit(...).lower(...)` gives, or takes the result of an earlier time from beside jax's compilation cache.

    Args:
      name: the slice, the mesh and the compiler's options, which the lowered program does not name.

    Raises:
      RuntimeError: the compiler refuses the program for another reason than HBM.
    """
    table = kept("programs", f"{name}\n{lowered.as_text()}", lambda: dataclasses.asdict(_compile(lowered)))
    return (Compiled if "text" in table else Misfit)(**table)


def _compile(lowered: jax.stages.Lowered) -> Compiled | Misfit:
    kept_from = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)  # jax would write the program and fail to read it
    try:
        with tempfile.TemporaryDirectory() as folder:
            compiled = lowered.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
            # compiled.as_text() reads the program back by jaxlib's own definition of it, which a newer libtpu has left behind
            text = _largest(folder, "after_codegen")
            # libtpu 0.0.42's memory_analysis() counts the holes in the heap of a program with loops: 16.5 GiB for a layout of 12.5
            allocated = re.search(r"\(color=0\)\s+Total bytes: (\d+)", _largest(folder, "memory-usage-report"))
        if not (text and allocated):
            known = "0.0.42 and 0.0.50 write it so"
            raise RuntimeError(f"libtpu {importlib.metadata.version('libtpu')} does not write what it compiled in a form that is known here; {known}")
    except jax.errors.JaxRuntimeError as error:
        if misfit := Misfit.read(str(error)):
            return misfit
        raise RuntimeError(f"the TPU compiler refuses the program: {str(error).splitlines()[0]}") from error
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", kept_from)
    memory = compiled.memory_analysis()
    arguments, outputs, code = memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.generated_code_size_in_bytes
    return Compiled(text, arguments, outputs, int(allocated[1]), code)


def _largest(folder: str, kind: str) -> str:
    """What the compiler wrote of the largest program, nothing where it wrote none: small ones for constants may stand beside it."""
    largest = max(epath.Path(folder).glob(f"*{kind}.txt"), key=lambda file: file.stat().length, default=None)
    return largest.read_text() if largest else ""


def stacked(program: hlo.Program) -> tuple[int, int]:
    """Bytes of what the loops keep of each turn: (activations that the forward pass saves, gradients that the backward pass makes).

    Both are arrays whose first dim is the trip count and that the loop changes; jax names a backward loop "transpose(…)". What a
    program without loops keeps is not seen.
    """
    kept = [0, 0]
    for place in program.places():
        loop = place.instruction
        if loop.opcode != "while":
            continue
        body, turns = program.computations[loop.called("body")], program.trips(loop, place.home)
        made = next(x for x in body.values() if x.root)
        if made.opcode != "tuple" or turns < 2:
            continue
        for index, name in enumerate(made.operands):
            passed = body[name].opcode == "get-tuple-element" and f"index={index}," in body[name].attributes + ","
            dims = [dims for _, dims in hlo.shapes(body[name].type)]
            if not passed and len(dims) == 1 and len(dims[0]) > 2 and dims[0][0] == turns:
                kept["transpose(" in loop.op_name] += hlo.size(body[name].type)
    return kept[0], kept[1]
