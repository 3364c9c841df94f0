"""Curating video for training, after Koala-36M (arXiv 2410.08260): split, score, caption, filter, write."""
import core_jax  # noqa: F401 -- before any module here imports pyarrow: core_jax/__init__.py says why
