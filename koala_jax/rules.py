"""Rules that keep or drop clips by a column: "vtss > 2.5", "motion >= p20", "flicker < p95".

A bound is a number or a percentile (p20: the value that a fifth of the known values lie below). A clip without a value fails the rule.
"""
import dataclasses
import enum
import operator
import re

import numpy as np
from jaxtyping import Bool, Float


BLOCK, SLAB = 512, 8192
"""clips that are compared at a time, with so many of those that stay: 16 MB of cosines"""


class Comparison(enum.Enum):
    """How a value is held against the bound."""

    GREATER = ">"
    GREATER_EQUAL = ">="
    LESS = "<"
    LESS_EQUAL = "<="

    def __call__(self, values: Float[np.ndarray, "n"], bound: float) -> Bool[np.ndarray, "n"]:
        """NaN is false."""
        by = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
        return by[self.value](values, bound)


@dataclasses.dataclass(frozen=True)
class Rule:
    """column comparison bound."""

    column: str
    comparison: Comparison
    bound: float
    percentile: bool

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Raises ValueError where the text is no rule."""
        match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*(p?)([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*", text, re.IGNORECASE)
        if not match:
            raise ValueError(f'"{text}" is not a rule: a column, one of > >= < <=, and a number or a percentile, as in "vtss > 2.5" or "motion >= p20"')
        column, comparison, percentile, bound = match.groups()
        if percentile and not 0 <= float(bound) <= 100:
            raise ValueError(f'"{text}": a percentile lies between p0 and p100')
        return cls(column, Comparison(comparison), float(bound), bool(percentile))

    def __str__(self) -> str:
        return f"{self.column} {self.comparison.value} {'p' if self.percentile else ''}{repr(self.bound).removesuffix('.0')}"

    def value(self, values: Float[np.ndarray, "n"]) -> float:
        """The bound as a number."""
        known = values[np.isfinite(values)]
        if not self.percentile:
            return self.bound
        return float(np.percentile(known, self.bound)) if known.size else np.nan

    def keeps(self, values: Float[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
        """Which clips pass. Raises ValueError where a percentile is the lowest value and less is wanted, or the highest and more: of many equal values."""
        bound = self.value(values)
        passed = self.comparison(values, bound)
        if self.percentile and np.isfinite(bound) and not passed.any():
            known, sign = values[np.isfinite(values)], self.comparison.value
            end, equal = "lowest" if sign == "<" else "highest", str(self).replace(sign, f"{sign}=")
            raise ValueError(f'"{self}" keeps no clip: {(known == bound).sum():,} of {known.size:,} have the {end} value, {bound:.4g}; "{equal}" keeps them')
        return passed


def best(values: Float[np.ndarray, "n"], among: Bool[np.ndarray, "n"], number: int) -> Bool[np.ndarray, "n"]:
    """The `number` clips with the highest known values among those; the earlier one of equals."""
    candidates = np.flatnonzero(among & np.isfinite(values))
    order = np.argsort(-values[candidates], kind="stable")
    keep = np.zeros(len(values), bool)
    keep[candidates[order[:number]]] = True
    return keep


def distinct(embeddings: Float[np.ndarray, "n E"], among: Bool[np.ndarray, "n"], values: Float[np.ndarray, "n"], cosine: float) -> Bool[np.ndarray, "n"]:
    """Of clips that look alike only the best: from the highest value down, a clip stays unless one that stays lies within `cosine` of it.

    A clip without an embedding (NaN) is like no other; one without a value comes last. The work, products of matrices, grows with the square of
    the clips that stay. The embeddings become unit vectors where they lie: there may be gigabytes of them.
    """
    unit, number = embeddings, 0
    unit /= np.sqrt(np.einsum("nE,nE->n", unit, unit))[:, None]
    kept, stays = np.empty(len(unit), int), np.zeros(len(unit), bool)
    order = np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable")
    order = order[among[order]]
    for start in range(0, len(order), BLOCK):
        rows = order[start : start + BLOCK]
        block, new = unit[rows], np.ones(len(rows), bool)
        for slab in range(0, number, SLAB):
            new &= ~(block @ unit[kept[slab : min(slab + SLAB, number)]].T >= cosine).any(1)
        alike = block @ block.T >= cosine
        for i in np.flatnonzero(new):
            if new[i]:  # still: a better one of the block may have been like it
                new[i + 1 :] &= ~alike[i, i + 1 :]
        kept[number : number + new.sum()] = rows[new]
        number += new.sum()
        stays[rows[new]] = True
    return stays
