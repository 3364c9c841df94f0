"""Our Video DiT is the model that its equations say: equal to a plain PyTorch writing, and to the public Wan 2.1."""
import pytest

pytest.importorskip("torch", reason="torch is in the `reproduce` extra")

from tests.reproduce.comparison import compare_block, compare_model, compare_training  # noqa: E402
from videodit_jax.flow import Target  # noqa: E402


@pytest.mark.parametrize("compare", [compare_block, compare_model])
def test_outputs_and_gradients_equal_the_twin(compare):
    difference = compare()
    assert difference.outputs < 1e-5
    assert difference.gradients < 1e-5


@pytest.mark.parametrize("target", [Target.V, Target.X0])
def test_training_goes_the_way_of_the_twin(target):
    difference = compare_training(target)
    assert difference.losses < 1e-4
    assert difference.weights < 1e-4


def test_arrangement_is_wan():
    pytest.importorskip("diffusers", reason="diffusers is in the `reproduce` extra")
    from tests.reproduce.wan import compare_wan

    assert compare_wan().outputs < 1e-4
    assert compare_wan(given=True, tuned=True).outputs < 1e-4
