"""Small video files made on the spot. Frame k is grey of level(k), with a red patch in its upper left corner."""
import os
import sys
import time
from fractions import Fraction

import av
import numpy as np

from core_jax.video_error import Unread


def level(k):
    return 30 + 8 * k


def picture(k, size=(48, 64)):
    image = np.full((*size, 3), level(k), np.uint8)
    image[: size[0] // 4, : size[1] // 4] = (230, 20, 20)
    return image


def make(path, count=20, *, codec="libx264", size=(48, 64), fps=25, stamps=None, pix_fmt="yuv420p", rotate=None, pixel=None, **options):
    """`stamps` in milliseconds make a variable rate; `rotate` is (degrees, hflip); `pixel` the aspect of one; `options` the encoder's."""
    images = [picture(k, size) for k in range(count)] if isinstance(count, int) else list(count)
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *images[0].shape[:2], pix_fmt
        stream.codec_context.gop_size, stream.bit_rate = 6, 4_000_000
        stream.options = {name.replace("_", "-"): str(value) for name, value in options.items()}
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotate is not None:
            stream.set_display_rotation(rotate[0], hflip=rotate[1])
        if pixel is not None:
            stream.codec_context.sample_aspect_ratio = Fraction(*pixel)
        for k, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            if stamps is not None:
                frame.time_base, frame.pts = Fraction(1, 1000), stamps[k]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sound(path):
    """A file without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def numbers(clip):
    """Which frame each picture of a clip is, from the grey of its lower right."""
    _, H, W, _ = clip.shape
    return np.rint((clip[:, H // 2 :, W // 2 :].mean((1, 2, 3)) - level(0)) / 8).astype(int).tolist()


def pid_of(source):
    """For a worker: its process."""
    return os.getpid()


def imported(source):
    """For a worker: what it has imported of what it should do without."""
    return sorted({"jax", "flax", "jaxtyping"} & set(sys.modules))


def refused(source):
    """For a worker: what FFmpeg raises where it does not take an argument, which is no OSError."""
    raise av.ArgumentError(22, "Invalid argument")


def counting(source, number, seconds):
    """For a worker: reports 0, 1 … with a pause before each, then the number."""
    for k in range(number):
        time.sleep(seconds)
        yield k
    return number


def unpicklable(source):
    """For a worker: a report that cannot be sent."""
    yield lambda: None


def unread_once(path):
    """For a worker: the number of the try, of which the first finds its bytes unreadable."""
    with open(path, "a") as tried:
        tried.write("x")
        if tried.tell() == 1:
            raise Unread(path, "503")
        return tried.tell()
