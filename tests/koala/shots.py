"""Made shots: pictures that are alike within one and unlike between two."""
import numpy as np


def picture(seed, size):
    """Coloured blocks, wider than the frame, for a pan to pass over."""
    rng = np.random.default_rng(seed)
    h, w = size
    blocks = rng.integers(20, 236, (h // 30 + 1, (w + 80) // 30 + 1, 3))
    return np.kron(blocks, np.ones((30, 30, 1))).astype(np.uint8)[:h]


def stream(parts, size=(90, 160)):
    """Frames of (kind, seed, count): `pan` over a picture, `still` or `dissolve` from it to the next seed's."""
    frames = []
    for kind, seed, count in parts:
        image = picture(seed, size)
        for k in range(count):
            x = k // 4 % 80 if kind == "pan" else 0
            frame = image[:, x : x + size[1]]
            if kind == "dissolve":
                part = (k + 1) / (count + 1)
                frame = np.rint(frame * (1 - part) + picture(seed + 1, size)[:, : size[1]] * part).astype(np.uint8)
            frames.append(frame)
    return frames
