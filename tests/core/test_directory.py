"""Another library's directory of weights: each tensor is read once, and what is broken is one sentence."""
import json
from collections import Counter

import jax
import numpy as np
import pytest

from core_jax.directory import stream
from core_jax.tensors import Tensors, save_file

SHAPES = {"a": jax.ShapeDtypeStruct((2, 3), np.float32), "b": jax.ShapeDtypeStruct((2, 4), np.float32)}
HELD = {"a": np.arange(6, dtype=np.float32).reshape(3, 2), "layer.0.b": np.zeros(4, np.float32), "layer.1.b": np.ones(4, np.float32)}


def streamed(folder):
    return stream(Tensors(folder), SHAPES, lambda ours: ["a"] if ours == "a" else ["layer.{}.b"], lambda ours, tensors, shape: tensors[0].T)


def test_each_tensor_is_read_once(tmp_path, monkeypatch):
    save_file(tmp_path / "model.safetensors", HELD)
    read, get = Counter(), Tensors.__getitem__
    monkeypatch.setattr(Tensors, "__getitem__", lambda self, name: read.update([name]) or get(self, name))
    model = streamed(tmp_path)
    np.testing.assert_array_equal(model["a"], HELD["a"].T)
    np.testing.assert_array_equal(model["b"], [[0] * 4, [1] * 4])
    assert read == dict.fromkeys(HELD, 1)


def test_a_broken_directory_is_one_sentence(tmp_path):
    def fails():
        with pytest.raises(ValueError) as error:
            streamed(tmp_path)
        return str(error.value)

    index = tmp_path / "model.safetensors.index.json"
    save_file(tmp_path / "one.safetensors", {name: array for name, array in HELD.items() if name != "a"})
    index.write_text(json.dumps({"weight_map": dict.fromkeys(HELD, "one.safetensors")}))
    assert "one.safetensors cannot be read as safetensors: " in fails()
    index.write_text(json.dumps({"weight_map": dict.fromkeys(HELD, "two.safetensors")}))
    assert "two.safetensors cannot be read as safetensors: " in fails()
    for wrong in (b"", b"\xff", b"[]", b"{}", b'{"weight_map": ["one.safetensors"]}', b'{"weight_map": {"a": 1}}'):
        index.write_bytes(wrong)
        assert fails() == f"{index} is no index of safetensors files: a JSON object is wanted whose weight_map names the file of each tensor"
