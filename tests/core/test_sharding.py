"""The table from dims to mesh axes."""
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from core_jax import mesh
from core_jax.mesh import MeshConfig
from core_jax.sharding import RULES, Rules, batch_sharding, constrain, refuse_undivided, shardings
from core_jax.weights import named

ON = mesh.build(MeshConfig(data=1, fsdp=4, tensor=2))


@pytest.mark.parametrize(
    "dims, shape, want",
    [
        ("E F", (32, 64), P("fsdp", "tensor")),
        ("F E", (64, 32), P("tensor", "fsdp")),
        ("E K D", (32, 4, 8), P("fsdp", "tensor", None)),
        ("n E", (6, 32), P(None, "fsdp")),
        ("E F", (2, 32, 64), P(None, "fsdp", "tensor")),
        ("E", (8, 3), P(None, None)),
        ("E E", (4, 8), P(None, "fsdp")),
        ("E", (7,), P(None)),
    ],
)
def test_parameters_follow_the_table_then_fsdp_takes_the_largest_dim_left(dims, shape, want):
    assert RULES.param_spec(dims, shape, ON) == want


@given(st.lists(st.sampled_from("EFDCMP"), min_size=1, max_size=3, unique=True), st.lists(st.integers(1, 12), min_size=3, max_size=3))
def test_no_axis_twice_and_every_axis_divides(letters, sizes):
    shape = tuple(2 * size for size in sizes[: len(letters)])
    used = RULES.param_spec(" ".join(letters), shape, ON)
    assert all(size % ON.shape[axis] == 0 for size, axis in zip(shape, used) if axis)
    assert len({axis for axis in used if axis}) == sum(axis is not None for axis in used)
    whole = [size for size, axis in zip(shape, used) if axis is None]
    assert "fsdp" in used or all(size % ON.shape["fsdp"] for size in whole), "what fsdp divides it gets"


def test_two_dims_on_one_axis_are_refused():
    with pytest.raises(ValueError, match="'S K' put one mesh axis on two dims.*tensor"):
        Rules(S=("tensor",)).spec("S K", (8, 8), ON)


def test_an_axis_that_does_not_divide_its_dim_is_refused():
    with pytest.raises(ValueError, match="dim K has size 3, which mesh axes .*tensor.* of 2 devices do not divide"):
        RULES.spec("B S K D", (4, 8, 3, 8), ON)


def test_a_batch_that_the_mesh_does_not_divide_is_refused_by_the_flag_that_gave_it():
    refuse_undivided("--batch", 8, ON)
    with pytest.raises(ValueError, match="--model.batch 6 is not divided by the 4 devices of the mesh's axes data and fsdp"):
        refuse_undivided("--model.batch", 6, ON)


class Layer(nnx.Module):
    def __init__(self):
        self.w = nnx.Param(jnp.zeros((32, 64)), dims="E F")
        self.plain = nnx.Param(jnp.zeros((32, 64)))


def test_optimizer_state_lies_where_its_parameter_lies():
    model = Layer()
    state = {"model": model, "opt": optax.adamw(1e-3).init(model), "step": jnp.zeros((), jnp.int32)}
    placed = {name: sharding.spec for name, sharding in named(shardings(state, ON)).items()}
    assert placed["model.w"] == placed["opt.0.mu.w"] == placed["opt.0.nu.w"] == RULES.param_spec("E F", (32, 64), ON)
    assert placed["step"] == placed["opt.0.count"] == placed["model.plain"] == placed["opt.0.mu.plain"] == P()


def test_an_optimizer_may_keep_less_than_its_parameter():
    """Adafactor keeps sums over rows and columns, and one number in their place where it keeps neither."""
    state = jax.eval_shape(optax.adafactor(1e-3, min_dim_size_to_factor=8).init, Layer())
    for place, array in zip(jax.tree.leaves(shardings(state, ON)), jax.tree.leaves(state)):
        assert place.spec == P() or array.shape == (32, 64)


def test_batches_and_activations():
    assert batch_sharding(ON).spec == P(("data", "fsdp"))
    x = jnp.zeros((4, 6, 2, 8))
    assert constrain(x, "B S K D") is x, "without a mesh there is nothing to do"
    with jax.set_mesh(ON):
        y = jax.jit(lambda x: constrain(x, "B S K D"))(x)
    assert y.addressable_shards[0].data.shape == (1, 6, 1, 8)


def test_activations_on_a_mesh_that_is_not_ours_or_is_partly_mapped_by_hand():
    x = jnp.zeros((4, 6, 2, 8))
    with jax.set_mesh(jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)):
        y = jax.jit(lambda x: constrain(x, "B S K D"))(x)
    assert y.addressable_shards[0].data.shape == (1, 6, 2, 8)
    on = mesh.build(MeshConfig(data=4, fsdp=2))
    with jax.set_mesh(on):
        inner = jax.shard_map(lambda x: constrain(x, "B S K D"), in_specs=P("data"), out_specs=P("data"), axis_names={"data"})
        y = jax.jit(inner)(jnp.zeros((8, 6, 2, 8)))
    assert y.addressable_shards[0].data.shape == (1, 6, 2, 8)


def test_parameters_may_be_cut_over_more_axes():
    on = mesh.build(MeshConfig(data=1, fsdp=2, context=2, tensor=2))
    wide = Rules(parameters=("fsdp", "context"))
    assert wide.param_spec("E F", (16, 32), on) == P(("fsdp", "context"), "tensor")
    assert RULES.param_spec("E F", (16, 32), on) == P("fsdp", "tensor")
    assert wide.param_spec("E", (6,), on) == P(None), "four pieces do not divide it"
