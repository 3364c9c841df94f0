"""Checkpoints: state and data position together, back onto any mesh."""
import fcntl
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core_jax import mesh
from core_jax.checkpoint import Checkpoints, newest
from core_jax.layers import MLP
from core_jax.mesh import MeshConfig
from core_jax.rngs import Rngs
from core_jax.sharding import shardings
from core_jax.state import init

TX = optax.adam(1e-2)
FSDP, MIXED = mesh.build(MeshConfig(data=1, fsdp=8)), mesh.build(MeshConfig(data=2, fsdp=2, tensor=2))


def make(width: int = 16):
    state = init(lambda: MLP(width, 32, rngs=Rngs(1)), TX)
    return state.replace(step=jnp.asarray(5), opt_state=jax.tree.map(lambda x: x + 1, state.opt_state))


def same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_saved_on_one_mesh_restored_on_others(tmp_path):
    state = make()
    abstract = jax.eval_shape(make)
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    assert checkpoints.latest is None
    checkpoints.save(7, jax.device_put(state, shardings(abstract, FSDP)), 56)
    checkpoints.close()

    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    assert checkpoints.latest == 7
    for on, piece in ((FSDP, (2, 32)), (MIXED, (8, 16)), (mesh.build(devices=jax.devices()[:1]), (16, 32))):
        restored, position = checkpoints.restore(abstract, on)
        assert position == 56
        same(restored, state)
        assert restored.model.up.w[...].addressable_shards[0].data.shape == piece
        assert restored.opt_state[0].mu.up.w[...].addressable_shards[0].data.shape == piece
    checkpoints.close()


def test_a_save_leaves_no_thread(tmp_path):
    """And none of its open files, of which a long run would have too many."""
    before = set(threading.enumerate())
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.ones(3)}, step)
    checkpoints.close()
    assert not [thread for thread in threading.enumerate() if thread not in before and "_run_loop" in thread.name], "of which each has three"


@pytest.mark.parametrize("step", [2, 3])
def test_a_step_that_is_not_later_than_the_newest_is_refused(step, tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    checkpoints.save(3, {"x": jnp.ones(3)}, 24)
    with pytest.raises(ValueError, match=f"c holds the checkpoint of step 3: only later ones can be saved, not step {step}"):
        checkpoints.save(step, {"x": jnp.ones(3)}, 8 * step)
    checkpoints.save(4, {"x": jnp.ones(3)}, 32)
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "c").iterdir() if path.name.isdigit()) == ["3", "4"]


def test_a_relative_folder_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = Checkpoints("runs/x/checkpoints", keep=1)
    checkpoints.save(1, make(), 8)
    checkpoints.close()
    assert (tmp_path / "runs/x/checkpoints/1").is_dir()


def test_brackets_in_a_path_mean_themselves_where_checkpoints_are_read_and_are_refused_where_they_are_written(tmp_path):
    state = make()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=1)
    checkpoints.save(3, state, 8)
    checkpoints.close()
    moved = (tmp_path / "run").rename(tmp_path / "run [3]")
    assert newest(moved) == 3 and newest(tmp_path) == 0
    checkpoints = Checkpoints(moved / "checkpoints")
    same(checkpoints.restore_part("model", jax.eval_shape(make).model, FSDP), state.model)
    checkpoints.close()
    with pytest.raises(ValueError, match=r"run \[3\]/checkpoints could not be read again, for \[ in a path means a pattern: name another folder"):
        Checkpoints(moved / "checkpoints", keep=1)
    (tmp_path / "link [3]").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ValueError, match="means a pattern"):
        Checkpoints(tmp_path / "link [3]" / "checkpoints", keep=1)


def test_the_newest_are_kept_and_what_was_half_written_is_not_taken(tmp_path):
    state = make()
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state.replace(step=jnp.asarray(step)), 8 * step)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest == 3
    restored, position = checkpoints.restore(jax.eval_shape(make), FSDP)
    assert (restored.step, position) == (3, 24)
    checkpoints.close()


