"""How attention sees all tokens when they are cut over the mesh axis `context`: the choice, and what it cannot divide.

With the axis cut into groups of neighbours, an all-to-all inside each group trades tokens for heads (DeepSpeed Ulysses,
arXiv 2309.14509), and blocks of keys go round from group to group (Ring Attention, arXiv 2310.01889). One group is the
all-to-all alone, groups of one device are the ring alone.

What a device sends for S tokens of K heads on an axis of size c, in units of S·K·D/c numbers, forward: 2(c − 1) where
keys are gathered or sent round, about 4 for the all-to-all. Gathered keys also lie whole in memory; sent round, they
travel while the block before them is at work.
"""

from __future__ import annotations

import dataclasses
import enum
import math

from jaxtyping import Array, Float

from core_jax.attention.sharded import current_split
from core_jax.sharding import RULES, axis_sizes

SHORT_KEYS = 2048
"""Up to this many keys, AUTO gathers: a text's keys lie whole on every device anyway, and those of a short clip are few."""


@dataclasses.dataclass(frozen=True)
class Exchange:
    """`hops` groups of `group` neighbours each along the mesh axis `axis`: all-to-all inside a group, a ring of groups."""

    axis: str
    group: int
    hops: int

    def __str__(self) -> str:
        return f"heads over groups of {self.group}, a ring of {self.hops} along the mesh axis {self.axis}"


class Context(enum.Enum):
    """How queries meet keys that lie on other devices of the context axis. All agree; they differ in traffic and memory."""

    AUTO = "auto"
    """GATHER up to 2,048 keys or with a bias; else BOTH, which is ALL_TO_ALL or RING at its two ends."""
    GATHER = "gather"
    """Every device gathers all keys. Cross-attention to a text stays local, for there they are whole already."""
    ALL_TO_ALL = "all-to-all"
    """Every device takes all tokens of some heads."""
    RING = "ring"
    """Blocks of keys go round; what each adds is merged by its log-sum-exp."""
    BOTH = "both"
    """All-to-all among as many neighbours as divide the heads, a ring of such groups."""

    def exchange(self, q: Float[Array, "B S K D"], k: Float[Array, "B Skv Kkv D"], biased: bool) -> Exchange | None:
        """The exchange of a call on the current mesh; None where keys are gathered or the tokens are not cut.

        Raises:
          ValueError: a method asked for by name cannot divide the heads or the tokens, or there is a bias.
        """
        (axis,) = RULES.S
        size = axis_sizes().get(axis, 1)
        if size == 1 or self is Context.GATHER:
            return None
        (batch, rows, heads, _), (_, columns, kv_heads, _) = q.shape, k.shape
        undivided = next((f"{n} {what}" for n, what in ((rows, "queries"), (columns, "keys")) if n % size), None)
        if self is Context.AUTO:
            if columns <= SHORT_KEYS or biased or undivided:
                return None
        elif biased:
            raise ValueError(f"context {self.value} takes no bias: gather does")
        elif undivided:
            raise ValueError(f"context {self.value} needs tokens that the {size} devices of the mesh axis {axis} divide, got {undivided}")
        split = current_split(batch, rows, heads, kv_heads, 1)
        pieces = math.prod(axis_sizes()[name] for name in split.heads)
        divisor = math.gcd(heads // pieces, kv_heads // pieces, size)
        if self is Context.ALL_TO_ALL and divisor < size:
            raise ValueError(
                f"context {self.value} needs heads that the {size} devices of the mesh axis {axis} divide, got {heads // pieces} "
                f"heads and {kv_heads // pieces} key-value heads on each device: ring takes any, both exchanges heads in groups of {divisor}"
            )
        group = 1 if self is Context.RING else divisor
        return Exchange(axis, group, size // group)
