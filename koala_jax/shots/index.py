"""OUT/index.html: all videos of a folder on one page, those first that a person should look at."""
import html
import os

from etils import epath

from core_jax.files import write_bytes
from core_jax.page import page
from core_jax.words import counted
from koala_jax.shots.inputs import Source
from koala_jax.shots.record import Record
from koala_jax.shots.sheet import said

SHOWN = 5000
"""videos on the page, at most; a browser takes long over more"""
COLUMNS = {"source": "video", "margin": "margin", "look": "", "seconds": "seconds", "transitions": "transitions", "clips": "clips"}
STYLE = """body{max-width:1500px}th{white-space:nowrap}th button{all:unset;cursor:pointer}th button:hover{text-decoration:underline}
th button:focus-visible{outline:2px solid}th[aria-sort=ascending] button::after{content:" ↑"}th[aria-sort=descending] button::after{content:" ↓"}
td{vertical-align:top}td:first-child{min-width:9rem;max-width:22rem;overflow-wrap:anywhere}td:nth-child(3){text-align:left}
td:nth-child(3) div{width:clamp(13rem,100vw - 38rem,850px);min-height:82px;font-size:12px}td img{display:block;max-height:62px}"""
NOTE = """<p class="note">First what failed or broke off, then the videos with the smallest margin: by how much the decision was made that came nearest to
the other one (0: a toss). Its frames are shown, with a red bar where they were taken for a transition and an amber one where they were not. A name or a
picture leads to the contact sheet; a click on a heading sorts.</p>"""
SORT = """<script>document.querySelectorAll("th button").forEach(button=>{const th=button.parentElement;button.onclick=()=>{
const up=th.ariaSort==="ascending"?-1:1,body=document.querySelector("tbody"),value=row=>row.cells[th.cellIndex].dataset.v;
for(const other of th.parentElement.cells)other.ariaSort=null;th.ariaSort=up>0?"ascending":"descending";[...body.rows].sort((a,b)=>{const x=value(a),y=value(b);
if(x===y||x===undefined||y===undefined)return(x===undefined)-(y===undefined);return up*(isNaN(x)||isNaN(y)?x.localeCompare(y):x-y)})
.forEach(row=>body.append(row))}})</script>"""


def write(path: epath.Path, rows: list[dict], records: dict[str, Record]) -> None:
    """Writes the page of `rows` of the table `sources`; the pictures and sheets that it leads to lie in sheets/."""
    sheets = path.parent / "sheets"
    there = {sheet.name for sheet in sheets.iterdir()} if sheets.is_dir() else set()
    order = sorted(rows, key=lambda row: (row["error"] is None, row.get("margin") is None, row.get("margin") or 0.0, row["source"]))
    head = "".join(f"<th><button>{name}</button></th>" if name else "<th></th>" for name in COLUMNS.values())
    folder = os.path.commonprefix([row["source"] for row in rows]).rpartition("/")[0]
    lines = "".join(_row(row, folder, records.get(row["source"]), there) for row in order[:SHOWN])
    more = f'<p class="note">Of these the first {SHOWN:,} are here; sources.csv has all.</p>' if len(rows) > SHOWN else ""
    below = f'<p class="note">in {html.escape(folder)}</p>' if folder else ""
    found = ", ".join(counted(sum(row.get(f"{noun}s") or 0 for row in rows), noun) for noun in ("transition", "clip"))
    failed = sum(row["error"] is not None for row in rows)
    title = f"{counted(len(rows), 'video')}, {found}{f', {failed:,} failed or broke off' if failed else ''}"
    body = f"<h1>{title}</h1>{below}{NOTE}{more}<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>{SORT}"
    write_bytes(path, page(title, body, STYLE))


def _row(row: dict, folder: str, record: Record | None, there: set[str]) -> str:
    name = record and Source(record.source, record.bytes, record.mtime).name
    open_, close = (f'<a href="sheets/{html.escape(name)}.html">', "</a>") if f"{name}.html" in there else ("", "")
    source, below = (html.escape(name) for name in (row["source"], row["source"].removeprefix(f"{folder}/" if folder else "")))
    error = f'<div class="error">{html.escape(row["error"])}</div>' if row["error"] else ""
    look = f'{open_}<img alt="contact sheet" loading="lazy" src="sheets/{html.escape(name)}.jpg">{close}' if f"{name}.jpg" in there else ""
    if record and record.doubt:
        found = any(t.items() <= record.doubt.items() for t in record.transitions)
        look += f"{'' if found else 'not taken for a transition: '}{html.escape(said(record.doubt))}"
    cells = [f'<td data-v="{source}">{open_}{below}{close}{error}</td>']
    for column in ("margin", "look", "seconds", "transitions", "clips"):
        value, decimals = row.get(column), {"margin": 2, "seconds": 1}.get(column, 0)
        cells.append(f"<td><div>{look}</div></td>" if column == "look" else "<td></td>" if value is None else f'<td data-v="{value}">{value:.{decimals}f}</td>')
    return f"<tr>{''.join(cells)}</tr>"
