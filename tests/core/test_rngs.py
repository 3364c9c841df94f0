"""Keys of new weights: flax's, without its history of them."""
import pathlib

import jax
import numpy as np
from flax import nnx

from core_jax.rngs import Rngs

ROOT = pathlib.Path(__file__).parents[2]


def test_keys_are_those_of_flax():
    """So weights are those that a seed gave before, also where each layer has a key of its own."""
    drawn = lambda rngs: jax.numpy.stack([jax.random.normal(rngs.params()) for _ in range(3)])
    np.testing.assert_array_equal(drawn(Rngs(7)), drawn(nnx.Rngs(7)))
    keys = jax.random.split(jax.random.key(1), 2)
    ours, theirs = (jax.jit(jax.vmap(lambda key, made=made: drawn(made(key))))(keys) for made in (Rngs, nnx.Rngs))
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) == 6


def test_no_model_is_made_of_the_slow_ones():
    found = [str(path) for package in ROOT.glob("*_jax") for path in package.rglob("*.py") if "nnx.Rngs(" in path.read_text()]
    assert not found, found
