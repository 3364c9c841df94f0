"""LoRA, and training a part of a model.

A linear map W stays as it is, and beside it stands a trained product of two thin matrices (Hu et al. 2021):

  y = W·x + (α / r) · B·(A·x),   A: E → r, B: r → F, B starts at zero

Maps that are one array and whose results are cut apart (`Linear.parts`, as q, k and v) have a product each, as they would if they were several.
"""
import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from core_jax.layers import Linear
from core_jax.numbers import COUNT, POSITIVE, refuse
from core_jax.rngs import Rngs
from core_jax.weights import named


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Which linear maps get a product beside them, and how large it is."""

    rank: int = 16
    """rank r of the products"""
    alpha: float = 32.0
    """α: the products are scaled by α / r"""
    where: str = r"decoder\.layers\.(attention\.(q|k|v|out)|mlp\.(gate|up|down))"
    """regular expression that the whole name of a linear map has to match"""

    def __post_init__(self):
        refuse(self, {COUNT: "rank", POSITIVE: "alpha"}, "lora")
        try:
            re.compile(self.where)
        except re.error as error:
            raise ValueError(f"--lora.where {self.where!r} is no regular expression: {error}") from error


class LoRALinear(nnx.Module):
    """The equation above, for one map or for a stack of maps, one of each layer.

    The factors of maps "E n K D", whose results are cut apart, lie stacked over n too, behind the layers.
    """

    def __init__(self, base: Linear, rank: int, alpha: float, *, rngs: Rngs):
        letters, n, shape = base.w.get_metadata()["dims"].split(), base.contracted, base.w[...].shape
        stack, inputs, outputs, made = shape[: -len(letters)], shape[-len(letters) :][:n], shape[-len(letters) :][n:], letters[n:]
        self.apart = len(made) > 1 and made[0] == "n"
        if self.apart:
            stack, outputs, made = (*stack, outputs[0]), outputs[1:], made[1:]

        def factors(key: PRNGKeyArray) -> tuple[Linear, Linear]:
            rngs = Rngs(key)
            a = Linear(inputs, (rank,), " ".join([*letters[:n], "n"]), bias=False, rngs=rngs)
            return a, Linear((rank,), outputs, " ".join(["n", *made]), bias=False, scale=0.0, rngs=rngs)

        for _ in stack:
            factors = jax.vmap(factors)
        self.scale = alpha / rank
        self.base = base
        self.a, self.b = factors(jax.random.split(rngs.params(), stack))

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        if self.apart:
            return jnp.stack(self.parts(x), x.ndim - self.base.contracted)
        return self._beside(self.base(x), x, self.a, self.b)

    def parts(self, x: Float[Array, "..."]) -> Sequence[Float[Array, "..."]]:
        """As `Linear.parts`."""
        own = lambda i: jax.tree.map(lambda w: w[i], (self.a, self.b))
        return [self._beside(y, x, *own(i)) for i, y in enumerate(self.base.parts(x))]

    def _beside(self, y: Float[Array, "..."], x: Float[Array, "..."], a: Linear, b: Linear) -> Float[Array, "..."]:
        return y + (self.scale * b(a(x))).astype(x.dtype)

    def merged(self) -> Linear:
        """One linear map that does the same."""
        one, stacked = copy.copy(self.base), self.base.w[...].ndim - len(self.base.w.get_metadata()["dims"].split())
        product = lambda a, b: jnp.tensordot(a, b, 1, precision="highest")
        for _ in range(stacked + self.apart):
            product = jax.vmap(product)
        change = product(self.a.w[...], self.b.w[...])
        if self.apart:
            change = jnp.moveaxis(change, stacked, stacked + self.base.contracted)
        weight = self.base.w[...] + self.scale * change
        one.w = nnx.Param(weight.astype(self.base.w[...].dtype), **self.base.w.get_metadata())
        return one


def _with(model: nnx.Module, new: Callable[[str, nnx.Module], nnx.Module | None]) -> nnx.Module:
    """A copy of the model in which `new` has replaced modules by name; None leaves one as it is."""
    model = jax.tree.map(lambda x: x, model)
    for path, module in list(nnx.iter_modules(model)):
        made = new(".".join(map(str, path)), module) if path else None
        if made is not None:
            parent = functools.reduce(lambda at, key: at[key] if isinstance(key, int) else getattr(at, key), path[:-1], model)
            setattr(parent, path[-1], made)
    return model


def add_lora(model: nnx.Module, config: LoRAConfig, *, rngs: Rngs, within: str = "") -> nnx.Module:
    """The model with a product beside each map that `config.where` names; what it computes is still the same.

    Args:
      within: how the names of the maps begin that can have one, which `config.where` leaves out.

    Raises:
      ValueError: no linear map has such a name.
    """
    names, found = [], []

    def new(name: str, module: nnx.Module) -> nnx.Module | None:
        if isinstance(module, Linear) and name.startswith(within):
            names.append(name.removeprefix(within))
            if re.fullmatch(config.where, names[-1]):
                found.append(name)
                return LoRALinear(module, config.rank, config.alpha, rngs=rngs)

    model = _with(model, new)
    if not found:
        raise ValueError(f"--lora.where {config.where!r}: no linear map's name matches; there are {', '.join(names)}")
    return model


def merge_lora(model: nnx.Module) -> nnx.Module:
    """The model with each product added into the map that it stands beside."""
    return _with(model, lambda name, module: module.merged() if isinstance(module, LoRALinear) else None)


def is_lora(name: str) -> bool:
    """Whether an array of this name is a factor of a product."""
    return re.search(r"\.(a|b)\.w$", name) is not None


def partition(model: PyTree, trains: Callable[[str], bool]) -> tuple[PyTree, PyTree]:
    """Two trees of the model's structure: the parameters that train (by name), and the others; None stands for those of the other."""
    is_parameter = lambda leaf: isinstance(leaf, nnx.Variable)
    parameters, structure = jax.tree.flatten(model, is_leaf=is_parameter)
    chosen = [trains(name) for name in named(model)]
    pick = lambda keep: jax.tree.unflatten(structure, [p if c == keep else None for p, c in zip(parameters, chosen, strict=True)])
    return pick(True), pick(False)


def combine(one: PyTree, other: PyTree | None) -> PyTree:
    """The model of its two parts; None: the first is all of it."""
    if other is None:
        return one
    is_leaf = lambda leaf: leaf is None or isinstance(leaf, nnx.Variable)
    return jax.tree.map(lambda a, b: b if a is None else a, one, other, is_leaf=is_leaf)
