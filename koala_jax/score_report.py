"""`python -m koala_jax.score_report scores.parquet --keep "vtss > 2.5"`: one HTML page of a scored folder, to look at.

For every score its distribution and the clips at five quantiles, moving; where the two modes of a suitability score part; what each rule
would drop, and why. The page is one file without scripts.
"""
import dataclasses
import html
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import tyro
from jaxtyping import Bool, Float
from PIL import Image

from core_jax import cli
from core_jax.cores import cores
from core_jax.files import refuse_unwritable, write_bytes
from core_jax.numbers import COUNT, refuse
from core_jax.page import data_url, page as html_page
from core_jax.tables import of_table, read_table, texts
from core_jax.video import VideoError
from core_jax.video_worker import DecodePool
from core_jax.words import counted
from koala_jax.filter import apply, numbers, values, why_empty
from koala_jax.rules import Rule
from koala_jax.tsa.scale import THRESHOLD, split_modes

FAILED = 1000
"""clips that failed on the page, at most"""
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
BARS, WIDTH, HEIGHT = 40, 640, 110
THUMB, THUMB_FRAMES, THUMB_SECONDS = (90, 160), 12, 1.5
NOT_SCORES = ("frames", "seconds", "fps", "height", "width", "bits_per_pixel")
Pictures = Callable[[str], str]
"""file → what of it stands on the page"""
STYLE = """body{max-width:900px}td:last-child,th:last-child{text-align:left}.clips{display:flex;gap:8px;flex-wrap:wrap}figure{width:160px}h2 .note{font-weight:normal;font-size:15px}.picture{width:160px;height:90px;background:#eee}"""

