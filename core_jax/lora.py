"""LoRA, and training a part of a model.

A linear map W stays as it is, and beside it stands a trained product of two thin matrices (Hu et al. 2021):

  y = W·x + (α / r) · B·(A·x),   A: E → r, B: r → F, B starts at zero
"""
import copy
import dataclasses
import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from core_jax.layers import Linear
from core_jax.numbers import COUNT, FINITE, refuse
from core_jax.weights import named


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Which linear maps get a product beside them, and how large it is."""

    rank: int = 16
    """r"""
    alpha: float = 32.0
    """α"""
    where: str = r"decoder\.layers\.(attention\.(q|k|v|out)|mlp\.(gate|up|down))"
    """a regular expression for the whole names of the linear maps"""

    def __post_init__(self):
        refuse(self, {COUNT: "rank", FINITE: "alpha"}, "lora")
        try:
            re.compile(self.where)
        except re.error as error:
            raise ValueError(f"{self.where!r} is no regular expression: {error}") from error


class LoRALinear(nnx.Module):
    """The equation above, for one map or for a stack of maps, one of each layer."""

    def __init__(self, base: Linear, rank: int, alpha: float, *, rngs: nnx.Rngs):
        letters, n, shape = base.w.get_metadata()["dims"].split(), base.contracted, base.w[...].shape
        stack, inputs, outputs = shape[: -len(letters)], shape[-len(letters) :][:n], shape[-len(letters) :][n:]

        def factors(key: PRNGKeyArray) -> tuple[Linear, Linear]:
            rngs = nnx.Rngs(key)
            a = Linear(inputs, (rank,), " ".join([*letters[:n], "n"]), bias=False, rngs=rngs)
            return a, Linear((rank,), outputs, " ".join(["n", *letters[n:]]), bias=False, scale=0.0, rngs=rngs)

        self.scale = alpha / rank
        self.base = base
        self.a, self.b = jax.vmap(factors)(jax.random.split(rngs.params(), *stack)) if stack else factors(rngs.params())

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.base(x) + (self.scale * self.b(self.a(x))).astype(x.dtype)

    def merged(self) -> Linear:
        """One linear map that does the same."""
        one, product = copy.copy(self.base), lambda a, b: jnp.tensordot(a, b, 1, precision="highest")
        if self.base.w[...].ndim > len(self.base.w.get_metadata()["dims"].split()):
            product = jax.vmap(product)
        weight = self.base.w[...] + self.scale * product(self.a.w[...], self.b.w[...])
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


def add_lora(model: nnx.Module, config: LoRAConfig, *, rngs: nnx.Rngs) -> nnx.Module:
    """The model with a product beside each map that `config.where` names; what it computes is still the same.

    Raises:
      ValueError: no linear map has such a name.
    """
    found = []

    def new(name: str, module: nnx.Module) -> nnx.Module | None:
        if isinstance(module, Linear) and re.fullmatch(config.where, name):
            found.append(name)
            return LoRALinear(module, config.rank, config.alpha, rngs=rngs)

    model = _with(model, new)
    if not found:
        raise ValueError(f"no linear map's name matches {config.where!r}; one of the names is decoder.layers.attention.q")
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


def combine(one: PyTree, other: PyTree) -> PyTree:
    """The model of its two parts."""
    is_leaf = lambda leaf: leaf is None or isinstance(leaf, nnx.Variable)
    return jax.tree.map(lambda a, b: b if a is None else a, one, other, is_leaf=is_leaf)
