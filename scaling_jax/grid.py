"""The settings of a sweep."""
import dataclasses
import enum
import json
import math

from etils import epath

from core_jax import together
from core_jax.files import refuse_filled, refuse_unwritable, write_json
from core_jax.numbers import COUNT, FROM_0, POSITIVE, SEED, STATUS, refuse
from core_jax.settings import changes, refuse_changes, to_json
from scaling_jax import cost, results
from scaling_jax.cost import FlopsModel
from scaling_jax.flops import tokens
from scaling_jax.sizes import member


class Scale(enum.Enum):
    """Whose sizes and budgets."""

    OWN = "own"
    """those of --sizes, --budgets, --lrs, --batches"""
    PAPER = "paper"
    """the six sizes and five budgets of Yin et al. 2024, each at the batch and learning rate of its laws; with --dry-run"""


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Train a grid of sizes, budgets, batches, learning rates and seeds; the defaults are a small grid on `shapes`."""

    out: str = "runs/sweep"
    """folder of the sweep"""
    data: str | None = None
    """clips, as --data of videodit_jax.train; the preset's own by default"""
    preset: str = "tiny"
    """the family: by depth, 16·a²·s³ parameters at s layers, a = 16 for tiny and stories, else 128; narrow: by width, 512·s² at width 4·s"""
    sizes: tuple[int, ...] = (2, 3, 4, 5, 6)
    """sizes s of the family (scaling_jax/sizes.py); layers, of a family by depth"""
    budgets: tuple[float, ...] = (2.5e11, 5e11, 1e12, 2e12)
    """training FLOPs, as --flops counts them"""
    flops: FlopsModel = FlopsModel.CROSS_DIT
    """what counts as C: the layers alone, by ¾·N·(7 + n/E) a token, or all matrix products"""
    tokens: tuple[float, float] | None = None
    """fewest and most tokens that a size is trained on; budgets that take fewer or more are left out for it"""
    lrs: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    """learning rates"""
    batches: tuple[int, ...] = (8, 16, 32)
    """clips a step; each divides the largest and is a multiple of the smallest"""
    seeds: tuple[int, ...] = (0,)
    """seeds of the trials: each size, batch and learning rate once with each"""
    warmup: int = 20
    """steps over which the learning rate rises"""
    prune: bool = False
    """drop each (batch, lr) that by its own law will not catch up with the best of its size, see scaling_jax/prune.py"""
    eval_examples: int = 256
    """held-out clips"""
    stopped_status: int = 0
    """exit status of a sweep that a signal stopped before its end; Kubernetes needs one that is not 0, such as 143"""
    scale: Scale = Scale.OWN
    """own: the grid of the flags here; paper: the six sizes and five budgets of Yin et al. 2024, with --dry-run or --jobs"""
    dry_run: bool = False
    """list the runs, and their hours on --topology, and train nothing"""
    topology: str | None = None
    """a TPU slice such as v5e-16, for --dry-run"""
    jobs: str | None = None
    """write the runs here as one train command a line, for a cluster, and train nothing; `scaling_jax.collect` makes their table"""
    json: str | None = None
    """write what --dry-run lists here"""

    def __post_init__(self):
        refuse(self, {POSITIVE: "sizes budgets lrs batches", COUNT: "eval_examples", FROM_0: "warmup", SEED: "seeds", STATUS: "stopped_status"})
        for name in ("sizes", "budgets", "lrs", "batches", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"--{name} {' '.join(map(str, values))}: different positive numbers are wanted")
        if self.jobs:
            refuse_unwritable("--jobs", self.jobs)
        low, high = min(self.batches), max(self.batches)
        if bad := [batch for batch in self.batches if batch % low or high % batch]:
            raise ValueError(f"--batches {bad[0]}: must divide the largest, {high}, and be a multiple of the smallest, {low}")
        cost.TokenFlops(self.flops, preset=self.preset)  # or says that it does not count this family
        for size in self.sizes if self.scale is Scale.OWN else ():
            self.steps_of(size)
        if (self.topology or self.json) and not (self.dry_run or self.jobs):
            raise ValueError(f"--{'topology' if self.topology else 'json'} tells of runs that are listed: give --dry-run or --jobs FILE with it")
        if self.scale is Scale.PAPER and not (self.dry_run or self.jobs):
            raise ValueError("--scale paper takes TPU pods: give --dry-run to list its runs, or --jobs FILE for their commands")

    def budgets_of(self, size: int) -> list[float]:
        """The budgets of a size, in order.

        Raises:
          ValueError: none is left by --tokens.
        """
        token_flops = cost.of(member(self.preset, size), self.flops)
        low, high = self.tokens or (0, math.inf)
        if not (kept := sorted(C for C in self.budgets if low <= C / token_flops <= high)):
            raise ValueError(f"--tokens {low:g} {high:g}: no budget takes so many of size {size}, at {token_flops:.3g} FLOPs a token; leave that size out")
        return kept

    def steps_of(self, size: int) -> list[int]:
        """Steps of the largest batch that come nearest to each of `budgets_of`: so all batches of a budget see the same tokens.

        Raises:
          ValueError: a budget is less than one, or two are the same.
        """
        base, budgets, largest = member(self.preset, size), self.budgets_of(size), max(self.batches)
        one = largest * tokens(base) * cost.of(base, self.flops)
        steps = [round(C / one) for C in budgets]
        if len({0, *steps}) <= len(steps):
            raise ValueError(
                f"--budgets {' '.join(f'{C:g}' for C in budgets)}: a step of {largest} clips of size {size} takes {one:.3g} FLOPs, so these are "
                f"{', '.join(map(str, steps))} steps, and different numbers of at least 1 are wanted"
            )
        return steps

    def claim(self, out: epath.Path, fingerprint: str, unused: tuple[str, ...] = ()) -> None:
        """Writes the settings into the folder, or compares them with those of the sweep that it holds.

        Args:
          fingerprint: of the data.
          unused: its files that could not be used.

        Raises:
          ValueError: it holds another sweep, or something else.
        """
        kept = ("preset", "sizes", "budgets", "flops", "tokens", "lrs", "batches", "seeds", "warmup", "prune", "eval_examples")
        mine = {name: value for name, value in to_json(self).items() if name in kept}
        mine |= {"tokens": results.rounded(self.tokens), "fingerprint": fingerprint, "unused": unused}  # JSON knows no infinity
        path = out / "sweep.json"
        if path.exists():
            try:
                held = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} does not hold a sweep's settings: {error}") from error
            refuse_changes(out, changes(held, {name: value for name, value in mine.items() if name not in ("sizes", "unused") and name in held}), "sweep")
        else:
            refuse_filled(out, "sweep")
        if together.looked():
            write_json(path, mine)
