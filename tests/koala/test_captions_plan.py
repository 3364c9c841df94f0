"""Captioning compiled for a TPU slice."""
import pytest

from koala_jax.captions.plan import PlanConfig, plan

pytest.importorskip("libtpu", reason="libtpu holds the TPU compiler")


def test_tower_prefill_and_decoding_compile_for_a_slice_and_their_weights_are_shared_out():
    config = PlanConfig(
        layers=1, tower_layers=1, vocabulary=4096, width=512, heads=4, mlp=1024, frames=1, prompt=512, batch=2, most=8,
    )  # fmt: skip
    figures = plan(config)
    assert figures["fits"] and figures["mesh"] == {"data": 1, "fsdp": 2, "context": 1, "tensor": 4}
    assert figures["parameters"] * 2 / 8 <= figures["weights"] < figures["parameters"] * 2 / 2
    assert figures["weights"] < figures["all"] < figures["limit"]
