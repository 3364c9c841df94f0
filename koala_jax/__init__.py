"""Curating video for training, after Koala-36M (arXiv 2410.08260): split, score, caption, filter, write."""
