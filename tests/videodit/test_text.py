"""Captions as fixed-shape byte tokens, and the encoder of them."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from videodit_jax.text import WORD_BYTES, Reads, TextConfig

CONFIG = TextConfig(words=8, width=16)


@given(st.text(max_size=200))
def test_any_caption_gives_the_same_shapes(caption):
    tokens = CONFIG.tokenize(caption)
    codes, length = tokens["bytes"], tokens["length"]
    assert codes.shape == (8, WORD_BYTES) and codes.dtype == np.int32
    assert np.shape(length) == () and length.dtype == np.int32 and 0 <= length <= 8
    assert 0 <= codes.min() and codes.max() < 256
    assert not codes[length:].any()


def words(caption: str) -> list[str]:
    tokens = CONFIG.tokenize(caption)
    return [bytes(row[row > 0].astype(np.uint8)).decode() for row in tokens["bytes"][: tokens["length"]]]


def test_words_and_marks_in_lower_case_long_ones_in_pieces():
    assert words("A small RED circle, fast!") == ["a", "small", "red", "circle", ",", "fast", "!"]
    assert words("electroencephalography") == ["electroencep", "halography"]
    assert words("Größe 圆形") == ["größe", "圆形"]
    assert words(" \n\t") == []
    assert len(words("one two three four five six seven eight nine ten")) == 8


def test_features_tell_words_and_their_places_apart():
    encoder = CONFIG.build(rngs=nnx.Rngs(0))
    captions = ["red circle", "red square", "circle red", ""]
    tokens = jax.tree.map(lambda *rows: jnp.stack(rows), *map(CONFIG.tokenize, captions))
    features, lengths = encoder(tokens)
    assert features.shape == (4, 8, 16) and lengths.tolist() == [2, 2, 2, 0]
    np.testing.assert_array_equal(features[0, 0], features[1, 0])
    assert (jnp.abs(features[0, 1] - features[1, 1]) > 1e-3).any()
    assert (jnp.abs(features[0, 0] - features[2, 1]) > 1e-3).any(), "the same word elsewhere"


def test_given_features_count_with_the_zeros_behind_them_and_no_text_is_one_that_is_learned():
    config = TextConfig(words=4, width=3, reads=Reads.FEATURES)
    encoder, given = config.build(rngs=nnx.Rngs(0)), np.arange(6, dtype=np.float16).reshape(2, 3) + 1
    encoder.none[...] = jnp.array([7.0, 8.0, 9.0])
    tokens = jax.tree.map(lambda *rows: jnp.stack(rows), *map(config.tokenize, (given, "")))
    features, lengths = encoder(tokens)
    assert lengths.tolist() == [4, 4]
    assert features.tolist() == [[[1, 2, 3], [4, 5, 6], [0, 0, 0], [0, 0, 0]], [[7, 8, 9], [0, 0, 0], [0, 0, 0], [0, 0, 0]]]
    with pytest.raises(ValueError, match="reads features of a text encoder, and 'a circle' came as it is"):
        config.tokenize("a circle")
