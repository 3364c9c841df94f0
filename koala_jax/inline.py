"""Pictures that lie inside a page or a question, so that it can be sent as one file."""
import base64
import io
from collections.abc import Callable


def data_url(save: Callable[..., None], kind: str, **options) -> str:
    """An address that holds a picture of this kind (jpeg, png, webp).

    Args:
      save: writes it into a file, as PIL's `Image.save` and matplotlib's `Figure.savefig` do, with these options.
    """
    buffer = io.BytesIO()
    save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
