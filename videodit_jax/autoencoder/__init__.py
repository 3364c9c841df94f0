"""Latents instead of pixels: Wan 2.1's autoencoder. `model` is the network, `load` reads its weights, `codec` runs it on a mesh."""
from videodit_jax.autoencoder.model import CHANNELS, FRAMES, PIXELS

WAN = "wan2.1"
"""where a directory is asked for: the sizes alone, without weights"""


def latent_grid(video: tuple[int, int, int]) -> tuple[int, int, int]:
    """(T, H, W) of the latents of a video of (T, H, W).

    Raises:
      ValueError: it has none.
    """
    T, H, W = video
    if (T - 1) % FRAMES or H % PIXELS or W % PIXELS:
        raise ValueError(f"a video of {T} frames, {H}×{W} has no latents: {FRAMES}n + 1 frames, and multiples of {PIXELS} rows and columns, are wanted")
    return 1 + (T - 1) // FRAMES, H // PIXELS, W // PIXELS


__all__ = ["CHANNELS", "FRAMES", "WAN", "latent_grid"]
