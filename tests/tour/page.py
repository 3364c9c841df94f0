"""The tour's last page: every hand-over with a line on what it is, the pictures, and the seconds of each step."""
import html
from pathlib import Path

from core_jax.files import write_bytes
from core_jax.page import page
from tests.tour.steps import Step

PICTURES = (".png", ".gif")
STYLE = """section{border-top:1px solid #ddd;margin-top:1.5rem}h2{margin:.8rem 0 .2rem}pre{white-space:pre-wrap;background:#f5f5f5;padding:.4rem}
ul{margin:.3rem 0}img{max-height:800px}figure{display:inline-block;margin:.4rem 1rem .4rem 0;vertical-align:top}figcaption,h2 span{color:#666;font-size:13px}"""


def _section(step: Step, command: str, seconds: float) -> str:
    links, figures = [], []
    for file, what in step.makes.items():
        link = f'<a href="{html.escape(file)}">{html.escape(file)}</a>'
        if file.endswith(PICTURES):
            figures.append(f'<figure><img alt="{html.escape(what)}" src="{html.escape(file)}"><figcaption>{link}: {html.escape(what)}</figcaption></figure>')
        else:
            links.append(f"<li>{link}: {html.escape(what)}</li>")
    log = f'<a href="logs/{step.name}.log">log</a>'
    return (
        f'<section id="{step.name}"><h2>{step.name} <span>{seconds:.0f} s, {log}</span></h2><pre>{html.escape(command)}</pre>'
        f"<ul>{''.join(links)}</ul>{''.join(figures)}</section>"
    )


def write(out: Path, done: list[tuple[Step, str, float]]) -> Path:
    """OUT/index.html of (step, its command, its seconds) in order; all links are relative, so the folder can be moved."""
    rows = "".join(f'<tr><td><a href="#{step.name}">{step.name}</a></td><td>{seconds:.0f}</td></tr>' for step, _, seconds in done)
    total = sum(seconds for *_, seconds in done)
    body = (
        f"<h1>From raw videos to a film</h1><table><tr><th></th><th>seconds</th></tr>{rows}<tr><td>in all</td><td>{total:.0f}</td></tr></table>"
        + "".join(_section(*one) for one in done)
    )
    path = out / "index.html"
    write_bytes(path, page("From raw videos to a film", body, STYLE))
    return path
