"""Judging a model: `loss` on held-out clips, and VBench's dimensions of the videos that it makes (docs/evaluate.md).

    files, arrays ── clips (cut, shrunk) ─┬─ quality: flicker, motion, sharpness          in numpy and OpenCV, in decoding workers
                                          └─ embeddings ── consistency                    on the device
    all ── measure (one video) ── report (many: means, intervals, manifest) ── totals

`python -m videodit_jax.evaluate` puts them together.
"""
