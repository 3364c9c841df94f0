"""Latents instead of pixels: the autoencoders of Wan 2.1 and Wan 2.2. `model` is the network, `load` reads its weights, `codec` runs it on a mesh."""
import dataclasses

FRAMES = 4
"""in a latent frame, but for the first, which is one alone"""


@dataclasses.dataclass(frozen=True)
class Latents:
    """What an autoencoder makes of a video."""

    channels: int
    """numbers in a latent pixel"""
    pixels: int
    """rows, and columns, of a video in it"""

    def grid(self, video: tuple[int, int, int]) -> tuple[int, int, int]:
        """(T, H, W) of the latents of a video of (T, H, W).

        Raises:
          ValueError: it has none.
        """
        T, H, W = video
        if (T - 1) % FRAMES or H % self.pixels or W % self.pixels:
            wanted = f"{FRAMES}n + 1 frames, and multiples of {self.pixels} rows and columns, are wanted"
            raise ValueError(f"a video of {T} frames, {H}×{W} has no latents of {self.channels} channels: {wanted}")
        return 1 + (T - 1) // FRAMES, H // self.pixels, W // self.pixels


SIZES = {"wan2.1": Latents(16, 8), "wan2.2": Latents(48, 16)}
"""of the autoencoders that are known, no two with as many channels; where a directory is asked for, a name gives the sizes alone, without weights"""
