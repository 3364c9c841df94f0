"""A drawn clip that moves."""
import cv2
import numpy as np


def moving_clip(frames: int = 36, size: tuple[int, int] = (72, 96)) -> np.ndarray:
    """Smooth texture that drifts, on which every degradation shows."""
    rng = np.random.default_rng(0)
    base = cv2.GaussianBlur(rng.integers(0, 255, (size[0], size[1] + 2 * frames, 3)).astype(np.uint8), (0, 0), 1.2)
    base = cv2.normalize(base, None, 20, 235, cv2.NORM_MINMAX)
    return np.stack([base[:, 2 * t : 2 * t + size[1]] for t in range(frames)])