ABOUT = """<p>Of each score: its unit, how many clips have which value, and the clips at the lowest (0%), at the quartiles and at the highest
(100%). What the scores mean stands in docs/score.md.</p>"""
SHARES = """moving_area unsteadiness clarity smooth_area fine_detail middle_detail blockiness brightness contrast dark_area bright_area saturation
duplicate_frames still_frames longest_still held_frames longest_held repeated_area transition"""
UNITS = {
    column: unit
    for unit, columns in {
        "1 to 5": "vtss", "no scale": "quality vtss_raw", "about 1 to 10": "aesthetic", "0 to 1": SHARES, "0 to about 110": "colourfulness",
        "pixels a frame, at 256 pixels of the longer side": "motion camera_motion subject_motion", "pixels a frame²": "shake",
        "levels of 255": "warp_error noise change jump flicker", "share of the picture": "letterbox overlay lettering faint_lettering",
    }.items()
    for column in columns.split()
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Show a table of scores as an HTML page."""

    scores: tyro.conf.Positional[str]
    """a table of koala_jax.score, in its folder beside the clips"""
    keep: tuple[str, ...] = ()
    """rules whose effect is shown, as koala_jax.filter takes them"""
    columns: tuple[str, ...] = ()
    """scores to show; all by default"""
    out: str = "scores.html"
    """the page to write"""
    workers: int = cores()
    """decoding processes"""

    def __post_init__(self):
        refuse_unwritable("--out", self.out, ".html")
        refuse(self, {COUNT: "workers"})


def histogram(x: Float[np.ndarray, "n"], lines: dict[str, float]) -> str:
    """Bars of the known values, with named vertical lines, as SVG."""
    bins = min(BARS, max(x.size, 8))
    counts, edges = np.histogram(x, bins)
    low, high = edges[0], edges[-1]
    place = lambda value: WIDTH * (value - low) / (high - low)  # noqa: E731
    bars = "".join(
        f'<rect x="{i * WIDTH / bins:.1f}" y="{HEIGHT * (1 - n / counts.max()):.1f}" width="{WIDTH / bins - 1:.1f}" '
        f'height="{HEIGHT * n / counts.max():.1f}" fill="#5b8db8"><title>{edges[i]:.3g} to {edges[i + 1]:.3g}: {counted(n, "clip")}</title></rect>'
        for i, n in enumerate(counts)
    )
    inside = [(name, place(value)) for name, value in lines.items() if low <= value <= high]
    marks = "".join(_mark(name, x, 12 + 14 * i) for i, (name, x) in enumerate(inside))
    ends = f'<text x="0" y="{HEIGHT + 14}">{low:.3g}</text><text x="{WIDTH}" y="{HEIGHT + 14}" text-anchor="end">{high:.3g}</text>'
    ends += f'<text x="{WIDTH / 2}" y="{HEIGHT + 14}" text-anchor="middle" fill="#666">highest bar: {counted(counts.max(), "clip")}</text>'
    size = f'viewBox="0 0 {WIDTH} {HEIGHT + 18}" width="{WIDTH}"'
    return f'<svg {size} font-size="12" role="img" aria-label="how many clips have which value">{bars}{marks}{ends}</svg>'


def _mark(name: str, x: float, y: float) -> str:
    """A vertical line, its name at this height, on the side that has room, legible on bars too."""
    side = 'text-anchor="end" dx="-4"' if x > WIDTH / 2 else 'dx="4"'
    text = f'<text x="{x:.1f}" y="{y}" {side} fill="#c33" stroke="#fff" stroke-width="4" paint-order="stroke">{html.escape(name)}</text>'
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}" stroke="#c33"/>{text}'


def thumbnail(path: str, pool: DecodePool) -> str:
    """The address of a picture of the middle of a clip, moving. Raises VideoError."""
    info = pool.probe(path)
    length = min(THUMB_SECONDS, info.duration)
    begin = info.seconds[0] + (info.duration - length) / 2
    frames = pool.read_clip(path, begin + length * (np.arange(THUMB_FRAMES) + 0.5) / THUMB_FRAMES, THUMB)
    first, *rest = map(Image.fromarray, frames)
    return data_url(first.save, "webp", save_all=True, append_images=rest, duration=int(1000 * length / THUMB_FRAMES), loop=0, quality=60)


def section(name: str, table: pa.Table, files: list[str], shown_as: Pictures, rules: list[Rule]) -> str:
    """One score: its distribution and the clips at its quantiles."""
    x = values(table, name)
    known = np.flatnonzero(np.isfinite(x))
    unit = f' <span class="note">{UNITS[name]}</span>' if name in UNITS else ""
    title = f'<h2 id="{html.escape(name)}">{html.escape(name)}{unit}</h2>'
    if not known.size:
        return f'{title}<p class="note">no clip has a value{html.escape(why_empty(table, name))}</p>'
    if np.allclose(x[known], x[known[0]], rtol=1e-9, atol=1e-12):  # numbers that differ in their last digits alone have no bars
        return f'{title}<p class="note">{x[known[0]]:.4g} for all {known.size} clips that have a value</p>'
    bounds = ((rule, rule.value(x)) for rule in rules if rule.column == name)
    lines = {f"{rule} ({bound:.3g})" if rule.percentile else str(rule): bound for rule, bound in bounds}
    note = f"{known.size} of {x.size} clips have a value"
    if name == "vtss":
        modes = split_modes(x)
        lines |= {f"valley {modes.threshold:.3g}": modes.threshold}
        note += (
            f". The two modes lie about {modes.means[0]:.2f} and {modes.means[1]:.2f} and part at {modes.threshold:.2f}; Koala-36M keeps what is above "
            f"{THRESHOLD}. The split explains {modes.between:.0%} of the variance (one bell curve: 64%)"
        )
    order = known[np.argsort(x[known], kind="stable")]
    shown = [order[round(q * (order.size - 1))] for q in QUANTILES]
    clips = "".join(
        f"<figure>{shown_as(files[i])}<figcaption>{q:.0%}: {x[i]:.4g}<br>{html.escape(files[i])}</figcaption></figure>"
        for q, i in zip(QUANTILES, shown)
    )
    return f'{title}{histogram(x[known], lines)}<p class="note">{note}.</p><div class="clips">{clips}</div>'


def rules_section(table: pa.Table, rules: list[Rule], files: list[str], shown_as: Pictures) -> str:
    """What each rule drops, alone and with others, and some clips of these: first what it alone drops, last what has no value."""
    kept, figures = apply(table, rules)
    dropped = {str(rule): ~rule.keeps(values(table, rule.column)) for rule in rules}
    rows = "".join(
        f"<tr><td>{html.escape(row['rule'])}</td><td>{row['drops']}</td><td>{row['alone']}</td><td>{row['unknown']}</td>"
        f"<td>{html.escape(', '.join(f'{other}: {n}' for other, n in row['shared'].items() if n))}</td></tr>"
        for row in figures["rules"]
    )
    body = f"<h2>What the rules drop</h2><p>{figures['kept']} of {figures['clips']} clips stay.</p><table><tr><th>rule</th><th>drops</th><th>alone</th>"
    body += f"<th>no value</th><th>together with</th></tr>{rows}</table>"
    unknown = {str(rule): np.isnan(values(table, rule.column)) for rule in rules}
    return body + "".join(_dropped(rule, dropped, unknown[rule], files, shown_as) for rule in dropped)


def _dropped(rule: str, dropped: dict[str, Bool[np.ndarray, "n"]], unknown: Bool[np.ndarray, "n"], files: list[str], shown_as: Pictures) -> str:
    figures, times = [], np.sum(list(dropped.values()), 0)
    for i in sorted(np.flatnonzero(dropped[rule]), key=lambda i: (unknown[i], times[i]))[: len(QUANTILES)]:
        others = [other for other, mask in dropped.items() if other != rule and mask[i]]
        why = "no value" if unknown[i] else f"also by {', '.join(others)}" if others else "by this rule alone"
        figures.append(f"<figure>{shown_as(files[i])}<figcaption>{html.escape(files[i])}<br>{html.escape(why)}</figcaption></figure>")
    return f'<h2>Dropped by {html.escape(rule)}</h2><div class="clips">{"".join(figures)}</div>' if figures else ""


def page(table: pa.Table, config: ReportConfig, shown_as: Pictures, style: str = "") -> bytes:
    """The whole page; `style` has rules of what stands of a file."""
    files, rules = [file or "" for file in texts(table, "file", config.scores)], [Rule.parse(text) for text in config.keep]
    shown = config.columns or [name for name in numbers(table) if name not in NOT_SCORES]
    links = " · ".join(f'<a href="#{html.escape(name)}">{html.escape(name)}</a>' for name in shown)
    parts = [f"<p>{links}</p>"] + ([rules_section(table, rules, files, shown_as)] if rules else [])
    parts += [section(name, table, files, shown_as, rules) for name in shown]
    errors = [(file, error) for file, error in zip(files, texts(table, "error", config.scores)) if error]
    if errors:
        rows = "".join(f"<tr><td>{html.escape(file)}</td><td>{html.escape(error)}</td></tr>" for file, error in errors[:FAILED])
        more = f": the first {FAILED} of {len(errors)} clips, which the table's column error has all" if len(errors) > FAILED else ""
        parts.append(f"<h2>Not, or not wholly, scored{more}</h2><table>{rows}</table>")
    seconds = values(table, "seconds")
    heading = f"Scores of {counted(table.num_rows, 'clip')}, {seconds[np.isfinite(seconds)].sum() / 60:.1f} minutes"
    return html_page(heading, f"<h1>{heading}</h1>{ABOUT}{''.join(parts)}", STYLE + style)


def main(args: list[str]) -> None:
    config, console = cli.parse(ReportConfig, args, "koala_jax.score_report"), cli.console()
    table = read_table(config.scores, ("file", "error"))
    if missing := {"file", "error", "seconds"} - set(table.column_names):
        raise ValueError(f"{config.scores} is no table of koala_jax.score: it has no column {', '.join(sorted(missing))}")
    made: dict[str, str] = {}
    page(table, config, lambda file: made.setdefault(file, ""))  # which clips are shown
    shown, rules = cli.progress("thumbnails", len(made), console), []
    with DecodePool(config.workers) as pool, shown as done:
        for i, (file, picture) in enumerate(zip(made, pool.each(lambda file: thumbnail(str(of_table(file, config.scores)), pool), made))):
            if isinstance(picture, VideoError):
                made[file] = f'<span class="note">{html.escape(picture.reason)}</span>'
            else:  # as a rule it is held once, however many scores show the clip
                made[file] = f'<div class="picture p{i}"></div>'
                rules.append(f".p{i}{{background-image:url({picture})}}")
            done()
    write_bytes(config.out, page(table, config, made.__getitem__, "".join(rules)))
    console.print(f"wrote {config.out}; open it in a browser")


if __name__ == "__main__":
    cli.run(main)
