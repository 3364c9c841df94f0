"""`python -m koala_jax.captions.benchmark`: what its flags refuse."""
import pytest

from koala_jax.captions import benchmark


@pytest.mark.parametrize(
    "flags, words",
    [("--width 100", "--width 100: 64, 128, 192 or a multiple of 256"), ("--vocabulary 1001", "at least 1002"), ("--batches 1 0", "--batches 1 0: at least 1"),
     ("--rounds 0", "--rounds 0: at least 1")],
)  # fmt: skip
def test_bad_flags(flags, words, fails):
    assert words in " ".join(fails(benchmark.main, flags.split()).replace("│", "").split())
