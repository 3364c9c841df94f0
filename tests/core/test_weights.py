"""Arrays by name: what does not fit, digests."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from core_jax import mesh, weights
from core_jax.layers import MLP
from core_jax.mesh import MeshConfig
from core_jax.rngs import Rngs
from core_jax.weights import content, count, digest, named, renamed


def mlp(width: int = 4, seed: int = 0) -> MLP:
    return MLP(width, 8, rngs=Rngs(seed))


def test_names_are_the_path_of_attributes():
    assert set(named(mlp())) == {"up.w", "up.b", "down.w", "down.b"}
    assert list(named({"opt": (jnp.zeros(1), [jnp.zeros(2)])})) == ["opt.0", "opt.1.0"]
    assert count(mlp()) == 4 * 8 + 8 + 8 * 4 + 4


def test_what_does_not_fit_is_named():
    model = mlp()
    table = named(model)
    with pytest.raises(ValueError, match="missing.*'up.b'.*unknown none"):
        renamed(model, {name: array for name, array in table.items() if name != "up.b"})
    with pytest.raises(ValueError, match="missing none.*unknown.*'extra'"):
        renamed(model, table | {"extra": table["up.b"]})
    with pytest.raises(ValueError, match=r"down.b has shape \(4,\), and the model wants \(6,\); down.w has shape \(8, 4\), and .*; up.w"):
        renamed(mlp(width=6), table)


def test_the_digest_is_of_values_names_and_dtypes_not_of_places():
    model = mlp()
    on = mesh.build(MeshConfig(data=4, fsdp=2))
    spread = jax.device_put(model, NamedSharding(on, PartitionSpec()))
    spread.up.w = jax.device_put(model.up.w, NamedSharding(on, PartitionSpec("data", "fsdp")))
    spread.down.w = jax.device_put(model.down.w, NamedSharding(on, PartitionSpec("data")))
    assert digest(spread) == digest(model)
    ones = np.ones(2, np.float32)
    tables = [{"a": ones}, {"b": ones}, {"a": ones.view(np.int32)}, {"a": ones[:, None]}, {"a": np.nextafter(ones, 2)}]
    assert len({digest(table) for table in tables}) == len(tables)


@pytest.mark.parametrize("shape", [(), (3,), (1, 5, 2, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.bool_])
def test_the_content_of_an_array_is_a_sum_over_its_numbers(shape, dtype, monkeypatch):
    array = jnp.asarray(np.random.default_rng(0).integers(0, 9, shape)).astype(dtype)
    want = 0
    for place, bits in enumerate(np.asarray(array).view(f"u{array.itemsize}").ravel().tolist()):
        x = (weights.GOLDEN * place + bits) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        want += x ^ x >> 31
    assert content(array) == want % 2**64
    monkeypatch.setattr(weights, "PIECE", 4)
    assert content(array) == want % 2**64, "piece by piece"


def test_a_large_array_of_several_hosts_is_gathered_layer_by_layer(monkeypatch):
    on, asked, one = mesh.build(MeshConfig(fsdp=8, data=1)), [], np.arange(3 * 8 * 2, dtype=np.float32).reshape(3, 8, 2)
    array = jax.device_put(one, NamedSharding(on, PartitionSpec(None, "fsdp")))
    monkeypatch.setattr(type(array), "is_fully_addressable", False)

    def gather(x, tiled):
        asked.append(x.shape)
        whole = np.empty(x.shape, x.dtype)
        for shard in x.addressable_shards:
            whole[shard.index] = shard.data._value
        return whole

    monkeypatch.setattr(weights.multihost_utils, "process_allgather", gather)
    np.testing.assert_array_equal(weights.fetch(array, most=100), one)
    assert asked == [(8, 2)] * 3
    np.testing.assert_array_equal(weights.fetch(array), one)
    assert asked[3:] == [(3, 8, 2)]


def test_hosts_add_up_what_each_of_them_holds(monkeypatch):
    table, theirs = {"a": np.arange(6, dtype=np.float32)}, 2**63 + 5
    whole, sum_of_all = digest(table), content(jnp.asarray(table["a"]))
    monkeypatch.setattr(weights, "content", lambda _: (sum_of_all - theirs) % 2**64)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(weights.multihost_utils, "process_allgather", lambda x: np.stack([x, np.array([theirs], np.uint64).view(np.uint32)]))
    assert digest(table) == whole
