"""HTML pages to look at: one style for all commands, nothing fetched from anywhere."""
import base64
import html
from collections.abc import Callable

from core_jax.files import in_memory

STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.4rem;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:2rem 0 .3rem;overflow-wrap:anywhere}
table{display:block;overflow-x:auto;border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}figure{margin:0}figcaption{font-size:12px;overflow-wrap:anywhere}img,svg{max-width:100%}
.note{color:#666}.error{color:#b91c1c}"""


def page(title: str, body: str, style: str = "") -> bytes:
    """A whole page: `title` as plain text, `body` as HTML, `style` as rules that are its own."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title><style>{STYLE}{style}</style>'
    return f'<!doctype html><html lang="en">{head}{body}</html>\n'.encode()


def data_url(save: Callable[..., None], kind: str, **options) -> str:
    """An address that holds a picture of this kind (jpeg, png, webp), so that a page can be sent as one file.

    Args:
      save: writes it into a file, as PIL's `Image.save` and matplotlib's `Figure.savefig` do, with these options.
    """
    picture = in_memory(lambda file: save(file, format=kind, **options))
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
