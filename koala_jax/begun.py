"""What a training was begun with: OUT/config.json, which binds a rerun from the first checkpoint on, and nobody before."""
import json
from typing import Any

from etils import epath

from core_jax.checkpoint import newest, refuse_place
from core_jax.settings import changes, refuse_changes, to_json


def settings_of(config: Any, may_change: set[str]) -> dict[str, Any]:
    """A config's fields as JSON values, without those that a rerun may set otherwise."""
    return {name: value for name, value in to_json(config).items() if name not in may_change}


def refuse_other(out: epath.PathLike, settings: dict[str, Any]) -> None:
    """Raises ValueError where OUT holds a run that was begun with other settings, each named, or with unreadable ones, or can hold none."""
    refuse_place(out)
    path = epath.Path(out) / "config.json"
    if not newest(out) or not path.exists():
        return
    try:
        before = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} does not hold a training's settings: {error}") from error
    refuse_changes(out, changes(before, settings))
