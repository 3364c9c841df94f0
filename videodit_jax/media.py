"""Of videos a contact sheet, a looping GIF, an MP4."""
import functools
import textwrap
from collections.abc import Iterable

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from core_jax.files import in_memory, write_bytes
from core_jax.video_out import write_video

LABEL, SIDE, COLUMNS = 16, 72, 8
"""pixels of a label's height, and, about, of a small frame's rows; frames of a sheet"""


def _scale(side: int) -> int:
    return max(1, SIDE // side)


def contact_sheet(videos: UInt8[np.ndarray, "B T H W 3"], labels: list[str]) -> Image.Image:
    """One row a video: its label above, up to COLUMNS of its frames, evenly spaced."""
    B, T, H, W, _ = videos.shape
    picked = np.unique(np.linspace(0, T - 1, min(COLUMNS, T)).round().astype(int))
    scale = _scale(H)
    cell_w, cell_h = W * scale + 2, H * scale + 4
    sheet = Image.new("RGB", (len(picked) * cell_w, B * (cell_h + LABEL)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, (video, label) in enumerate(zip(videos, labels)):
        top = row * (cell_h + LABEL)
        draw.text((2, top), textwrap.shorten(label, sheet.width // 6, placeholder=" …"), fill="black", font=font)
        for column, frame in enumerate(picked):
            sheet.paste(Image.fromarray(video[frame].repeat(scale, 0).repeat(scale, 1)), (column * cell_w, top + LABEL))
    return sheet


def tile(videos: UInt8[np.ndarray, "B T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    """All videos side by side in one, enlarged if small."""
    B, T, H, W, _ = videos.shape
    columns = int(np.ceil(np.sqrt(B)))
    rows = -(-B // columns)
    grid = np.full((T, rows * (H + 2), columns * (W + 2), 3), 255, np.uint8)
    for i, video in enumerate(videos):
        r, c = divmod(i, columns)
        grid[:, r * (H + 2) : r * (H + 2) + H, c * (W + 2) : c * (W + 2) + W] = video
    scale = _scale(H)
    return grid.repeat(scale, 1).repeat(scale, 2)


def write_gif(path: epath.PathLike, video: Iterable[UInt8[np.ndarray, "H W 3"]], fps: float) -> None:
    """A looping GIF of frames, an array or one after the other, of which a third, in at most 256 colours, is kept until all are written."""
    frames = map(Image.fromarray, video)
    hundredths = max(round(100 / fps), 2)  # the nearest that a GIF can say; less than two are shown as ten by browsers
    save = functools.partial(next(frames).save, format="gif", save_all=True, append_images=frames, duration=10 * hundredths, loop=0)
    write_bytes(path, in_memory(save))


def write_png(path: epath.PathLike, image: Image.Image) -> None:
    """A PNG, whole or not at all."""
    write_bytes(path, in_memory(functools.partial(image.save, format="png")))


def write_samples(stem: epath.Path, videos: UInt8[np.ndarray, "B T H W 3"], labels: list[str], fps: float) -> list[epath.Path]:
    """STEM.gif and STEM.mp4 (all videos side by side; in the MP4 one alone is as it is) and STEM.png (the contact sheet)."""
    paths = [stem.parent / f"{stem.name}{suffix}" for suffix in (".gif", ".mp4", ".png")]
    tiled = tile(videos)
    write_gif(paths[0], tiled, fps)
    write_video(paths[1], videos[0] if len(videos) == 1 else tiled, fps)
    write_png(paths[2], contact_sheet(videos, labels))
    return paths
