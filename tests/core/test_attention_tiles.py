"""Tiles of the TPU kernel: how large, how many in a step, what padding to them costs."""

from __future__ import annotations

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp

from core_jax.attention.tiles import LANES, Tile, plan, query_block


@hypothesis.given(
    st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 512), st.sampled_from([64, 128]), st.sampled_from([128, 256]), st.sampled_from([0, 4])
)
def test_tiles(rows, columns, dim, mebibytes, mxu, bias):
    tiles = plan(rows, columns, dim, jnp.bfloat16, mebibytes << 20, mxu, bias)
    assert (bias + 4) * tiles.forward.q * tiles.forward.k <= mebibytes << 19
    for tile, most in ((tiles.forward, (8 * mxu, 2048)), (tiles.backward, (1024, 8 * mxu))):
        for size, length, largest in zip(dataclasses.astuple(tile), (rows, columns), most):
            assert size % LANES == 0 and size <= largest
            assert -(-length // size) * size - length < max(size, LANES)


def test_scores_are_turned_where_rows_pass_faster_than_a_turned_tile_is_taken_in():
    for mxu, dim, turned in (256, 64, True), (256, 128, True), (256, 129, False), (128, 64, False), (128, 128, False):
        assert plan(4096, 4096, dim, jnp.bfloat16, 96 << 20, mxu).turned is turned


def test_a_step_takes_as_many_tiles_as_fit():
    """Of three quarters of 128 MiB on a v5e or a v6e, and of 64 on a tpu7x."""
    for mebibytes, mxu, keys, queries in (96, 128, 16, 16), (96, 256, 16, 8), (48, 256, 8, 4):
        tiles = plan(75_600, 75_600, 128, jnp.bfloat16, mebibytes << 20, mxu)
        assert (tiles.key_chunk, tiles.query_chunk) == (keys, queries)


def test_text_keys_make_a_tile_of_their_own_size():
    assert plan(4096, 512, 128, jnp.bfloat16, 96 << 20).forward == Tile(1024, 512)


def test_query_blocks_are_even():
    """Of 48 MiB a step needs 20.9, with two tiles 22.5, and a tile of two heads 1."""
    for chunk, blocks in (1, [1, 14, 15, 27]), (2, [2, 14, 16, 20]):
        assert [query_block(tiles, 2, 128, "bfloat16", Tile(1024, 1024), chunk, 3 * 2**24) for tiles in (1, 28, 29, 80)] == blocks
