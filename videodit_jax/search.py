"""Which mesh, remat policy and number of microbatches: candidates in the order of a cheap guess, so that few are compiled."""
import dataclasses
import enum
import itertools
from collections.abc import Callable
from typing import NamedTuple

from rich.table import Table

from core_jax import mesh
from core_jax.chips import GIB
from core_jax.mesh import AXES, MeshConfig
from core_jax.pod.plan import Plan
from core_jax.pod.topology import Slice
from core_jax.remat import Remat
from core_jax.weights import count
from videodit_jax.config import TrainConfig
from videodit_jax.model import forward_flops
from videodit_jax.run import abstract_parts
from videodit_jax.step import refuse_misfit

TRIES, MOST = 6, 12


class Of(enum.Enum):
    """Whose step is planned."""

    TRAIN = "train"
    SAMPLE = "sample"


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to lay a run out, with a guess that only orders the candidates."""

    config: TrainConfig
    seconds: float
    bytes: float


class Tried(NamedTuple):
    """A candidate and what the compiler made of it."""

    config: TrainConfig
    found: Plan


SEARCHED = Remat.NONE, Remat.ATTENTION, Remat.FULL
"""Not PRODUCTS, which is for GPUs: `1.3b` in two microbatches on v5p-32 takes 5.48 s by the compiler's cycles and 42.5 GiB of activations with it,
4.58 s with ATTENTION."""


def planned(config: TrainConfig, of: Of) -> TrainConfig:
    """The config with one shape of clips: of training that of the bucket with most tokens, whose step has most in memory; of sampling its own."""
    return config.largest if of is Of.TRAIN else config.at(config.video)


def candidates(config: TrainConfig, which: Slice, of: Of) -> list[Candidate]:
    """All meshes (powers of two over fsdp, context and tensor, data across slices alone) that divide the batch, the tokens and the heads,
    for training with each remat policy and number of microbatches."""
    devices = which.chips * which.chip.devices
    tokens, model = planned(config, of).tokens, config.model
    parameters = count(abstract_parts(config))
    powers = [2**i for i in range(devices.bit_length())]
    found = []
    for context, tensor in itertools.product(powers, powers):
        if devices % (which.slices * context * tensor) or tokens % context or model.heads % tensor or model.mlp % tensor:
            continue
        rows = devices // (context * tensor)
        shape = MeshConfig(data=which.slices, fsdp=rows // which.slices, context=context, tensor=tensor)
        for accumulate in (1, 2, 4, 8, 16) if of is Of.TRAIN else (1,):
            if config.batch % (accumulate * rows):
                continue
            for remat in SEARCHED if of is Of.TRAIN else (model.remat,):
                changed = dataclasses.replace(
                    config, mesh=shape, model=dataclasses.replace(model, remat=remat),
                    optimizer=dataclasses.replace(config.optimizer, accumulate=accumulate),
                )  # fmt: skip
                found.append(guess(changed, which, of, parameters))
    return found


def guess(config: TrainConfig, which: Slice, of: Of, parameters: int) -> Candidate:
    """Seconds and bytes of one device, roughly: state, saved and live activations; FLOPs at 60 % of peak, what is saved, and what each axis must send.

    Attention at the rate of its schedule, as the estimate has it, changes the seconds but not which six are compiled: tried for `1.3b` on v5e-16 and
    v6e-16, `1.07b` on v5e-16, `14b` on v5p-128 and tpu7x-128.
    """
    chip, on, model = which.chip, config.mesh, config.model
    E, F, L, K = model.width, model.mlp, model.layers, config.optimizer.accumulate
    one = planned(config, of)
    S, devices, frozen = one.tokens, which.chips * chip.devices, config.lora.rank > 0
    flops = forward_flops(model, one.clip, frozen)
    rows = config.batch // (K * on.data * on.fsdp)
    here = rows * S / on.context
    if of is Of.SAMPLE:
        times = config.sampling.evaluations
        saved, state, executed, passes = 0, 2, times * flops.forward, times
    else:
        saved = {Remat.NONE: 44 * E + (48 * E + 10 * F) / on.tensor, Remat.ATTENTION: 2 * E + 2 * E / on.tensor, Remat.FULL: 2 * E}[model.remat]
        state, executed, passes = 2 if frozen else 20, flops.executed(model.remat), 2.0 if frozen else 3.0
    live = here * (8 * F / on.tensor + 24 * E) + rows * S * 12 * E / on.tensor
    size = state * parameters / (on.fsdp * on.tensor) + L * here * saved + live
    w = 2 * chip.link
    seconds = config.batch * executed / devices / (0.6 * chip.peak)
    seconds += K * L * here * 4 * saved / chip.hbm_bandwidth  # into the stack of layers and out of it, each by way of a copy
    seconds += K * passes * 2 * parameters / on.tensor * (1 - 1 / on.fsdp) / w
    seconds += K * L * rows * S * 2 * E / on.tensor * 7 / 3 * passes * (1 - 1 / on.context) / w
    seconds += K * L * here * 2 * E * 4 * passes * (1 - 1 / on.tensor) / w
    return Candidate(config, seconds, size)


def divides(config: TrainConfig, which: Slice) -> bool:
    """Whether the config's mesh has the slice's devices and divides its batch, tokens, heads and parameters."""
    devices = which.devices()
    try:
        refuse_misfit(config, mesh.build(config.mesh, devices))
    except ValueError:
        return False
    return True


def search(
    config: TrainConfig, which: Slice, of: Of, plan: Callable[[TrainConfig, Slice], Plan], say: Callable[[str], None],
    tries: int = TRIES, most: int = MOST,
) -> list[Tried]:  # fmt: skip
    """Compiles the layout that the config has, where the slice has it, then candidates until enough are known; returns all that were tried.

    Args:
      tries: programs that are compiled once one is known to fit.
      most: programs that are compiled if none fits.

    Raises:
      ValueError: no mesh divides the batch, the tokens and the heads.
    """
    known, devices = candidates(config, which, of), which.chips * which.chip.devices
    limit = which.chip.hbm
    likely = sorted((one for one in known if one.bytes < limit), key=lambda one: one.seconds)
    rest = sorted((one for one in known if one.bytes >= limit), key=lambda one: one.bytes)
    ways = [(one.config, f"a guess: {one.seconds:.3g} s, {one.bytes / GIB:.1f} GiB") for one in likely + rest]
    if divides(config, which):  # what a preset has was chosen for it, and the guess is a rough one
        ways.insert(0, (dataclasses.replace(config, mesh=MeshConfig(*config.mesh.shape(devices))), "as asked for"))
    tried: list[Tried] = []
    for number, (way, why) in enumerate(ways, 1):
        if len(tried) >= (tries if any(not found.misfit for _, found in tried) else most):
            break
        if describe(way) in [describe(before) for before, _ in tried]:
            continue
        if not divides(way, which):  # the model cuts more than those dims, and attention in ways that a user may have chosen
            continue
        say(f"compiling {number} of {len(ways)} candidates: {describe(way)} ({why})")
        tried.append(Tried(way, plan(way, which)))
    if not tried:
        raise ValueError(
            f"no mesh over the {devices} devices of {which} divides a batch of {config.batch} clips of "
            f"{planned(config, of).tokens} tokens and {config.model.heads} heads: take a larger --batch or a smaller slice"
        )
    return tried


def describe(config: TrainConfig) -> str:
    return f"{mesh.described(dataclasses.asdict(config.mesh))}; remat {config.model.remat.value}; {config.optimizer.accumulate} microbatch(es)"


def best(tried: list[Tried]) -> Tried:
    """The fastest that fits by the estimate, or the one nearest to fitting."""
    fits = [one for one in tried if not one.found.misfit]
    return min(fits, key=lambda one: one.found.estimate.step) if fits else min(tried, key=lambda one: one.found.misfit.needed)


def table(tried: list[Tried]) -> Table:
    shown = Table("tried", title=f"{len(tried)} programs compiled", title_justify="left")
    for name in ("GiB a device", "estimated s", "estimated MFU", "binds"):
        shown.add_column(name, justify="right")
    for config, found in tried:
        if found.misfit:
            shown.add_row(describe(config), f"{found.misfit.needed / GIB:.2f}", "does not fit", "", "")
        else:
            figures = f"{found.hbm['total'] / GIB:.2f}", f"{found.estimate.step:.3g}", f"{found.mfu:.1%}", found.estimate.binds
            shown.add_row(describe(config), *figures)
    return shown


SETTLED = (*(f"--mesh.{axis}" for axis in AXES), "--model.remat", "--optimizer.accumulate")
"""flags of train that a plan settles"""


def flags(config: TrainConfig, found: Plan) -> list[str]:
    """Those flags with the plan's values."""
    values = *found.mesh.values(), config.model.remat.value, config.optimizer.accumulate
    return [word for name, value in zip(SETTLED, values) for word in (name, str(value))]
