"""A page to look at: how long captions are, what was caught, and each clip beside its parts."""
import collections
import html
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from core_jax.files import write_bytes
from core_jax.page import data_url, page
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax.captions.clips import Clip, sampler
from koala_jax.captions.schema import Part

SHOWN = 100
"""clips on the page, at most: the first ones with problems, then the first of the others"""

STYLE = """article{display:grid;grid-template-columns:24rem 1fr;gap:1.5rem;border-top:1px solid #ddd;padding:1rem 0}article h2{margin-top:0}
@media(max-width:45rem){article{display:block}}img{width:100%;max-height:44rem;object-fit:contain;object-position:left top}dt{font-weight:600;margin-top:.5rem}dd{margin:0;overflow-wrap:anywhere}"""


def write(path: epath.Path, clips: list[Clip], rows: list[dict[str, Any]], figures: dict[str, Any]) -> None:
    """Writes the page; pictures lie in it, so that it can be sent as one file."""
    order = sorted(range(len(rows)), key=lambda i: not (rows[i]["problems"] or rows[i]["failed"]))[:SHOWN]
    with DecodePool(1) as pool:
        sample = sampler(4, 320, pool)
        articles = [_article(clips[i], rows[i], sample) for i in order]
    table = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(text(value))}</td></tr>" for name, value in figures.items())
    title = f"Captions of {counted(len(rows), 'clip')}"
    lengths = f"<p><img src='{_lengths(rows)}' alt='words of captions' style='max-width:46rem'></p>"
    first = f"<p class=note>Of these the first {SHOWN} are here, those with problems before the others.</p>" if len(rows) > SHOWN else ""
    write_bytes(path, page(title, f"<h1>{title}</h1><table>{table}</table>{lengths}{first}{''.join(articles)}", STYLE))


def text(value: Any) -> str:
    """A figure of `summary` in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name} ({n})" for name, n in value.items()) or "none"
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _article(clip: Clip, row: dict[str, Any], sample: Callable[[Clip], UInt8[np.ndarray, "T H W 3"]]) -> str:
    wrong = collections.defaultdict(str, (entry.split(": ", 1) for entry in row["problems"]))
    try:
        frames = sample(clip)
        height, width = frames.shape[1:3]
        sheet = frames.reshape(2, 2, height, width, 3).swapaxes(1, 2).reshape(2 * height, 2 * width, 3)
        picture = data_url(Image.fromarray(np.ascontiguousarray(sheet)).save, "jpeg", quality=80)
        picture = f"<img src='{picture}' alt='four frames'>"
    except (ValueError, OSError) as error:
        picture = f"<p class=error>{html.escape(str(error))}</p>"
    parts = "".join(
        f"<dt>{part.value.replace('_', ' ')} <span class=error>{html.escape(wrong[part.value])}</span></dt>"
        f"<dd>{html.escape(row[part.value]) or '<span class=note>nothing</span>'}</dd>"
        for part in Part
    )
    return f"<article><div><h2>{html.escape(clip.name)}</h2>{picture}<p>{row['words']} words</p></div><dl>{parts}</dl></article>"


def _lengths(rows: list[dict[str, Any]]) -> str:
    """A histogram of the captions' words, and of each part's."""
    from matplotlib.figure import Figure

    figure = Figure((9, 3), layout="constrained")
    whole, parts = figure.subplots(1, 2)
    words = [row["words"] for row in rows if row["words"]]
    whole.hist(words, bins=range(0, max([300, *words]) + 20, 20), color="0.4")
    whole.set(xlabel="words of a caption", ylabel="clips")
    whole.yaxis.get_major_locator().set_params(integer=True)
    parts.boxplot([[len(row[part.value].split()) for row in rows if row[part.value]] for part in Part], orientation="horizontal")
    parts.set_yticks(range(1, len(Part) + 1), [part.value.replace("_", " ") for part in Part])
    parts.set(xlabel="words of a part", xlim=(0, max([100, *(len(row[part.value].split()) for row in rows for part in Part)])))
    parts.invert_yaxis()  # the first on top
    return data_url(figure.savefig, "png", dpi=110)
