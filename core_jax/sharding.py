"""Which array dim lies along which mesh axis: one table for the whole workspace.

Dims are the letters of WORKSPACE.md ("B S E"). A parameter is made with its dims as metadata (`nnx.Param(w, dims="E F")`), so no
model names a mesh axis. Dims are matched from the right: leading dims without a letter (stacked layers) stay whole.
"""
import dataclasses
import math
from collections.abc import Callable, Collection

import jax
import numpy as np
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

Axes = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Rules:
    """Array dim → mesh axes. A dim that is not named here stays whole, but for what `param_spec` does."""

    B: Axes = ("data", "fsdp")
    S: Axes = ("context",)
    K: Axes = ("tensor",)
    F: Axes = ("tensor",)
    V: Axes = ("tensor",)
    parameters: Axes = ("fsdp",)
    """each parameter, its gradient and its optimizer state are cut over these too"""

    def within(self, axes: Collection[str]) -> "Rules":
        """The same by these axes alone."""
        return Rules(**{dim: tuple(axis for axis in own if axis in axes) for dim, own in vars(self).items()})

    def spec(self, dims: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        """The placement of an array of this shape.

        Raises:
          ValueError: two dims ask for one axis, or an axis does not divide its dim.
        """
        letters = [None] * (len(shape) - len(dims.split())) + dims.split()
        axes = [getattr(self, letter, ()) if letter else () for letter in letters]
        used = [axis for dim in axes for axis in dim]
        if len(set(used)) < len(used):
            raise ValueError(f"dims {dims!r} put one mesh axis on two dims: {used}; change the table of sharding rules")
        for letter, size, dim_axes in zip(letters, shape, axes):
            pieces = _pieces(dim_axes, mesh)
            if size % pieces:
                raise ValueError(f"dim {letter} has size {size}, which mesh axes {dim_axes} of {pieces} devices do not divide")
        return PartitionSpec(*(dim or None for dim in axes))

    def param_spec(self, dims: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
        """As `spec`; then the largest dim that is still whole and divisible goes to the axes of `parameters` (stacked layers never do)."""
        axes = list(self.spec(dims, shape, mesh))
        stacked = len(shape) - len(dims.split())
        pieces = _pieces(self.parameters, mesh)
        free = [i for i in range(stacked, len(shape)) if axes[i] is None and shape[i] % pieces == 0]
        if pieces > 1 and free:
            axes[max(free, key=lambda i: shape[i])] = self.parameters
        return PartitionSpec(*axes)


RULES = Rules()


def _pieces(axes: Axes, mesh: Mesh | AbstractMesh) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)


def _is_variable(leaf) -> bool:
    return isinstance(leaf, nnx.Variable)


def shardings(tree: PyTree, mesh: Mesh, rules: Rules = RULES) -> PyTree:
    """The placement of every array of a model, its gradients or its optimizer state, as a tree of the same structure.

    Args:
      tree: arrays or shapes (`jax.eval_shape`); whatever is not a parameter with dims (a step counter), or has fewer (as Adafactor keeps of one),
        lies whole on every device.
    """

    def spec(dims, array):
        return PartitionSpec() if array.ndim < len(dims.split()) or array.size == 1 else rules.param_spec(dims, array.shape, mesh)

    def place(leaf):
        dims = leaf.get_metadata().get("dims") if _is_variable(leaf) else None
        if dims is None:
            return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), leaf)
        return jax.tree.map(lambda array: NamedSharding(mesh, spec(dims, array)), leaf)

    return jax.tree.map(place, tree, is_leaf=_is_variable)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples over the axes of B, everything else of the batch whole."""
    return NamedSharding(mesh, PartitionSpec(RULES.B))


def batch_pieces(mesh: Mesh | AbstractMesh) -> int:
    """Into how many a batch is cut."""
    return _pieces(RULES.B, mesh)


def refuse_undivided(flag: str, batch: int, mesh: Mesh) -> None:
    """Raises ValueError where the mesh does not divide the batch that a flag gave."""
    if batch % (pieces := batch_pieces(mesh)):
        raise ValueError(f"{flag} {batch} is not divided by the {pieces} devices of the mesh's axes {' and '.join(RULES.B)}")


def placed(shapes: PyTree, places: PyTree) -> PyTree:
    """Shapes that say where they lie: in these places, but for those that said so before."""
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or place), shapes, places)


def distribute(tree: PyTree, places: PyTree) -> PyTree:
    """Lays out numpy arrays that every host holds whole, each device taking its part; `places` is one for all, or a tree of them.

    `jax.device_put` would send each array whole to every device, to compare the hosts', and NaN equals nothing.
    """
    lay = lambda place, part: jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, place, lambda at: x[at]), part)
    with jax.transfer_guard("allow"):  # it is asked for, whatever a loop around it forbids
        return jax.tree.map(lay, places, tree)


def constrain(x: Array, dims: str) -> Array:
    """Tells the compiler where an activation lies, by those axes of the mesh (`jax.set_mesh`) that are left to it: not by those that code around it
    maps over by hand, nor by ours where a mesh of other axes is set."""
    mesh, auto = jax.sharding.get_abstract_mesh(), axis_sizes()
    if math.prod(auto.values()) == 1:
        return x
    here = RULES.within(auto)
    return jax.lax.with_sharding_constraint(x, here.spec(dims, x.shape, mesh))


def axis_sizes() -> dict[str, int]:
    """Sizes of the current mesh's axes in Auto mode."""
    mesh = jax.sharding.get_abstract_mesh()
    auto = zip(mesh.axis_names, mesh.axis_types, mesh.axis_sizes)
    return {name: size for name, kind, size in auto if kind == AxisType.Auto}


def in_batches(apply: Callable[[PyTree], PyTree], size: int, sharding: jax.sharding.Sharding, rows: PyTree) -> PyTree:
    """apply(rows), so many at a time, on the devices. A last batch that is not full is filled with copies, whose results fall away.

    Devices of several hosts need all of these to ask alike, and results that lie whole on each device.
    """
    number, parts = len(jax.tree.leaves(rows)[0]), []
    for start in range(0, number, size):
        some = np.minimum(np.arange(start, start + size), number - 1)
        parts.append(apply(distribute(jax.tree.map(lambda x: x[some], rows), sharding)))
    return jax.tree.map(lambda *parts: np.concatenate([np.asarray(part) for part in parts])[:number], *parts)
