"""The contact sheet of a video: the score curve with what was cut and kept, and a film strip around each transition.

One HTML file, pictures inside, so that it can be sent and opened anywhere.
"""

import functools
import html
import math
from collections.abc import Callable

import numpy as np
from etils import epath
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

from core_jax.files import in_memory, write_bytes
from core_jax.page import data_url, page
from koala_jax.shots.record import AROUND, Record

HEIGHT = 90
"""of a frame in a strip, in pixels"""
WIDEST = 400
"""pixels of a frame in a strip, of which a wider video shows the middle"""
ROW = 1600
"""pixels of a row of frames; the page, which is somewhat narrower, would make the numbers of a longer one too small to read"""
SHOWN = 500
"""transitions on a sheet, at most, and the one nearest to a doubt: about 23 MB, where all of a day's recording would be a page that no browser opens"""
CURVE_WIDTH, CURVE_HEIGHT, TICKS = 1200, 120, 10
OLD, MIXED, NEARLY, KEPT = "#64748b", "#e11d48", "#d97706", "#16a34a"

STYLE = "body{max-width:1400px}figure{margin:0 0 18px}svg{display:block;width:100%;font-size:11px;overflow:visible}"

NOTE = '<p class="note">the detector\'s score of each frame; green: kept as a clip; red: a transition; neither: left out, as doubtful or too short</p>'


def strip(pictures: UInt8[np.ndarray, "T H W 3"], numbers: list[int], transition: dict, colour: str, widest: float = math.inf) -> Image.Image:
    """Frames side by side, each with its number, in as many rows as no more than `widest` pixels want; those of the transition have a bar of this
    colour."""
    T, H, W, _ = pictures.shape
    rows = math.ceil(T / max(int(min(widest / (W + 2), T)), 1))
    columns = math.ceil(T / rows)
    image = Image.new("RGB", (columns * (W + 2), rows * (H + 18)), "white")
    draw = ImageDraw.Draw(image)
    for k, (picture, number) in enumerate(zip(pictures, numbers)):
        x, y = k % columns * (W + 2), k // columns * (H + 18)
        inside = transition["start_frame"] <= number <= transition["end_frame"]
        image.paste(Image.fromarray(picture), (x, y + 18))
        draw.text((x + 2, y + 3), str(number), fill=colour if inside else OLD)
        if inside:
            draw.rectangle((x, y + 14, x + W, y + 17), fill=colour)
    return image


def curve(record: Record) -> str:
    """The score of each frame as SVG: green where a clip was kept, red where a transition was found."""
    values = np.array(record.curve)
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 1.0)  # else what is next to nothing would look like peaks
    x = (np.arange(len(values)) + 0.5) / len(values) * CURVE_WIDTH
    y = (high - values) / (high - low) * (CURVE_HEIGHT - 20) + 10
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y))
    bands = [(clip.start_frame, clip.end_frame, KEPT, 0.15) for clip in record.clips]
    bands += [(t["start_frame"] - 0.5, t["end_frame"] + 0.5, MIXED, 0.6) for t in record.transitions]
    scale = CURVE_WIDTH / record.frames
    boxes = "".join(
        f'<rect x="{a * scale:.1f}" y="0" width="{max((b - a) * scale, 1):.1f}" height="{CURVE_HEIGHT}" fill="{colour}" opacity="{opacity}"/>'
        for a, b, colour, opacity in bands
    )
    power = 10 ** max(math.floor(math.log10(record.frames / TICKS)), 0)
    step = next(m * power for m in (1, 2, 5, 10) if m * power * TICKS >= record.frames)
    below = CURVE_HEIGHT + 14
    ticks = "".join(f'<text x="{k * scale:.1f}" y="{below}" text-anchor="middle">{k:,}</text>' for k in range(step, record.frames, step))
    ends = "".join(f'<text x="4" y="{at}" stroke="#fff" stroke-width="3" paint-order="stroke">{end:.2f}</text>' for at, end in ((12, high), (CURVE_HEIGHT - 4, low)))
    return (
        f'<svg viewBox="0 0 {CURVE_WIDTH} {below + 4}" role="img" aria-label="score of each frame"><rect width="{CURVE_WIDTH}" height="{CURVE_HEIGHT}" '
        f'fill="#f8fafc"/>{boxes}<polyline points="{line}" fill="none" stroke="#1d4ed8"/>{ends}<text y="{below}">frame</text>{ticks}</svg>'
    )


def write(
    path: epath.Path, record: Record, read: Callable[[Float64[np.ndarray, " T"], tuple[int, int]], UInt8[np.ndarray, "T H W 3"]]
) -> None:
    """Writes the sheet, and beside it, for the index, `path` as a .jpg: the decision that was nearest to the other one.

    Args:
      read: gives the pictures shown at some seconds, in a size (H, W).
    """
    height, width = record.shown or (record.height, record.width)
    size = (HEIGHT, min(max(16, round(HEIGHT * width / height)), WIDEST))
    figures, missed = [], [record.doubt] * (len(record.strips) - len(record.transitions))
    doubted = lambda t: bool(record.doubt) and t.items() <= record.doubt.items()  # noqa: E731
    strips = list(zip(record.transitions + missed, record.strips))
    for t, shown in strips[:SHOWN] + [one for one in strips[SHOWN:] if doubted(one[0])]:
        numbers, seconds = zip(*shown)
        pictures, colour = read(np.array(seconds), size), NEARLY if missed and t is missed[0] else MIXED
        picture = strip(pictures, numbers, t, colour, ROW)
        if doubted(t):
            few = slice(2, -2) if len(numbers) > 2 * AROUND + 1 else slice(None)
            middle = strip(pictures[few], numbers[few], t, colour)
            write_bytes(path.with_suffix(".jpg"), in_memory(functools.partial(middle.save, format="jpeg", quality=80)))
        figures.append(f'<figure><figcaption>{html.escape(said(t))}</figcaption><img alt="its frames" src="{data_url(picture.save, "jpeg", quality=80)}"></figure>')
    if missed:
        figures.insert(-1, "<h2>Not taken for a transition, though nearest to one</h2>")
    error = f'<p class="error">{html.escape(record.error)}</p>' if record.error else ""
    first = f" (the first {SHOWN} are shown)" if len(record.transitions) > SHOWN else ""
    kept = sum(clip.end_frame - clip.start_frame for clip in record.clips)
    clips = " ".join(f'<a href="../{html.escape(clip.file)}" title="{clip.start_s:.2f} to {clip.end_s:.2f} s">{k}</a>' for k, clip in enumerate(record.clips))
    body = (
        f"<h1>{html.escape(record.source)}</h1>{error}<p>{record.frames:,} frames, {record.seconds:.1f} s, transitions: {len(record.transitions)}{first}, "
        f"clips: {len(record.clips)}, which keep {kept / record.frames:.0%} of the frames{clips and f': {clips}'}</p>"
        f"{curve(record)}{NOTE}{''.join(figures)}"
    )
    write_bytes(path, page(record.source.rpartition("/")[2], body, STYLE))


def said(t: dict) -> str:
    """A transition in words."""
    first, last = t["start_frame"], t["end_frame"]
    return f"{t['type']}, {f'frame {first}' if first == last else f'frames {first} to {last}'}, {t['start_s']:.2f} s, score {t['score']:.2f}"
