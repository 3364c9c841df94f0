"""Slices by name: `v5p:4x4x4` (chips along each dim), `v5p-128` (as Cloud TPU counts), `2*v5e:16x16` (several slices).

Names with a number count TensorCores for v4, v5p and tpu7x, two a chip, and chips for v5e and v6e.
"""
import dataclasses
import functools
import math
import os
import re

from core_jax.chips import CHIPS, Chip

ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v7x": "tpu7x"}
NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
"""environment in which libtpu does not look for a TPU to run on and does not warn that there is none; what is compiled does not depend on it"""


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips that the interconnect joins, `slices` times over, joined by the data centre's network."""

    chip: Chip
    shape: tuple[int, ...]
    """chips along each dim of the torus"""
    slices: int = 1

    def __str__(self) -> str:
        one = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        return one if self.slices == 1 else f"{self.slices}*{one}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def closed(self) -> tuple[bool, ...]:
        """Which dims close to rings: of a 3-D slice all, if it is made of whole cubes of 4×4×4; of a 2-D one those of 16 (a whole pod)."""
        if self.chip.torus == 3:
            return (all(size % 4 == 0 for size in self.shape),) * 3
        return tuple(size == 16 for size in self.shape)

    def devices(self) -> list:
        """jax's devices of this slice, which need not be there. Needs libtpu, which holds the compiler.

        Raises:
          ValueError: there is no libtpu.
        """
        return list(_devices(self))


@functools.lru_cache(maxsize=None)
def _devices(which: Slice) -> tuple:
    for name, value in NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options = {"chip_config_name": which.chip.config} if which.chip.config else {}
    if which.slices > 1:
        options["num_slices"] = which.slices
    if math.prod(which.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # libtpu takes a host to have 2×2
    name = f"{which.chip.name}:{'x'.join(map(str, which.shape))}"
    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:  # jax raises what the plug-in raises, of no common type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        install = "pip install 'videogen-jax[tpu]', or 'jax[tpu]': the libtpu that belongs to this jax"
        raise ValueError(f"libtpu, which holds the TPU compiler, does not give {which}: {reason} ({install})") from error


def shape_of(chip: Chip, chips: int) -> tuple[int, ...] | None:
    """The shape that Cloud TPU gives to this many chips: as near a square or a cube as powers of two allow; None where there is none."""
    power = chips.bit_length() - 1
    if chips != 1 << power or chips > chip.largest or power == 1:
        return None
    base, rest = divmod(power, chip.torus)
    shape = tuple(2 ** (base + (i >= chip.torus - rest)) for i in range(chip.torus))
    return (2, 2, 1) if shape == (1, 2, 2) else shape


def known(chip: Chip) -> list[str]:
    """The chip's slices by their numbers."""
    sizes = [2**power for power in range(chip.largest.bit_length()) if shape_of(chip, 2**power)]
    return [f"{chip.name}-{size * chip.counted}" for size in sizes]


def parse(name: str) -> Slice:
    """The slice of this name.

    Raises:
      ValueError: there is none.
    """
    match = re.fullmatch(r"(?:(\d+)\*)?([a-z0-9]+?)(?::(\d+(?:x\d+)*)|-(\d+))", name)
    chip = match and {chip.name: chip for chip in CHIPS}.get(ALIASES.get(match[2], match[2]))
    if not chip or match[1] and int(match[1]) < 1:
        examples = "; ".join(f"{known(chip)[0]} … {known(chip)[-1]}" for chip in CHIPS)
        raise ValueError(f"no TPU slice named {name!r}; there are {examples}, shapes such as v5p:4x4x4 or v5e:16x16, and several such as 2*v5e:16x16")
    if match[3]:
        shape = tuple(map(int, match[3].split("x")))
        size = math.prod(shape)
        whole_hosts = size == 1 or (size > 0 and shape[0] % 2 == 0 and shape[1] % 2 == 0 if len(shape) > 1 else False)
        if len(shape) != chip.torus or not whole_hosts or size > chip.largest:
            rule = "AxB" + "xC" * (chip.torus - 2)
            raise ValueError(f"{name!r}: a {chip.name} slice has {rule} chips, A and B even, {chip.largest} at most in all, or is a single one")
    else:
        counted = int(match[4])
        shape = None if counted % chip.counted else shape_of(chip, counted // chip.counted)
        if shape is None:
            what = "TensorCores" if chip.counted == 2 else "chips"
            raise ValueError(f"no slice {name!r}; {chip.name} counts {what}: {', '.join(known(chip))}")
    return Slice(chip, shape, int(match[1] or 1))