def test_those_of_multiples_of_so_many_steps_are_kept_too(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, every=4)
    for step in (2, 4, 6, 8, 10):
        checkpoints.save(step, {"x": jnp.zeros(1)}, step)
    checkpoints.close()
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [4, 8, 10]


def test_a_reader_takes_one_part_and_leaves_alone_what_a_trainer_is_writing(tmp_path):
    state = make()
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state.replace(ema=jax.tree.map(lambda x: x + 3, state.model)), 8)
    checkpoints.close()
    half = tmp_path / "2.orbax-checkpoint-tmp"
    half.mkdir()
    reader = Checkpoints(tmp_path)
    abstract = jax.eval_shape(lambda: make().model)
    ema = reader.restore_part("ema", abstract, FSDP)
    same(ema, jax.tree.map(lambda x: x + 3, state.model))
    assert ema.up.w[...].addressable_shards[0].data.shape == (2, 32)
    with pytest.raises(ValueError, match="down.b has shape"):
        reader.restore_part("ema", jax.eval_shape(lambda: make(24).model), FSDP)
    reader.close()
    assert half.is_dir()


def test_one_process_at_a_time_saves_into_a_folder(tmp_path):
    """A second one would clear away what the first is writing."""
    folder, half = tmp_path / "checkpoints", tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    half.mkdir(parents=True)
    (left := tmp_path / ".config.json.1f.part").touch()
    fcntl.flock(other := os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)
    with pytest.raises(ValueError, match=f"another process is training into {tmp_path}"):
        Checkpoints(folder, keep=1)
    Checkpoints(folder).close()
    assert half.is_dir() and left.exists()
    os.close(other)
    Checkpoints(folder, keep=1)  # as of a training that failed in a notebook, whose traceback keeps it
    Checkpoints(folder, keep=1).close()
    assert not left.exists()
    fcntl.flock(other := os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_in_a_store_a_checkpoint_counts_once_its_last_object_is_there(bucket, tmp_path):
    for step in (5, 7):
        (bucket / "checkpoints" / str(step) / "state" / "d").write_bytes(b"x")
    (bucket / "checkpoints" / "5" / "commit_success.txt").write_bytes(b"")
    assert newest(bucket) == 5
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    assert newest(tmp_path) == 3, "a folder is renamed when it is whole"


def test_a_later_change_of_the_state_does_not_reach_the_checkpoint(tmp_path):
    """Saving is asynchronous, and the next step donates the state's memory."""
    state = make()
    want = jax.device_get(state)
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state, 0)
    jax.jit(lambda state: jax.tree.map(jnp.zeros_like, state), donate_argnums=0)(state)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=1)
    same(checkpoints.restore(jax.eval_shape(make), FSDP)[0], want)
    checkpoints.close()


def test_a_slow_disk_does_not_keep_a_save(tmp_path, monkeypatch):
    """The files are written behind its back; a rename ends them."""
    go, rename = threading.Event(), os.rename
    monkeypatch.setattr(os, "rename", lambda *paths, **how: (go.wait(3), rename(*paths, **how)))
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, make(), 0)
    assert not (tmp_path / "1").exists()
    go.set()
    checkpoints.close()
    assert (tmp_path / "1").exists()


def test_another_models_checkpoint_and_a_damaged_one_are_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, make(), 0)
    checkpoints.wait()
    with pytest.raises(ValueError, match=r"model.down.b has shape \(16,\), and the model wants \(24,\)"):
        checkpoints.restore(jax.eval_shape(lambda: make(24)), FSDP)
    (tmp_path / "1" / "state" / "_METADATA").write_text("{")
    with pytest.raises(ValueError, match="the checkpoint .*/1 cannot be read; if it is damaged"):
        checkpoints.restore(jax.eval_shape(make), FSDP)
    checkpoints.close()
