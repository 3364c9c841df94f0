"""Made shots: pictures that are alike within one and unlike between two; as a video with sound, and back."""
from fractions import Fraction

import av
import numpy as np

from core_jax import video


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


def drain(generator):
    """What a generator returns."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def sounded(path, images, fps=25, codec="aac", rate=8000, begins=0.0):
    """A video with a tone from `begins` s on, H.264 (in .mpg MPEG-1) with a key frame every 6 frames."""
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg1video" if path.suffix == ".mpg" else "libx264", rate=fps)
        sound = out.add_stream(codec, rate=rate)
        picture.height, picture.width, picture.pix_fmt = *images[0].shape[:2], "yuv420p"
        picture.options = {"g": "6", "bf": "2"}
        tone = (0.3 * np.sin(np.arange(int(len(images) / fps * rate)) / 5)).astype(np.float32)
        for k, image in enumerate(images):
            out.mux(picture.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24")))
        out.mux(picture.encode())
        for k in range(int(begins * rate), len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, k : k + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, k, Fraction(1, rate)
            out.mux(sound.encode(frame))
        out.mux(sound.encode())
    return path


def rgb(path):
    return [pixels.astype(float) for *_, pixels in video.frames(path)]


def at_times(monkeypatch, path, times):
    """As if the frames of a file were shown at other times."""
    shown = [frame for *_, frame in video.decode(path)]
    monkeypatch.setattr(video, "decode", lambda *_: ((k, seconds, frame) for k, (seconds, frame) in enumerate(zip(times, shown))))
