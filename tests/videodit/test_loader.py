"""One global stream: the same batches on every number of hosts, each example once an epoch, and a resume from a position."""
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_jax import mesh
from core_jax.mesh import MeshConfig
from core_jax.sharding import batch_sharding
from videodit_jax.data import loader as loaders
from videodit_jax.data.loader import epoch, global_epoch, loader


class Numbers:
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return {"id": i}


class Counted(Numbers):
    """That knows what was read."""

    def __init__(self, length):
        super().__init__(length)
        self.seen = []

    def __getitem__(self, i):
        self.seen.append(i)
        return super().__getitem__(i)


def encode(example):
    return {"id": np.int32(example["id"]), "half": np.float32(example["id"] / 2)}


def ids(source, batches, host=0, hosts=1, *, batch=6, seed=0, start=0):
    rows = np.split(np.arange(batch), hosts)[host]
    stream = loader(source, encode, seed=seed, batch=batch, rows=rows, start=start, threads=1)
    return np.stack([next(stream)["id"] for _ in range(batches)])


@settings(max_examples=10, deadline=None)
@given(length=st.integers(1, 40), seed=st.integers(0, 2**31), hosts=st.sampled_from([1, 2, 3]))
def test_an_epoch_visits_every_example_once_on_any_number_of_hosts(length, seed, hosts):
    source, batches = Numbers(length), -(-2 * length // 6)
    parts = [ids(source, batches, host, hosts, seed=seed) for host in range(hosts)]
    stream = np.concatenate(parts, axis=1).ravel()
    for first in (0, length):  # two epochs; a batch may lie over the seam
        assert sorted(stream[first : first + length]) == list(range(length))
    np.testing.assert_array_equal(stream, ids(source, batches, seed=seed).ravel())


def test_epochs_and_seeds_differ():
    stream = ids(Numbers(60), 20).ravel()
    assert (stream[:60] != stream[60:]).any() and (stream[:60] != np.arange(60)).any()
    assert (ids(Numbers(60), 10, seed=1).ravel() != stream[:60]).any()


def test_resumes_from_a_position_on_another_number_of_hosts_and_batch():
    source = Numbers(25)
    whole = ids(source, 12).ravel()
    for hosts in (2, 3):
        rest = np.concatenate([ids(source, 7, host, hosts, start=30) for host in range(hosts)], axis=1)
        np.testing.assert_array_equal(rest.ravel(), whole[30:])
    np.testing.assert_array_equal(ids(source, 10, batch=4, start=30).ravel(), whole[30:70])


def test_rows_may_be_any_of_the_batch():
    batch = next(loader(Numbers(25), encode, seed=0, batch=6, rows=[1, 4]))
    np.testing.assert_array_equal(batch["id"], ids(Numbers(25), 1)[0, [1, 4]])
    assert batch["half"].dtype == np.float32


def test_reads_ahead_while_the_caller_works():
    seen, ready = [], threading.Event()

    class Slow(Numbers):
        def __getitem__(self, i):
            seen.append(i)
            if len(seen) >= 5:
                ready.set()
            return {"id": i}

    stream = loader(Slow(50), encode, seed=0, batch=2, threads=1)
    next(stream)
    assert ready.wait(10), "nothing was read while the caller did not ask"


def test_as_many_are_read_at_once_as_there_are_threads():
    class Met(Numbers):
        def __init__(self, length):
            super().__init__(length)
            self.together = threading.Barrier(4, timeout=10)

        def __getitem__(self, i):
            self.together.wait()
            return {"id": i}

    next(loader(Met(50), encode, seed=0, batch=4, threads=4))
    global_epoch(Met(4), encode, mesh.build(devices=jax.devices()[:1]), batch=4, threads=4)


@pytest.mark.parametrize("threads, batches", [(1, 2), (4, 2), (6, 3), (50, 4)])
def test_as_many_batches_are_read_ahead_as_there_are_readers_for_but_two_to_four(threads, batches):
    source = Counted(500)
    stream = loader(source, encode, seed=0, batch=2, threads=threads)
    next(stream)
    until = time.monotonic() + 10
    while len(source.seen) < 2 + 2 * batches and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    assert len(source.seen) == 2 + 2 * batches


def test_an_evaluation_goes_through_in_order_and_weighs_what_fills_up():
    batches = list(epoch(Numbers(7), encode, batch=3))
    assert [list(b["id"]) for b in batches] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert [list(b["weight"]) for b in batches] == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
    assert [list(b["id"]) for b in epoch(Numbers(7), encode, batch=3, limit=2)] == [[0, 3, 3]], "evenly spaced"


@pytest.mark.parametrize("rows, reads", [(None, [*range(7)]), ([5, 6], [5, 6]), ([2, 7, 8], [2, 6]), ([8, 9], [6])])
def test_what_fills_up_is_read_once(rows, reads):
    """Also by a host that has nothing else."""
    source = Counted(7)
    whole, part = list(epoch(Numbers(7), encode, batch=10)), list(epoch(source, encode, batch=10, rows=rows, threads=4))
    np.testing.assert_equal(part, [{name: values[slice(None) if rows is None else rows] for name, values in batch.items()} for batch in whole])
    assert sorted(source.seen) == reads


def test_an_evaluation_is_shared_by_hosts_too():
    whole = list(epoch(Numbers(7), encode, batch=4))
    for rows in ([0, 3], [1, 2], [2]):
        for batch, part in zip(whole, epoch(Numbers(7), encode, batch=4, rows=rows), strict=True):
            np.testing.assert_equal(part, {name: values[rows] for name, values in batch.items()})


def test_an_evaluation_takes_no_device_memory_between():
    held = sum(x.nbytes for x in jax.live_arrays())
    again = global_epoch(Numbers(7), encode, mesh.build(), batch=8)
    assert sum(x.nbytes for x in jax.live_arrays()) <= held
    assert [list(batch["id"]) for batch in again()] == [list(batch["id"]) for batch in again()] == [[0, 1, 2, 3, 4, 5, 6, 6]]


def test_rows_that_several_hosts_hold_are_taken_from_one_of_them(monkeypatch):
    on = mesh.build(MeshConfig(data=2, context=2, tensor=2))
    rich = lambda example: {**encode(example), "none": np.float32(np.nan), "odd": np.bool_(example["id"] % 2), "least": np.int32(-example["id"])}
    whole = list(global_epoch(Numbers(7), rich, on, batch=4)())
    monkeypatch.setattr(loaders, "_shared", lambda on: True)
    shared = list(global_epoch(Numbers(7), rich, on, batch=4)())
    jax.tree.map(np.testing.assert_array_equal, shared, whole)
    np.testing.assert_array_equal(loaders._first(on)(np.where(np.arange(4)[:, None] == 0, np.arange(4), np.nan)), range(4))
    assert all(x.dtype == y.dtype and x.sharding == batch_sharding(on) for x, y in zip(jax.tree.leaves(shared), jax.tree.leaves(whole)))


@pytest.mark.parametrize("axes, shared", [(dict(data=8), False), (dict(data=4, context=2), False), (dict(data=2, context=4), True)])
def test_hosts_of_two_devices_share_rows_where_four_devices_hold_one(axes, shared):
    on = mesh.build(MeshConfig(**axes))
    host = np.vectorize(lambda device: SimpleNamespace(process_index=device.id // 2), otypes=[object])
    assert loaders._shared(SimpleNamespace(devices=host(on.devices), shape=on.shape)) is shared


def test_an_error_of_the_source_reaches_the_caller():
    class Broken(Numbers):
        def __getitem__(self, i):
            raise ValueError("no clip decodes")

    with pytest.raises(ValueError, match="no clip decodes"):
        next(loader(Broken(3), encode, seed=0, batch=2))


@pytest.mark.parametrize("length, rows, says", [(0, None, "holds no clip"), (3, [2], r"0 … 1, but are \[2\]")])
def test_bad_input_is_one_sentence(length, rows, says):
    with pytest.raises(ValueError, match=says):
        loader(Numbers(length), encode, seed=0, batch=2, rows=rows)


def test_costs_little_an_example():
    stream = loader(Numbers(1000), encode, seed=0, batch=32)
    next(stream)
    start = time.process_time()
    for _ in range(20):
        next(stream)
    assert (time.process_time() - start) / 640 < 1e-3  # about 80 µs on an idle core
