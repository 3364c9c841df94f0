"""The contact sheet of a video: the score curve with what was cut and kept, and a film strip around each transition.

One HTML file, pictures inside, so that it can be sent and opened anywhere.
"""

import html
from collections.abc import Callable

import numpy as np
from etils import epath
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

from core_jax.files import write_bytes
from koala_jax.inline import data_url
from koala_jax.shots.record import Record

HEIGHT = 90
"""of a frame in a strip, in pixels"""
WIDEST = 400
"""pixels of a frame in a strip, of which a wider video shows the middle"""
CURVE_WIDTH, CURVE_HEIGHT = 1200, 120
OLD, MIXED, KEPT = "#64748b", "#e11d48", "#16a34a"

STYLE = """body{font:14px system-ui,sans-serif;margin:24px;background:#fff;color:#111;max-width:1400px}
h1{font-size:18px}img{display:block;max-width:100%}figure{margin:0 0 18px}figcaption{margin-bottom:4px}
table{border-collapse:collapse}td,th{padding:3px 12px;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child,td:last-child{text-align:left}.error{color:#b91c1c}.note{color:#64748b}svg{width:100%;height:auto;background:#f8fafc}"""

NOTE = '<p class="note">the detector\'s score over time; green: kept as a clip; red: a transition; neither: left out, as doubtful or too short</p>'


def strip(pictures: UInt8[np.ndarray, "T H W 3"], numbers: list[int], transition: dict) -> Image.Image:
    """Frames side by side, each with its number; those of the transition have a red bar."""
    T, H, W, _ = pictures.shape
    image = Image.new("RGB", (T * (W + 2), H + 18), "white")
    draw = ImageDraw.Draw(image)
    for k, (picture, number) in enumerate(zip(pictures, numbers)):
        inside = transition["start_frame"] <= number <= transition["end_frame"]
        image.paste(Image.fromarray(picture), (k * (W + 2), 18))
        draw.text((k * (W + 2) + 2, 3), str(number), fill=MIXED if inside else OLD)
        if inside:
            draw.rectangle((k * (W + 2), 14, k * (W + 2) + W, 17), fill=MIXED)
    return image


def curve(record: Record) -> str:
    """The score over time as SVG: green where a clip was kept, red where a transition was found."""
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
    return (
        f'<svg viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}">{boxes}<polyline points="{line}" fill="none" stroke="#1d4ed8"/>'
        f'<text x="4" y="12" font-size="11">{high:.2f}</text><text x="4" y="{CURVE_HEIGHT - 4}" font-size="11">{low:.2f}</text></svg>'
    )


def write(
    path: epath.Path, record: Record, read: Callable[[Float64[np.ndarray, " T"], tuple[int, int]], UInt8[np.ndarray, "T H W 3"]]
) -> None:
    """Writes the sheet; `read` gives the pictures shown at some seconds, in a size (H, W)."""
    size = (HEIGHT, min(max(16, round(HEIGHT * record.width / record.height)), WIDEST))
    figures = []
    for t, shown in zip(record.transitions, record.strips):
        numbers, seconds = zip(*shown)
        image = data_url(strip(read(np.array(seconds), size), numbers, t).save, "jpeg", quality=80)
        first, last = t["start_frame"], t["end_frame"]
        caption = f"{t['type']}, {f'frame {first}' if first == last else f'frames {first} to {last}'}, {t['start_s']:.2f} s, score {t['score']:.2f}"
        figures.append(f'<figure><figcaption>{caption}</figcaption><img src="{image}"></figure>')
    error = f'<p class="error">{html.escape(record.error)}</p>' if record.error else ""
    kept = sum(clip.end_frame - clip.start_frame for clip in record.clips)
    body = (
        f"<h1>{html.escape(record.source)}</h1>{error}<p>{record.frames} frames, {record.seconds:.1f} s, transitions: {len(record.transitions)}, "
        f"clips: {len(record.clips)}, which keep {kept / record.frames:.0%} of the frames</p>{curve(record)}{NOTE}{''.join(figures)}"
    )
    write_bytes(path, _page(record.source, body))


def write_index(path: epath.Path, rows: list[dict], sheets: dict[str, str]) -> None:
    """A table of all videos, rows of `sources`, with links to their sheets."""
    columns = ("source", "frames", "seconds", "transitions", "clips", "error")
    lines = []
    for row in rows:
        cells = {c: "" if row.get(c) is None else html.escape(f"{row[c]:.1f}" if c == "seconds" else str(row[c])) for c in columns}
        if row["source"] in sheets:
            cells["source"] = f'<a href="{sheets[row["source"]]}">{cells["source"]}</a>'
        lines.append("<tr>" + "".join(f'<td{" class=error" if c == "error" else ""}>{cells[c]}</td>' for c in columns) + "</tr>")
    head = "".join(f"<th>{c}</th>" for c in columns)
    note = f'<h1>{len(rows)} videos</h1><p class="note">a name leads to its contact sheet: what was cut, what was kept, and each transition</p>'
    write_bytes(path, _page("contact sheets", f"{note}<table><tr>{head}</tr>{''.join(lines)}</table>"))


def _page(title: str, body: str) -> bytes:
    return f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>{body}\n'.encode()
