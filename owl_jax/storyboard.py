"""A film on paper: key frames of its clips with the text that each follows, as PNG and as HTML."""
import html
import textwrap
from collections.abc import Iterable

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from core_jax.files import write_bytes
from core_jax.page import data_url, page
from core_jax.words import counted
from videodit_jax.media import write_png

SIDE, FRAMES, COLUMNS, MOST, LINES = 72, 3, 4, 48, 5
"""pixels of a frame's shorter side, about; frames of a clip, clips in a row, clips on a PNG, lines of a text there"""

Scene = tuple[UInt8[np.ndarray, "T H W 3"], str, bool]
"""a clip, the text that it follows, whether it begins a scene"""


def _strip(clip: UInt8[np.ndarray, "T H W 3"]) -> Image.Image:
    """First, middle and last frame side by side, small: a page has them all."""
    side = min(clip.shape[1:3])
    scale = max(1, SIDE // side)
    frames = clip[np.linspace(0, len(clip) - 1, FRAMES).round().astype(int)].repeat(scale, 1).repeat(scale, 2)
    return Image.fromarray(np.concatenate(list(frames), 1)).reduce(max(1, side // SIDE))


def _titled(number: int, text: str, seconds: float, cut: bool) -> str:
    return f"{number * seconds:.0f} s  {'(new scene) ' if cut and number else ''}{text}"


def write(stem: epath.Path, scenes: Iterable[Scene], clips: int, seconds: float) -> list[epath.Path]:
    """STEM.storyboard.png, of at most 48 clips evenly spaced, and STEM.storyboard.html, of all; one clip is in memory at a time.

    Args:
      clips: how many scenes come.
      seconds: of a clip.
    """
    shown = set(np.unique(np.linspace(0, clips - 1, min(clips, MOST)).round().astype(int)).tolist())
    cells, figures = [], []
    for number, (clip, text, cut) in enumerate(scenes):
        strip, title = _strip(clip), _titled(number, text, seconds, cut)
        figures.append(f'<figure><img alt="" src="{data_url(strip.save, "png")}"><figcaption>{html.escape(title)}</figcaption></figure>')
        if number in shown:
            cells.append((strip, title))
    width, height = cells[0][0].size
    titles = [textwrap.wrap(title, max(width // 6, 12), max_lines=LINES, placeholder=" …") for _, title in cells]
    text, font = 16 * max(map(len, titles)), ImageFont.load_default(12)
    columns = min(COLUMNS, len(cells))
    sheet = Image.new("RGB", (columns * (width + 6), -(-len(cells) // columns) * (height + text + 6)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, ((strip, _), lines) in enumerate(zip(cells, titles)):
        x, y = i % columns * (width + 6), i // columns * (height + text + 6)
        for k, line in enumerate(lines):
            draw.text((x, y + text - 16 * (len(lines) - k)), line, fill="black", font=font)
        sheet.paste(strip, (x, y + text))
    paths = [stem.parent / f"{stem.name}.storyboard{suffix}" for suffix in (".png", ".html")]
    write_png(paths[0], sheet)
    style = "body{display:flex;flex-wrap:wrap;gap:12px;max-width:none}h1{width:100%%;margin:0}figure{max-width:%dpx}img{image-rendering:pixelated}" % width
    title = f"{stem.name}: {counted(clips, 'clip')}, {clips * seconds:.0f} s"
    write_bytes(paths[1], page(title, f"<h1>{html.escape(title)}</h1>{''.join(figures)}", style))
    return paths
