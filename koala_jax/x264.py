"""x264 as what spoils a clip: what training sees has been through a codec, and is the same bytes again on every processor."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import av

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8


def encoded(clip: UInt8[np.ndarray, "T H W 3"], crf: int, **options: str) -> bytes:
    """An MP4 of 25 frames a second, coded on one thread.

    Args:
      crf: the rate factor, 0 (lossless) to 51 (worst).
      options: of x264, such as g; preset is veryfast unless told otherwise.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.thread_count = *clip.shape[1:3], "yuv420p", 1
        # without cpu-independent the code for AVX-512 codes the same frames otherwise now and then
        stream.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "cpu-independent=1", **options}
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
