"""Reading a compiled program's text (`compiled.as_text()`): which instructions run, how often, and what they move.

XLA's text format: https://openxla.org/xla/terminology and operation_semantics. The instructions of a TPU program stand in the order
in which they are issued.
"""
import dataclasses
import math
import re
from collections.abc import Iterator

from core_jax.chips import Chip

_HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s([a-z][a-z0-9-]*)\(")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_NAME = re.compile(r"%([\w.\-]+(?:#\d+)?)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_UNKNOWN = 2**63 - 1
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    arguments: str
    """what stands between the parentheses: operands, a constant's value, a parameter's number"""
    attributes: str
    root: bool

    @property
    def told(self) -> int:
        """Cycles by the compiler's estimate: 0 where it gives none, 2⁶³−1 where it does not know (copies from layout to layout on tpu7x)."""
        match = _CYCLES.search(self.attributes)
        return int(match[1]) if match else 0

    def cycles(self, chip: Chip) -> float:
        """As told, or what reading and writing its bytes takes."""
        return 2 * size(self.type) / chip.hbm_bandwidth * chip.clock if self.told == _UNKNOWN else self.told

    @property
    def op_name(self) -> str:
        """Where in the traced function it came from."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    def called(self, attribute: str = "") -> str | None:
        """The computation that it calls, by this attribute (body, condition) or by any of those that mean one call."""
        match = re.search(attribute + r"=%([\w.\-]+)", self.attributes) if attribute else _CALLED.search(self.attributes)
        return match[1] if match else None


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Place:
    """One instruction as it runs."""

    instruction: Instruction
    computation: str
    """the body that it is issued in: fusions have none of their own"""
    index: int
    """its place there, or that of the fusion that it lies in"""
    times: int
    """how often it runs: the product of the trip counts around it"""
    home: str
    """the computation that it is written in"""

    def cycles(self, chip: Chip) -> float:
        """Of all times that it runs; a fusion's cycles cover what lies in it."""
        return self.instruction.cycles(chip) * self.times if self.home == self.computation else 0.0


@dataclasses.dataclass(frozen=True)
class Program:
    computations: dict[str, Computation]
    entry: str

    def places(self) -> Iterator[Place]:
        """Every instruction that runs, loops once with their trip count, those inside fusions included."""

        def walk(name: str, times: int, issued: tuple[str, int] | None) -> Iterator[Place]:
            for index, instruction in enumerate(self.computations[name].values()):
                at = issued or (name, index)
                yield Place(instruction, *at, times, name)
                if instruction.opcode == "while":
                    yield from walk(instruction.called("body"), times * self.trips(instruction, name), None)
                elif instruction.opcode in ("fusion", "async-start") and instruction.called():
                    yield from walk(instruction.called(), times, at)
                elif instruction.opcode == "call":
                    yield from walk(instruction.called(), times, None)
                elif instruction.opcode == "conditional":
                    for branch in _NAME.findall(instruction.attributes.split("computations={", 1)[-1].split("}")[0]):
                        yield from walk(branch, times, None)

        return walk(self.entry, 1, None)

    def trips(self, loop: Instruction, home: str) -> int:
        """How often a while loop turns: its counter runs from a constant to a constant. One that may end sooner counts as often as it may
        turn, one of another kind once."""
        condition, body = (self.computations[loop.called(name)] for name in ("condition", "body"))
        root = next(x for x in condition.values() if x.root)
        if root.opcode == "fusion":  # compare(counter, end), seen through the fusion
            fused = self.computations[root.called()]
            inner = next(x for x in fused.values() if x.root)
            root = dataclasses.replace(inner, operands=tuple(_through(fused, x, root.operands) for x in inner.operands))
        if root.opcode == "and":
            root = next((condition[x] for x in root.operands if condition[x].opcode == "compare"), root)
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return 1
        counter, end = root.operands
        shift = 0
        if counter in condition and condition[counter].opcode == "add":
            counter, by = condition[counter].operands
            shift = self._constant(loop.called("condition"), by) or 0
        index = _tuple_index(condition, counter)
        start = _operand_of_tuple(self.computations[home], loop.operands[0], index)
        after = _operand_of_tuple(body, next(x.name for x in body.values() if x.root), index)
        first, last = self._constant(home, start), self._constant(loop.called("condition"), end)
        if last is None:
            return 1
        step = next((c for x in (body[after].operands if after else ()) if (c := self._constant(loop.called("body"), x))), 1)
        return max(-(-(last - shift - (first or 0)) // step), 0)

    def _constant(self, home: str, name: str | None) -> int | None:
        instruction = self.computations[home].get(name) if name else None
        while instruction and instruction.opcode in ("copy", "copy-done", "copy-start", "bitcast", "convert"):
            instruction = self.computations[home].get(instruction.operands[0])
        if instruction and instruction.opcode == "constant" and re.fullmatch(r"-?\d+", instruction.arguments):
            return int(instruction.arguments)
        return None


def _through(fused: Computation, name: str, outer: tuple[str, ...]) -> str:
    """A parameter of a fusion as the operand that it stands for."""
    return outer[int(fused[name].arguments)] if fused[name].opcode == "parameter" else name


def _tuple_index(computation: Computation, name: str) -> int | None:
    instruction = computation.get(name)
    match = instruction and instruction.opcode == "get-tuple-element" and re.search(r"index=(\d+)", instruction.attributes)
    return int(match[1]) if match else None


def _operand_of_tuple(computation: Computation, name: str, index: int | None) -> str | None:
    made = computation.get(name)
    return made.operands[index] if made and made.opcode == "tuple" and index is not None else None


def parse(text: str) -> Program:
    """The program of a text.

    Raises:
      ValueError: there is no entry computation in it.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            opcode = _OPCODE.search(match[3])
            if current is None or opcode is None:
                continue
            arguments, _, attributes = match[3][opcode.end() :].partition(")")
            operands = tuple(_NAME.findall(arguments))
            for name in operands:
                _unpack(name, current)
            current[match[2]] = Instruction(match[2], match[3][: opcode.start()], opcode[1], operands, arguments, attributes, bool(match[1]))
        elif match := _HEADER.match(line):
            current = computations[match[2]] = {}
            entry = match[2] if match[1] else entry
    if entry is None:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY computation")
    return Program(computations, entry)


def _unpack(name: str, computation: Computation) -> None:
    """Where an operand is an element of a tuple, as newer texts write it (%tuple#2), adds the instruction that older ones have for it."""
    whole, _, index = name.partition("#")
    if not index or name in computation or whole not in computation:
        return
    depth, parts = 0, [""]
    for letter in computation[whole].type.strip().removeprefix("(").removesuffix(")"):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    computation[name] = Instruction(name, parts[int(index)].strip(), "get-tuple-element", (whole,), f"%{whole}", f", index={index}", False)


def shapes(type_: str) -> list[tuple[str, tuple[int, ...]]]:
    """(element type, dims) of each array in a type, tuples flattened."""
    return [(kind, tuple(map(int, dims.split(","))) if dims else ()) for kind, dims in _ARRAY.findall(type_)]


def size(type_: str) -> int:
    """Bytes of all arrays in a type, without padding to tiles."""
    return sum(_bits(kind) * math.prod(dims) // 8 for kind, dims in shapes(type_))


def _bits(kind: str) -> int:
    if kind in ("pred", "token"):
        return 8 if kind == "pred" else 0
    return int(re.search(r"\d+", kind)[0])
