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
STYLE = """body{max-width:1500px}th{cursor:pointer;white-space:nowrap}th:hover{text-decoration:underline}td{vertical-align:top}
td:first-child{max-width:22rem;overflow-wrap:anywhere}td:nth-child(3),th:nth-child(3){text-align:left;cursor:auto}
td:nth-child(3){width:min(850px,52vw);height:82px;font-size:12px}td img{display:block;max-height:62px;max-width:min(850px,52vw)}"""
NOTE = """<p class="note">First what failed or broke off, then the videos with the smallest margin: by how much the decision was made that came nearest to
the other one (0: a toss). Its frames are shown, with a red bar where they were taken for a transition and an amber one where they were not. A name or a
picture leads to the contact sheet; a click on a heading sorts.</p>"""
SORT = """<script>document.querySelectorAll("th").forEach((th,i)=>{let up=-1;th.onclick=()=>{up=-up;const body=document.querySelector("tbody"),
value=row=>row.cells[i].dataset.v;[...body.rows].sort((a,b)=>{const x=value(a),y=value(b);
if(x===y||x===undefined||y===undefined)return(x===undefined)-(y===undefined);return up*(isNaN(x)||isNaN(y)?x.localeCompare(y):x-y)})
.forEach(row=>body.append(row))}})</script>"""


def write(path: epath.Path, rows: list[dict], records: dict[str, Record]) -> None:
    """Writes the page of `rows` of the table `sources`; the pictures and sheets that it leads to lie in sheets/."""
    sheets = path.parent / "sheets"
    there = {sheet.name for sheet in sheets.iterdir()} if sheets.is_dir() else set()
    order = sorted(rows, key=lambda row: (row["error"] is None, row.get("margin") is None, row.get("margin") or 0.0, row["source"]))
    head = "".join(f"<th>{name}</th>" for name in COLUMNS.values())
    folder = os.path.commonprefix([row["source"] for row in rows]).rpartition("/")[0]
    lines = "".join(_row(row, folder, records.get(row["source"]), there) for row in order[:SHOWN])
    more = f", of which the first {SHOWN} are here; sources.csv has all" if len(rows) > SHOWN else ""
    below = f'<p class="note">in {html.escape(folder)}</p>' if folder else ""
    body = f"<h1>{counted(len(rows), 'video')}{more}</h1>{below}{NOTE}<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>{SORT}"
    write_bytes(path, page(counted(len(rows), "video"), body, STYLE))


def _row(row: dict, folder: str, record: Record | None, there: set[str]) -> str:
    name = record and Source(record.source, record.bytes, record.mtime).name
    open_, close = (f'<a href="sheets/{html.escape(name)}.html">', "</a>") if f"{name}.html" in there else ("", "")
    source, below = (html.escape(name) for name in (row["source"], row["source"].removeprefix(f"{folder}/")))
    error = f'<div class="error">{html.escape(row["error"])}</div>' if row["error"] else ""
    look = f'{open_}<img alt="" loading="lazy" src="sheets/{html.escape(name)}.jpg">{close}' if f"{name}.jpg" in there else ""
    if record and record.doubt:
        found = any(t.items() <= record.doubt.items() for t in record.transitions)
        look += f"{'' if found else 'not taken for a transition: '}{html.escape(said(record.doubt))}"
    cells = [f'<td data-v="{source}">{open_}{below}{close}{error}</td>']
    for column in ("margin", "look", "seconds", "transitions", "clips"):
        value, decimals = row.get(column), {"margin": 2, "seconds": 1}.get(column, 0)
        cells.append(f"<td>{look}</td>" if column == "look" else "<td></td>" if value is None else f'<td data-v="{value}">{value:.{decimals}f}</td>')
    return f"<tr>{''.join(cells)}</tr>"
