"""Files of weights: round trips, several for a large model, from a store, and what is no such file."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from core_jax import tensors
from core_jax.layers import MLP
from core_jax.rngs import Rngs
from core_jax.tensors import Tensors, holds, load_file, load_table, save_file
from core_jax.weights import fetch, named


def mlp() -> MLP:
    return MLP(4, 8, rngs=Rngs(0))  # four arrays of 16 to 128 bytes


def test_a_file_gives_back_what_was_saved(tmp_path):
    model = mlp()
    save_file(tmp_path / "deep" / "w.safetensors", model)
    loaded = load_file(tmp_path / "deep" / "w.safetensors", jax.eval_shape(lambda: mlp()))
    assert isinstance(loaded, MLP)
    jax.tree.map(np.testing.assert_array_equal, loaded, model)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["w.safetensors"], "no temporary file stays"


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


SEVERAL = ["w-00001-of-00003.safetensors", "w-00002-of-00003.safetensors", "w-00003-of-00003.safetensors", "w.safetensors.index.json"]


def test_a_large_model_is_several_files_each_fetched_alone(tmp_path, monkeypatch):
    model, seen = mlp(), []
    monkeypatch.setattr(tensors, "fetch", lambda array: seen.append("fetched") or fetch(array))
    monkeypatch.setattr(tensors, "write_bytes", lambda path, data: seen.append(path.name) or path.write_bytes(data))
    assert save_file(tmp_path / "w.safetensors", model, largest=150) == tmp_path / "w.safetensors.index.json"
    assert names(tmp_path) == SEVERAL and seen == ["fetched", "fetched", SEVERAL[0], "fetched", SEVERAL[1], "fetched", SEVERAL[2]]
    assert max(sum(array.nbytes for array in load_table(tmp_path / name).values()) for name in SEVERAL[:3]) <= 150
    table = Tensors(tmp_path, "w")
    assert set(table) == set(named(model))
    for name, array in named(model).items():
        np.testing.assert_array_equal(table[name], array)


def test_what_is_written_again_is_never_mixed_with_what_was_there(tmp_path, monkeypatch):
    path, model = tmp_path / "w.safetensors", mlp()
    save_file(path, model)
    save_file(path, model, largest=150)
    assert names(tmp_path) == SEVERAL, "the one file is gone"
    full = lambda path, data: (_ for _ in ()).throw(OSError("full")) if "2-of" in path.name else path.write_bytes(data)
    with monkeypatch.context() as broken:
        broken.setattr(tensors, "write_bytes", full)
        with pytest.raises(OSError):
            save_file(path, model, largest=150)
    assert not holds(tmp_path, "w"), "files of two models would be read as one"
    assert save_file(path, model) == path and holds(tmp_path, "w")
    save_file(path, model, largest=150)
    save_file(path, jax.tree.map(lambda x: x + 1, model))
    np.testing.assert_array_equal(Tensors(tmp_path, "w")["up.b"], model.up.b + 1)


def test_of_a_store_one_file_is_held_at_a_time(tmp_path, monkeypatch):
    save_file(tmp_path / "w.safetensors", mlp(), largest=150)
    read = []
    monkeypatch.setattr(tensors, "remote", lambda path: True)
    monkeypatch.setattr(type(epath.Path(tmp_path)), "open", lambda path, *rest: read.append(path.name) or open(path, *rest))
    table = Tensors(tmp_path, "w")
    for name, array in named(mlp()).items():
        np.testing.assert_array_equal(table[name], array)
        assert len(table._opened) == 1
    assert read[1:] == SEVERAL[:3], "each once, after the index"
    (tmp_path / SEVERAL[0]).write_bytes(b"no")
    with pytest.raises(ValueError, match="00001-of-00003.safetensors cannot be read as safetensors"):
        Tensors(tmp_path, "w")[next(iter(named(mlp())))]
    index = tmp_path / SEVERAL[3]
    index.write_text(json.dumps({"weight_map": {"up.b": SEVERAL[1], "gone": SEVERAL[2]}}))
    with pytest.raises(ValueError, match="00003-of-00003.safetensors cannot be read as safetensors: .*gone"):
        Tensors(tmp_path, "w")["gone"]
    save_file(tmp_path / "half.safetensors", {"w": jnp.ones(3, jnp.bfloat16)})
    assert Tensors(tmp_path, "half")["w"].dtype == jnp.bfloat16


def test_numbers_that_numpy_does_not_know_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors.torch").save_file({"w": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "w")
    with pytest.raises(ValueError, match="w holds numbers of type BF16, and F32, F16 or integers are wanted"):
        load_table(tmp_path / "w")


def test_a_file_that_is_no_safetensors_says_so(tmp_path):
    (tmp_path / "w").write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="w cannot be read as safetensors"):
        load_file(tmp_path / "w", mlp())
